"""SECURITY.md, mounts and devices: images and volumes that try to lead a mount, a node or a directory to the host.

Every test has a directory `victim` outside the root that a resolution by string would reach.
"""

import os
import stat
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest
from kernel.containers import DEV, PROC, PTS, SYS, Box, failure, make_spec, read_all, user_namespaces

from boxwright.errdefs import StepError
from boxwright.libcontainer import cgroups
from boxwright.linux import pidfd

pytestmark = pytest.mark.root


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host; untouched afterwards."""
    path = tmp_path / "victim"
    path.mkdir()
    (path / "file").write_text("host")
    yield path
    assert [p.name for p in path.iterdir()] == ["file"]
    assert (path / "file").read_text() == "host"


def bind(source: Path, destination: str, *options: str) -> dict[str, object]:
    return {"type": "bind", "source": str(source), "destination": destination, "options": ["rbind", *options]}


class TestMountTargets:
    """CVE-2021-30465, CVE-2024-45310: a symbolic link at, or on the way to, a mount target."""

    def test_absolute_link_stays_inside(self, box: Box, victim: Path, tmp_path: Path) -> None:
        volume = tmp_path / "volume"
        volume.mkdir()
        (volume / "mark").write_text("")
        (box.root / "link").symlink_to(victim)
        spec = make_spec("ls", f"{victim}/made")
        spec["mounts"].append(bind(volume, "/link/made"))
        # In-root, the link leads to a path that is made there; the host's directory of that name is not reached.
        (box.root / str(victim)[1:]).mkdir(parents=True)
        assert box.run(spec=spec) == (0, "mark\n")

    def test_relative_link_stays_inside(self, box: Box, victim: Path) -> None:
        (box.root / "link").symlink_to("../" * 20 + str(victim)[1:])
        spec = make_spec("true")
        spec["mounts"].append(bind(victim / "file", "/link/made"))
        assert failure(lambda: box.run(spec=spec)).step == "mounts"

    def test_dangling_link_is_not_made_up_for(self, box: Box, victim: Path) -> None:
        (box.root / "link").symlink_to(victim / "new")
        spec = make_spec("true")
        spec["mounts"].append(bind(victim / "file", "/link"))
        assert failure(lambda: box.run(spec=spec)).step == "mounts"

    def test_dot_dot_in_a_destination(self, box: Box, victim: Path) -> None:
        spec = make_spec("cat", "/x")
        spec["mounts"].append(bind(victim / "file", "/a/../../../../x"))
        assert box.run(spec=spec) == (0, "host")

    def test_link_swapped_in_while_mounting(self, box: Box, victim: Path, tmp_path: Path) -> None:
        """A volume shared with a running attacker: directory and link to the host take turns at the target's parent."""
        shared = tmp_path / "shared"
        (shared / "real").mkdir(parents=True)
        (shared / "evil").symlink_to(victim)
        (shared / "now").symlink_to("real")
        attacker = get_context("fork").Process(target=_swap, args=(shared,))
        attacker.start()
        try:
            for number in range(25):
                spec = make_spec("true")
                spec["mounts"] += [bind(shared, "/shared"), bind(tmp_path, f"/shared/now/made{number}")]
                try:
                    box.run(spec=spec)
                except StepError as error:
                    assert error.step == "mounts"  # the link led to nothing in the root at that moment
        finally:
            attacker.kill()
            attacker.join()


class TestSubpaths:
    """CVE-2021-25741: what is to be mounted of a volume is on its way swapped for a link that leads out of it."""

    def test_link_swapped_in_while_opening(self, box: Box, victim: Path, tmp_path: Path) -> None:
        """`now` is the volume's own directory or a link to the host in turn, in the middle of the path and at its end."""
        shared = tmp_path / "shared"
        (shared / "real" / "file").mkdir(parents=True)
        (shared / "evil").symlink_to(victim)
        (shared / "now").symlink_to("real")
        attacker = get_context("fork").Process(target=_swap, args=(shared,))
        attacker.start()
        seen = {"mounted": 0, "refused": 0}
        try:
            while min(seen.values()) < 10:
                for path in ("now", "now/file"):
                    spec = make_spec("sh", "-c", "ls -R /v; cat /v/file /v; true")
                    spec["mounts"].append({**bind(shared, "/v"), "subpath": path})
                    try:
                        code, out = box.run(spec=spec)
                        assert code == 0 and "host" not in out
                        seen["mounted"] += 1
                    except StepError as error:
                        assert error.step == "subpath" and "escapes the base directory" in error.message
                        seen["refused"] += 1
        finally:
            attacker.kill()
            attacker.join()

    @pytest.mark.parametrize("subpath", ["..", "../victim", "a/../../victim", "/etc", "deep/up", "self/root"])
    def test_no_spelling_leads_out(self, box: Box, victim: Path, tmp_path: Path, subpath: str) -> None:
        shared = tmp_path / "shared"
        (shared / "a").mkdir(parents=True)
        (shared / "deep").symlink_to(".")
        (shared / "up").symlink_to("a/../../victim")
        (shared / "self").symlink_to("/proc/self")
        spec = make_spec("true")
        spec["mounts"].append({**bind(shared, "/v"), "subpath": subpath})
        error = failure(lambda: box.run(spec=spec))
        assert (error.step, error.message) == (
            "subpath", f"path concatenation escapes the base directory, base: {shared}, subpath: {subpath}",
        )  # fmt: skip


def _swap(shared: Path) -> None:
    """Point `now` at the inner directory, at the host's, at a plain directory, in turn."""
    os.chdir(shared)
    while True:
        for target in ("evil", "real"):
            os.symlink(target, "next")
            os.rename("next", "now")


class TestKernelFileSystems:
    """CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: /proc or /sys of the image is a link."""

    @pytest.mark.parametrize("name", ["proc", "sys"])
    def test_link_is_refused(self, box: Box, name: str) -> None:
        (box.root / name).rmdir()
        (box.root / "elsewhere").mkdir()
        (box.root / name).symlink_to("elsewhere")
        error = failure(lambda: box.run("true"))
        assert (error.step, error.path) == ("mounts", f"/{name}")
        assert "symbolic link" in str(error)

    def test_link_on_the_way_is_refused(self, box: Box) -> None:
        (box.root / "elsewhere").mkdir()
        (box.root / "a").symlink_to("elsewhere")
        spec = make_spec("true")
        spec["mounts"].append({**PROC, "destination": "/a/proc"})
        assert failure(lambda: box.run(spec=spec)).step == "mounts"

    @pytest.mark.parametrize("target", ["/proc/sys", "/proc/self/attr", "/proc/sys/kernel", "/proc/sysrq-trigger"])
    def test_nothing_is_mounted_over_parts_of_proc(self, box: Box, victim: Path, target: str) -> None:
        """CVE-2025-52881: a volume over the file that init is about to write."""
        spec = make_spec("true")
        spec["mounts"].append(bind(victim / "file" if target.endswith("trigger") else victim, target))
        error = failure(lambda: box.run(spec=spec))
        assert (error.step, error.path) == ("mounts", target)

    def test_what_lxcfs_covers_may_be_covered(self, box: Box, victim: Path) -> None:
        spec = make_spec("cat", "/proc/uptime")
        spec["mounts"].append(bind(victim / "file", "/proc/uptime"))
        assert box.run(spec=spec) == (0, "host")

    def test_a_volume_over_proc_is_refused(self, box: Box, victim: Path) -> None:
        spec = make_spec("true")
        spec["mounts"].append(bind(victim, "/proc"))
        assert failure(lambda: box.run(spec=spec)).step == "mounts"

    def test_sysctls_go_to_the_kernel_whatever_the_image_has_at_proc(self, box: Box) -> None:
        """CVE-2025-52881: written through a private procfs."""
        (box.root / "proc/sys/kernel").mkdir(parents=True)
        (box.root / "proc/sys/kernel/msgmax").write_text("bait")
        spec = make_spec("true")
        spec["mounts"] = [DEV]  # no procfs is mounted at all
        spec["linux"].update(sysctl={"kernel.msgmax": "4321"}, readonlyPaths=[], maskedPaths=[])
        assert box.run(spec=spec)[0] == 0
        assert (box.root / "proc/sys/kernel/msgmax").read_text() == "bait"


class TestCgroupFileSystem:
    """CVE-2023-25809: cgroupfs in a container without cgroup namespace."""

    namespaces = ("mount", "pid", "network", "uts", "ipc")

    def test_is_read_only(self, box: Box, manager: cgroups.Manager) -> None:
        spec = make_spec("sh", "-c", "grep /sys/fs/cgroup /proc/self/mountinfo", namespaces=self.namespaces)
        spec["mounts"] = [PROC, SYS, {**_cgroup(), "options": ["nosuid"]}]
        lines = box.run(spec=spec, cgroup=manager)[1].splitlines()
        assert lines
        assert all(line.split()[5].startswith("ro,") for line in lines)

    def test_is_read_only_for_a_user_namespace_even_when_asked_otherwise(
        self, box: Box, manager: cgroups.Manager
    ) -> None:
        if not user_namespaces():
            pytest.skip("no user namespaces here (forbidden, or we are in a chroot)")
        for path in (box.root, *box.root.rglob("*")):
            os.chown(path, 100000, 100000, follow_symlinks=False)
        spec = make_spec("sh", "-c", "grep /sys/fs/cgroup /proc/self/mountinfo", namespaces=(*self.namespaces, "user"))
        spec["mounts"] = [PROC, SYS, {**_cgroup(), "options": ["nosuid", "rw"]}]
        mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        spec["linux"].update(uidMappings=mapping, gidMappings=mapping)
        lines = box.run(spec=spec, cgroup=manager)[1].splitlines()
        assert lines
        assert all(line.split()[5].startswith("ro,") for line in lines)


def _cgroup() -> dict[str, object]:
    return {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}


class TestNullAndConsole:
    """CVE-2025-31133, CVE-2025-52565: /dev/null or /dev/console replaced before it is bound."""

    def test_masks_use_the_hosts_null_device(self, box: Box, victim: Path) -> None:
        (box.root / "dev/null").symlink_to("/etc/passwd")
        spec = make_spec("stat", "-c", "%F %t:%T", "/proc/keys")
        spec["mounts"] = [PROC]
        spec["linux"]["maskedPaths"] = ["/proc/keys"]
        # With the image's own /dev the bait also stands where a default device is due: refused, not followed.
        error = failure(lambda: box.run(spec=spec))
        assert (error.step, error.path) == ("devices", "/dev/null")

    def test_masks_are_the_null_device_under_another_dev(self, box: Box, victim: Path, tmp_path: Path) -> None:
        """A volume over /dev brings a null of its own: what covers a masked file is the kernel's all the same."""
        volume = tmp_path / "volume"
        volume.mkdir()
        (volume / "null").write_text("bait")
        spec = make_spec("stat", "-c", "%F %t:%T", "/proc/keys")
        spec["mounts"] = [PROC, bind(volume, "/dev")]
        spec["linux"]["maskedPaths"] = ["/proc/keys"]
        assert box.run(spec=spec) == (0, "character special file 1:3\n")

    def test_a_false_device_in_the_image_is_refused(self, box: Box) -> None:
        os.mknod(box.root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 1))  # /dev/mem
        spec = make_spec("true")
        spec["mounts"] = [PROC]
        assert failure(lambda: box.run(spec=spec)).path == "/dev/null"

    def test_the_true_device_in_the_image_is_taken(self, box: Box) -> None:
        os.mknod(box.root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        spec = make_spec("stat", "-c", "%F %t:%T", "/proc/keys")
        spec["mounts"] = [PROC]
        assert box.run(spec=spec) == (0, "character special file 1:3\n")

    @pytest.mark.parametrize("target", ["/proc/sys/kernel/core_pattern", "/etc/passwd", "/nope"])
    def test_console_is_never_bound_through_a_link(self, box: Box, target: str) -> None:
        (box.root / "dev/console").symlink_to(target)
        spec = make_spec("true", terminal=True)
        spec["mounts"] = [PROC, PTS]
        error = failure(lambda: box.run(spec=spec))
        assert error.step in ("console", "init")
        assert error.operation == "openat2"

    def test_console_is_the_pty(self, box: Box) -> None:
        spec = make_spec("sh", "-c", "echo through > /dev/console", terminal=True)
        with box.start(spec=spec) as (process, output):
            assert read_all(output) == "through\r\n"
            assert pidfd.wait(process.pidfd) == 0


class TestDevIsALink:
    """CVE-2026-41579 (runc), CVE-2026-47766 (crun): /dev of the image is a symbolic link."""

    def test_is_resolved_inside(self, box: Box, victim: Path) -> None:
        (box.root / "dev").rmdir()
        (box.root / "dev").symlink_to(victim)
        inner = box.root / str(victim)[1:]
        inner.mkdir(parents=True)
        code, text = box.run("ls", str(victim))
        assert code == 0
        assert {"null", "zero", "pts", "ptmx"} <= set(text.split())

    def test_without_a_mount_nodes_stay_inside_too(self, box: Box, victim: Path) -> None:
        (box.root / "dev").rmdir()
        (box.root / "dev").symlink_to(victim)
        inner = box.root / str(victim)[1:]
        inner.mkdir(parents=True)
        spec = make_spec("ls", str(victim))
        spec["mounts"] = [PROC]
        assert "null" in box.run(spec=spec)[1]


class TestWorkingDirectory:
    """CVE-2026-55686: WORKDIR through a symbolic link creates on the host."""

    def test_is_made_inside(self, box: Box, victim: Path) -> None:
        (box.root / "w").symlink_to(victim)
        inner = box.root / str(victim)[1:]
        inner.mkdir(parents=True)
        assert box.run(spec=make_spec("pwd", cwd="/w/a/b")) == (0, f"{victim}/a/b\n")
        assert (inner / "a/b").is_dir()

    def test_a_dangling_link_is_not_made_up_for(self, box: Box, victim: Path) -> None:
        (box.root / "w").symlink_to(victim / "new")
        assert failure(lambda: box.run(spec=make_spec("pwd", cwd="/w/a"))).step == "cwd"
