"""Root file systems as detached mounts: overlay of many layers, binds, locks, and mounts of the spec with options."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel.containers import PROC, Box, execute, failure, finish, make_spec, read_line

from boxwright.errdefs import StepError
from boxwright.libcontainer import rootfs
from boxwright.libcontainer.process import InitRequest, create_init
from boxwright.linux import mount, namespaces, pidfd

pytestmark = pytest.mark.root


def mounts_of_host() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


@pytest.fixture(autouse=True)
def mount_table_stays_empty() -> Iterator[None]:
    """The host's mount table is the same after every one of these."""
    before = mounts_of_host()
    yield
    assert mounts_of_host() == before


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A directory in which an upper can lie (a tmpfs where /tmp is an overlay itself)."""
    return tmp_path


def overlay(base: Path, layers: list[Path], **more: Any) -> dict[str, Any]:
    for name in ("upper", "work"):
        (base / name).mkdir()
    lower = [str(path) for path in layers]
    return {"type": "overlay", "lower": lower, "upper": str(base / "upper"), "work": str(base / "work"),
            "options": [], "lock": None, **more}  # fmt: skip


def make_layers(base: Path, count: int, name: str = "") -> list[Path]:
    """Layers, topmost first; layer n holds the file n, and all of them `top` with their own number."""
    made = []
    for number in reversed(range(count)):
        path = base / f"{name}{number}"
        path.mkdir(parents=True)
        (path / str(number)).write_text("")
        (path / "top").write_text(str(number))
        made.append(path)
    return made


def read(fd: int, name: str) -> str:
    inner = os.open(name, os.O_RDONLY, dir_fd=fd)
    try:
        return os.read(inner, 100).decode()
    finally:
        os.close(inner)


class TestOverlay:
    @pytest.mark.parametrize("count", [1, 2, 130, 500])
    def test_layers_in_order(self, base: Path, count: int) -> None:
        fd, _ = rootfs.make_rootfs(overlay(base, make_layers(base, count)))
        try:
            assert read(fd, "top") == str(count - 1)
            assert read(fd, "0") == ""
        finally:
            os.close(fd)

    def test_more_than_500_layers_are_refused(self, base: Path) -> None:
        error = failure(lambda: rootfs.make_rootfs(overlay(base, make_layers(base, 501))))
        assert (error.step, error.hint != "") == ("rootfs", True)

    def test_names_longer_than_fsconfig_takes(self, base: Path) -> None:
        deep = base / ("d" * 200) / ("e" * 200)
        value = overlay(base, make_layers(deep, 3))
        fd, _ = rootfs.make_rootfs(value)
        try:
            assert read(fd, "top") == "2"
        finally:
            os.close(fd)

    def test_names_with_separators(self, base: Path) -> None:
        fd, _ = rootfs.make_rootfs(overlay(base, make_layers(base, 3, "a:b,c\\d ")))
        try:
            assert read(fd, "top") == "2"
        finally:
            os.close(fd)

    @pytest.mark.parametrize("count", [1, 3, 200])
    def test_kernels_without_lowerdir_plus(self, base: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Debian 12's 6.1: the same through mount(2)."""
        monkeypatch.setattr(rootfs, "_append", False)
        fd, _ = rootfs.make_rootfs(overlay(base, make_layers(base, count, "x:y,")))
        try:
            assert read(fd, "top") == str(count - 1)
            os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
            assert (base / "upper/new").exists()
        finally:
            os.close(fd)

    def test_that_fallback_tells_its_failures(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rootfs, "_append", False)
        value = overlay(base, make_layers(base, 1))
        value["work"] = str(base / "nope")
        error = failure(lambda: rootfs.make_rootfs(value))
        assert (error.step, error.errno) == ("rootfs", 2)

    def test_missing_layer(self, base: Path) -> None:
        error = failure(lambda: rootfs.make_rootfs(overlay(base, [base / "nope"])))
        assert (error.step, error.errno) == ("rootfs", 2)

    def test_read_only_overlay(self, base: Path) -> None:
        layers = make_layers(base, 2)
        value = {"type": "overlay", "lower": [str(p) for p in layers], "options": [], "lock": None}
        fd, _ = rootfs.make_rootfs(value)
        try:
            with pytest.raises(OSError, match="Read-only"):
                os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        finally:
            os.close(fd)

    def test_volatile(self, base: Path) -> None:
        value = overlay(base, make_layers(base, 1))
        mark = base / "work/work/incompat/volatile"
        for options in (["volatile"], ["volatile"], []):  # each beside the mark of the one before
            fd, _ = rootfs.make_rootfs({**value, "options": options})
            os.close(fd)
            assert mark.exists() == bool(options)

    def test_a_container_on_an_overlay(self, box: Box, base: Path) -> None:
        value = overlay(base, [box.root])
        fd, _ = rootfs.make_rootfs(value)
        try:
            process = create_init(InitRequest(make_spec("sh", "-c", "echo hi > /new; rm /etc/group"), fd))
            process.wait("ready")
            process.release_gate()
            process.wait("executed")
            assert pidfd.wait(process.pidfd) == 0
            process.close()
        finally:
            os.close(fd)
        assert (base / "upper/new").read_text() == "hi\n"
        assert not (box.root / "new").exists()
        assert (box.root / "etc/group").exists()


class TestLock:
    def test_is_held_as_long_as_the_descriptor(self, base: Path) -> None:
        value = overlay(base, make_layers(base, 1), lock=str(base / "lock"))
        fd, lock = rootfs.make_rootfs(value)
        other = os.open(base / "lock", os.O_RDWR)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(lock)
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(other)
            os.close(fd)

    def test_is_given_back_when_the_mount_fails(self, base: Path) -> None:
        with pytest.raises(StepError):
            rootfs.make_rootfs(overlay(base, [base / "nope"], lock=str(base / "lock")))
        other = os.open(base / "lock", os.O_RDWR)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)


def test_read_only_bind_root(box: Box) -> None:
    fd, _ = rootfs.make_rootfs({"type": "bind", "source": str(box.root), "readonly": True, "lock": None})
    try:
        with pytest.raises(OSError, match="Read-only"):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    finally:
        os.close(fd)


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    return {"type": "bind", "source": str(source), "destination": destination, "options": ["rbind", *options]}


def options_of(text: str, target: str) -> list[str]:
    return next(line.split()[5].split(",") for line in text.splitlines() if line.split()[4] == target)


class TestMounts:
    def test_bind_of_a_file_and_of_a_directory(self, box: Box, tmp_path: Path) -> None:
        (tmp_path / "volume").mkdir()
        (tmp_path / "volume/f").write_text("in a directory\n")
        spec = make_spec("cat", "/etc/one", "/data/deep/f")
        spec["mounts"] += [bind(tmp_path / "volume/f", "/etc/one"), bind(tmp_path / "volume", "/data/deep")]
        assert box.run(spec=spec) == (0, "in a directory\n" * 2)
        assert not (tmp_path / "volume/deep").exists()

    def test_missing_source(self, box: Box, tmp_path: Path) -> None:
        spec = make_spec("true")
        spec["mounts"].append(bind(tmp_path / "nope", "/x"))
        error = failure(lambda: box.run(spec=spec))
        assert str(error) == f'error mounting "{tmp_path}/nope" to rootfs at "/x": no such file or directory'

    def test_directory_over_a_file(self, box: Box, tmp_path: Path) -> None:
        spec = make_spec("true")
        spec["mounts"].append(bind(tmp_path, "/etc/passwd"))
        error = failure(lambda: box.run(spec=spec))
        assert (error.errno, error.step) == (20, "mounts")
        assert "Are you trying to mount a directory onto a file (or vice-versa)?" in error.hint

    def test_file_over_a_directory(self, box: Box, tmp_path: Path) -> None:
        (tmp_path / "f").write_text("")
        spec = make_spec("true")
        spec["mounts"].append(bind(tmp_path / "f", "/etc"))
        error = failure(lambda: box.run(spec=spec))
        assert str(error) == f'error mounting "{tmp_path}/f" to rootfs at "/etc": not a directory'
        assert (error.errno, error.exit_code, "vice-versa" in error.hint) == (20, 127, True)

    def test_options(self, box: Box, tmp_path: Path) -> None:
        spec = make_spec("cat", "/proc/self/mountinfo")
        spec["mounts"] += [
            bind(tmp_path, "/a", "ro", "nosuid", "nodev", "noexec", "noatime"),
            bind(tmp_path, "/b"),
            {"type": "tmpfs", "source": "tmpfs", "destination": "/c", "options": ["size=1m", "mode=1777", "ro", "rnoexec"]},
        ]  # fmt: skip
        text = box.run(spec=spec)[1]
        assert {"ro", "nosuid", "nodev", "noexec", "noatime"} <= set(options_of(text, "/a"))
        assert "rw" in options_of(text, "/b")
        assert "ro" in options_of(text, "/c")

    def test_sources_are_named(self, box: Box) -> None:
        lines = box.run("cat", "/proc/self/mountinfo")[1].splitlines()
        shown = {line.split()[4]: line.partition(" - ")[2].split()[:2] for line in lines}
        assert {path: shown[path] for path in ("/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys")} == {
            "/proc": ["proc", "proc"],
            "/dev": ["tmpfs", "tmpfs"],
            "/dev/pts": ["devpts", "devpts"],
            "/dev/mqueue": ["mqueue", "mqueue"],
            "/sys": ["sysfs", "sysfs"],
        }
        assert "none" not in [source for _, source in shown.values()]

    def test_tmpfs_takes_the_mode_of_what_it_covers(self, box: Box) -> None:
        (box.root / "tmp").chmod(0o750)
        spec = make_spec("stat", "-c", "%a", "/tmp", "/own", "/missing")
        spec["mounts"] += [
            {"type": "tmpfs", "source": "tmpfs", "destination": "/tmp", "options": []},
            {"type": "tmpfs", "source": "tmpfs", "destination": "/own", "options": ["mode=700"]},
            {"type": "tmpfs", "source": "tmpfs", "destination": "/missing", "options": []},
        ]
        assert box.run(spec=spec) == (0, "750\n700\n1777\n")

    def test_unsupported_option(self, box: Box, tmp_path: Path) -> None:
        spec = make_spec("true")
        spec["mounts"].append(bind(tmp_path, "/a", "idmap"))
        assert "mount option idmap is not supported" in str(failure(lambda: box.run(spec=spec)))

    def test_unknown_file_system_option(self, box: Box) -> None:
        spec = make_spec("true")
        spec["mounts"].append({"type": "tmpfs", "source": "tmpfs", "destination": "/c", "options": ["nope=1"]})
        error = failure(lambda: box.run(spec=spec))
        assert (error.step, error.path) == ("mounts", "/c")

    def test_root_as_destination(self, box: Box, tmp_path: Path) -> None:
        spec = make_spec("true")
        spec["mounts"].append(bind(tmp_path, "/./"))
        assert "can't be '/'" in str(failure(lambda: box.run(spec=spec)))


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A shared mount with a submount, in a mount namespace of the test's own."""
    before = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    root, cwd = os.open("/", os.O_RDONLY), os.getcwd()
    namespaces.unshare(namespaces.CLONE_NEWNS)
    top = tmp_path / "shared"
    (top / "sub").mkdir(parents=True)
    mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)
    mount.mount("tmpfs", str(top), "tmpfs", 0)
    mount.mount("", str(top), "", 1 << 20)  # MS_SHARED
    (top / "sub").mkdir()
    mount.mount("tmpfs", str(top / "sub"), "tmpfs", 0)
    yield top
    namespaces.setns(before, namespaces.CLONE_NEWNS)
    os.fchdir(root)  # setns leads to the namespace's root, which need not be where we were
    os.chroot(".")
    os.chdir(cwd)
    os.close(root)
    os.close(before)


class TestPropagation:
    """Rule 7: binds keep their peer group, nothing else does."""

    def start(self, box: Box, source: Path, *options: str) -> Any:
        spec = make_spec("sh", "-c", "echo ready; sleep 100")
        for kind in ("bounding", "effective", "permitted"):
            spec["process"]["capabilities"][kind] = ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]
        spec["mounts"].append(bind(source, "/v", *options))
        return box.start(spec=spec)

    def seen_inside(self, init: Any, path: str) -> bool:
        with execute(init, "grep", "-q", f" {path} ", "/proc/self/mountinfo") as (process, output):
            return finish(process, output)[0] == 0

    @pytest.mark.parametrize(
        ("options", "from_host", "to_host"),
        [((), False, False), (("rprivate",), False, False), (("rslave",), True, False), (("rshared",), True, True)],
    )
    def test_modes(self, box: Box, shared: Path, options: tuple[str, ...], from_host: bool, to_host: bool) -> None:
        with self.start(box, shared, *options) as (init, output):
            assert read_line(output) == "ready"
            (shared / "new").mkdir()
            (shared / "up").mkdir()
            mount.mount("tmpfs", str(shared / "new"), "tmpfs", 0)
            assert self.seen_inside(init, "/v/new") == from_host
            assert self.seen_inside(init, "/v/sub")
            caps = {k: ["CAP_SYS_ADMIN"] for k in ("bounding", "effective", "permitted")}
            with execute(init, "mount", "-t", "tmpfs", "tmpfs", "/v/up", capabilities=caps) as (process, text):
                assert finish(process, text)[0] == 0
            assert any(line.split()[4] == str(shared / "up") for line in mounts_of_host()) == to_host

    def test_non_recursive_bind_leaves_submounts(self, box: Box, shared: Path) -> None:
        spec = make_spec("grep", "-c", " /v", "/proc/self/mountinfo")
        spec["mounts"].append({**bind(shared, "/v"), "options": ["bind"]})
        assert box.run(spec=spec) == (0, "1\n")

    @pytest.mark.parametrize(("option", "below"), [("ro", "rw"), ("rro", "ro")])
    def test_recursive_read_only(self, box: Box, shared: Path, option: str, below: str) -> None:
        spec = make_spec("cat", "/proc/self/mountinfo")
        spec["mounts"].append(bind(shared, "/v", option))
        text = box.run(spec=spec)[1]
        assert options_of(text, "/v")[0] == "ro"
        assert options_of(text, "/v/sub")[0] == below

    @pytest.mark.parametrize(("value", "mark"), [("shared", "shared:"), ("rslave", ""), ("private", ""), ("", "")])
    def test_of_the_root(self, box: Box, value: str, mark: str) -> None:
        spec = make_spec("grep", " / / ", "/proc/self/mountinfo")
        spec["mounts"] = [PROC]
        spec["linux"]["rootfsPropagation"] = value
        spec["process"]["args"] = ["cat", "/proc/self/mountinfo"]
        line = next(line for line in box.run(spec=spec)[1].splitlines() if line.split()[4] == "/")
        assert ("shared:" in line) == bool(mark)

    def test_invalid_root_propagation(self, box: Box) -> None:
        spec = make_spec("true")
        spec["linux"]["rootfsPropagation"] = "nope"
        assert "rootfsPropagation=nope is not valid" in str(failure(lambda: box.run(spec=spec)))

    def test_host_unmounts_are_not_held_back(self, box: Box, shared: Path) -> None:
        """What the host unmounts while containers run does not stay busy in their namespaces."""
        with box.start("sleep", "100") as (init, _):
            mount.umount(str(shared / "sub"))
            assert not self.seen_inside(init, str(shared / "sub"))
