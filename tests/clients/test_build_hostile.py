"""Contexts that were made to do harm: nothing of the host is read or changed, and the engine says what is wrong."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from support import builds
from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.network]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the host that no build may see."""
    path = tmp_path / "secret"
    path.write_text("of the host")
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, 0o644, size
    return info


def build(engine: Engine, text: str, files: builds.Files) -> builds.Built:
    return builds.by_docker_py(engine, builds.archive(files, text))


@pytest.mark.parametrize(
    "link", ["{secret}", "/../../../../../../..{secret}", "up/up/{secret}", "../../../../../..{secret}"]
)
def test_links_out_of_the_context(engine: Engine, secret: Path, link: str) -> None:
    files = {"up": "-> ../../..", "l": f"-> {link.format(secret=secret)}", "d/": "", "d/l": f"-> {secret}"}
    built = build(engine, "FROM busybox\nCOPY l /x\n", files)
    assert "COPY failed: file not found" in built.error
    built = build(engine, f"FROM busybox\nCOPY up{secret} /x\n", files)
    assert "COPY failed: file not found" in built.error
    built = build(engine, "FROM busybox\nCOPY d /x\nRUN cat /x/l\n", files)
    assert "of the host" not in built.said and not built.image


def test_the_archive_is_unpacked_inside(engine: Engine, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    files: builds.Files = {
        f"../../../../../..{planted}-1": "1",
        f"{planted}-2": "2",
        "out": f"-> {tmp_path}",
        "out/planted-3": "3",
        "hard": member("hard", tarfile.LNKTYPE, "/etc/passwd"),
    }
    built = build(engine, "FROM busybox\nCOPY . /x\n", files)
    assert not list(tmp_path.iterdir())
    assert built.error or engine.ok("run", "--rm", built.image, "true") == ""


def test_a_dockerfile_that_is_something_else(engine: Engine, secret: Path) -> None:
    for info in (member("Dockerfile", tarfile.SYMTYPE, str(secret)), member("Dockerfile", tarfile.FIFOTYPE),
                 member("Dockerfile", tarfile.DIRTYPE)):  # fmt: skip
        built = build_raw(engine, [info])
        assert not built.image and "of the host" not in built.error + built.said


def build_raw(engine: Engine, members: list[tarfile.TarInfo]) -> builds.Built:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(bytes(info.size)) if info.size else None)
    return builds.by_docker_py(engine, out.getvalue())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_dockerignore_that_is_something_else(engine: Engine, secret: Path, kind: bytes) -> None:
    built = build(engine, "FROM busybox\nENV A=1\n", {".dockerignore": member(".dockerignore", kind, str(secret))})
    assert "of the host" not in built.error + built.said


@pytest.mark.parametrize("pattern", ["[", "a[b-", "\\", "!"])
def test_a_dockerignore_of_what_are_no_patterns(engine: Engine, pattern: str) -> None:
    built = build(engine, "FROM busybox\n", {".dockerignore": pattern})
    assert "failed to parse .dockerignore" in built.error


def test_dockerignore_can_name_the_dockerfile_and_nothing_above(engine: Engine) -> None:
    files = {".dockerignore": "Dockerfile\n../*\n/..\n**/../../x\n", "f": "1"}
    built = build(engine, "FROM busybox\nCOPY . /x\nRUN ls -a /x\n", files)
    assert built.image and "Dockerfile" not in built.said.rpartition("Running in")[2], built.error


@pytest.mark.parametrize(
    "data", [b"", b"x" * 600, b"\x1f\x8b\x08garbage", b"BZhgarbage", b"\xfd7zXZ\0garbage", b"\x28\xb5\x2f\xfdx"]
)
def test_what_is_no_archive(engine: Engine, data: bytes) -> None:
    answer = engine.api("POST", "/build", data, {"Content-Type": "application/x-tar"})
    assert answer.status == 400, answer.raw
    cut = builds.archive({"f": "x" * 5000}, "FROM busybox\n")[:3000]
    assert engine.api("POST", "/build", cut, {"Content-Type": "application/x-tar"}).status == 400


def test_a_header_that_promises_too_much(engine: Engine) -> None:
    info = member("pax", tarfile.XHDTYPE)
    info.size = 1 << 40
    body = info.tobuf(tarfile.GNU_FORMAT) + bytes(2048)
    assert engine.api("POST", "/build", body, {"Content-Type": "application/x-tar"}).status == 400


def test_devices_of_a_context_are_not_opened(engine: Engine) -> None:
    zero = member("zero", tarfile.CHRTYPE)
    zero.devmajor, zero.devminor = 1, 5
    built = build(engine, "FROM busybox\nADD zero /x\n", {"zero": zero})
    assert built.error or engine.ok("run", "--rm", built.image, "test", "-c", "/x") == ""


@pytest.mark.parametrize("target", ["/../../..{tmp}/planted", "/l/planted", "/deep/l/planted"])
def test_destinations_lead_out_of_no_image(engine: Engine, tmp_path: Path, target: str) -> None:
    text = f"FROM busybox\nRUN ln -s {tmp_path} /l; mkdir /deep; ln -s ../../../../..{tmp_path} /deep/l\n"
    built = build(engine, f"{text}COPY f {target.format(tmp=tmp_path)}\n", {"f": "inside"})
    assert built.image, built.error
    assert engine.ok("run", "--rm", built.image, "cat", f"{tmp_path}/planted") == "inside"
    assert not list(tmp_path.iterdir())


def test_bind_mounts_lead_out_of_no_context(engine: Engine, secret: Path) -> None:
    files = {"l": f"-> {secret}", "d/": "", "d/l": f"-> {secret}"}
    built = build(engine, "FROM busybox\nRUN --mount=source=l,target=/m cat /m\n", files)
    assert not built.image and "of the host" not in built.said
    built = build(engine, "FROM busybox\nRUN --mount=source=d,target=/m cat /m/l; true\n", files)
    assert "of the host" not in built.said


@pytest.mark.parametrize("id", ["../../../escape", "/etc", "a/b", "x" * 5000])
def test_the_name_of_a_cache_is_no_path(engine: Engine, id: str) -> None:
    built = build(engine, f"FROM busybox\nRUN --mount=type=cache,id={id},target=/c echo 1 > /c/f\n", {})
    assert built.image, built.error
    roots = {entry.name for entry in (engine.data_root / "build-cache").iterdir()}
    assert all(len(name) == 32 for name in roots) and not os.path.exists("/etc/f")


def test_the_program_of_an_image_is_not_run_by_copying(engine: Engine) -> None:
    """Names of libraries and modules that a job might load from the image (CVE-2019-14271)."""
    trap = "#!/bin/sh\necho trapped > /trapped\n"
    files = {"traceback.py": "raise SystemExit(3)\n", "tar": trap, "t.tar.gz": b"\x1f\x8b\x08 not really"}
    built = build(
        engine,
        "FROM busybox\nCOPY traceback.py tar /\nCOPY tar /usr/bin/unpigz\nADD t.tar.gz /y\nCOPY --chown=root tar /z\n",
        files,
    )
    assert built.image, built.error
    assert engine.ok("run", "--rm", built.image, "sh", "-c", "test -e /trapped || echo not") == "not"
