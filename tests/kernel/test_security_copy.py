"""SECURITY.md, `docker cp`: containers that race a copy with renames and links, and images that wait to be loaded."""

import asyncio
import contextlib
import ctypes
import gzip
import io
import lzma
import os
import signal
import tarfile
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from support.jobs import ForkedJobs

from boxwright.errdefs import Error, InvalidParameter

pytestmark = pytest.mark.root

ROUNDS = 60
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A container's root with /real/file; /real takes turns with a link to the victim in the race."""
    path = tmp_path / "root"
    (path / "real").mkdir(parents=True)
    (path / "real" / "file").write_text("inside")
    return path


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host; neither read nor changed."""
    path = tmp_path / "victim"
    path.mkdir()
    (path / "file").write_text("host")
    yield path
    assert [p.name for p in path.iterdir()] == ["file"]
    assert (path / "file").read_text() == "host"


def _swap(one: str, other: str) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    while True:
        library.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), _EXCHANGE)


@contextlib.contextmanager
def swapped(root: Path, target: str) -> Iterator[None]:
    """/real and a link to `target` change places as fast as they can."""
    (root / "link").symlink_to(target)
    process = get_context("fork").Process(target=_swap, args=(str(root / "real"), str(root / "link")), daemon=True)
    process.start()
    try:
        yield
    finally:
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()


def arguments(root: Path, path: str, **more: Any) -> dict[str, Any]:
    view = {"type": "bind", "source": str(root), "readonly": False, "lock": None}
    return {"view": view, "mounts": [], "readonly": False, "path": path, "name": "box", **more}


def read(root: Path, path: str, **more: Any) -> bytes:
    """The archive of `path`; b"" when the copy failed."""
    with open(os.memfd_create("out"), "w+b") as out, contextlib.suppress(Error):
        asyncio.run(ForkedJobs().run("container.read", arguments(root, path, **more), [out.fileno()]))
        return Path(f"/proc/self/fd/{out.fileno()}").read_bytes()
    return b""


def write(root: Path, path: str, archive: bytes, kind: str = "", user: str | None = None) -> None:
    args = arguments(root, path, kind=kind, keep_types=False, user=user)
    with open(os.memfd_create("in"), "w+b") as source:
        source.write(archive)
        source.seek(0)
        asyncio.run(ForkedJobs().run("container.write", args, [source.fileno()]))


def pack(*names: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"evil"))
    return data.getvalue()


class TestRaces:
    """CVE-2018-15664, CVE-2026-41568, CVE-2026-42306: the path is another one when it is used."""

    @pytest.mark.parametrize("path", ["/real/file", "/real/", "/real/../real/file"])
    def test_nothing_of_the_host_is_read(self, root: Path, victim: Path, path: str) -> None:
        inside = 0
        with swapped(root, str(victim)):
            for _ in range(ROUNDS):
                archive = read(root, path)
                assert b"host" not in archive
                inside += b"inside" in archive
        assert inside  # the race went both ways

    def test_nothing_of_the_host_is_written(self, root: Path, victim: Path) -> None:
        written = 0
        with swapped(root, str(victim)):
            for _ in range(ROUNDS):
                with contextlib.suppress(Error):
                    write(root, "/real", pack("file", "new/deep"))
                    written += 1
                with contextlib.suppress(Error):
                    write(root, "/", pack("real/file"))
        assert written

    def test_no_mount_point_is_made_on_the_host(self, root: Path, victim: Path, tmp_path: Path) -> None:
        """The volumes of a container at rest are mounted for the copy; their places are made where they are missing."""
        (tmp_path / "volume").mkdir()
        (tmp_path / "volume" / "kept").write_text("in the volume")
        seen = 0
        with swapped(root, str(victim)):
            for turn in range(ROUNDS):
                place = f"/real/made{turn}"
                mounts = [[place, str(tmp_path / "volume"), True, ""]]
                seen += b"in the volume" in read(root, f"{place}/kept", mounts=mounts)
        assert seen

    def test_links_of_an_archive_lead_inside(self, root: Path, victim: Path) -> None:
        (root / "out").symlink_to(victim)
        (root / "up").symlink_to("../" * 20 + str(victim)[1:])
        for name in ("out/new", "up/new", "../../up/new", str(victim) + "/new"):
            with contextlib.suppress(Error):
                write(root, "/", pack(name))


class TestLinks:
    """`linkTarget` is worked out by walking, and is sent in a header."""

    def target(self, root: Path, path: str) -> str:
        return str(asyncio.run(ForkedJobs().run("container.stat", arguments(root, path)))["stat"]["linkTarget"])

    def test_a_chain_of_long_links_is_given_up(self, root: Path) -> None:
        for number in range(200):
            (root / f"l{number}").symlink_to(f"l{number + 1}/" + "/".join(["a"] * 2000))
        with pytest.raises(InvalidParameter, match="too many links in /l0"):
            self.target(root, "/l0")

    def test_one_as_long_as_may_be_is_told(self, root: Path) -> None:
        text = "/".join(["a"] * 2040)
        (root / "long").symlink_to(text)
        assert self.target(root, "/long") == f"/{text}"


class TestNothingIsLoaded:
    """CVE-2019-14271, CVE-2026-41567: libraries, modules and decoders of the image are not touched."""

    PLANTED = (
        "usr/bin/xz", "usr/bin/unpigz", "usr/bin/unxz", "etc/nsswitch.conf", "etc/ld.so.cache", "etc/localtime",
        "lib/x86_64-linux-gnu/libnss_files.so.2", "traceback.py", "encodings/utf_8.py", "lzma.py", "etc/locale.alias",
    )  # fmt: skip

    @pytest.mark.parametrize("kind", ["", "xz", "gzip", "broken"])
    def test_planted_files_are_not_opened(self, root: Path, kind: str) -> None:
        (root / "etc").mkdir()
        (root / "etc" / "passwd").write_text("someone:x:12:34::/:/bin/sh\n")
        library = ctypes.CDLL(None, use_errno=True)
        watch = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert watch >= 0
        watched = {}
        for name in (*self.PLANTED, "etc/passwd"):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text("raise SystemExit('loaded')\n")
            path.chmod(0o755)
            watched[library.inotify_add_watch(watch, os.fsencode(path), 0x20)] = name  # IN_OPEN
        archive = pack("new")
        if kind == "xz":
            archive = lzma.compress(archive)
        elif kind == "gzip":
            archive = gzip.compress(archive)
        try:
            if kind == "broken":
                with pytest.raises(Error):
                    write(root, "/real", b"no archive" * 200, user="someone")
            else:
                write(root, "/real", archive, kind, user="someone")
                assert (root / "real" / "new").stat().st_uid == 12
            opened = {watched[int.from_bytes(os.read(watch, 16)[:4], "little")]}
            with contextlib.suppress(BlockingIOError):
                while event := os.read(watch, 16):
                    opened.add(watched[int.from_bytes(event[:4], "little")])
        finally:
            os.close(watch)
        assert opened == {"etc/passwd"}  # which is read, as data: so the watch sees what is opened
