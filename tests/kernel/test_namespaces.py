"""Namespaces that are new, the host's or another container's, user namespaces, cgroups and who is whose parent."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from kernel import containers
from kernel.containers import CGROUP, NAMESPACES, PROC, Box, execute, failure, finish, make_spec, read_line, until

from boxwright.libcontainer import cgroups, procfs, rootfs
from boxwright.libcontainer.process import InitProcess, InitRequest, create_init
from boxwright.linux import namespaces, pidfd

pytestmark = pytest.mark.root
FIRST_HOST_ID, COUNT = 200000, 65536


def link(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{namespaces.KINDS[kind][1]}")


def without(*kinds: str) -> tuple[str, ...]:
    return tuple(kind for kind in NAMESPACES if kind not in kinds)


def joining(spec: dict[str, Any], kind: str, path: str) -> dict[str, Any]:
    spec["linux"]["namespaces"] = [
        *(item for item in spec["linux"]["namespaces"] if item["type"] != kind),
        {"type": kind, "path": path},
    ]
    return spec


class TestHostNamespaces:
    @pytest.mark.parametrize("kind", ["pid", "network", "uts", "ipc", "cgroup"])
    def test_not_named_means_the_hosts(self, box: Box, kind: str) -> None:
        spec = make_spec("sleep", "100", namespaces=without(kind))
        with box.start(spec=spec) as (init, _):
            assert link(init.pid, kind) == os.readlink(f"/proc/self/ns/{namespaces.KINDS[kind][1]}")

    def test_host_pid_mode_sees_the_host(self, box: Box) -> None:
        spec = make_spec("sh", "-c", "test -d /proc/$1 && echo $$", "sh", str(os.getpid()), namespaces=without("pid"))
        code, text = box.run(spec=spec)
        assert code == 0
        assert int(text) > 1

    def test_a_mount_namespace_is_a_must(self, box: Box) -> None:
        error = failure(lambda: box.run(spec=make_spec("true", namespaces=without("mount"))))
        assert error.step == "namespaces"

    def test_unknown_or_doubled(self, box: Box) -> None:
        for extra in ({"type": "nope"}, {"type": "pid"}):
            spec = make_spec("true")
            spec["linux"]["namespaces"].append(extra)
            assert failure(lambda spec=spec: box.run(spec=spec)).step == "namespaces"


class TestAnotherContainers:
    @pytest.mark.parametrize("kind", ["network", "uts", "ipc", "cgroup"])
    def test_is_joined(self, box: Box, kind: str) -> None:
        with box.start("sleep", "100") as (other, _):
            path = f"/proc/{other.pid}/ns/{namespaces.KINDS[kind][1]}"
            with box.start(spec=joining(make_spec("sleep", "100"), kind, path)) as (init, _):
                assert link(init.pid, kind) == link(other.pid, kind)
                assert link(init.pid, "mount") != link(other.pid, "mount")

    def test_pid_namespace(self, box: Box) -> None:
        with box.start("sleep", "100") as (other, _):
            spec = joining(make_spec("sh", "-c", "echo $$; ps; exit 3"), "pid", f"/proc/{other.pid}/ns/pid")
            with box.start(spec=spec) as (init, output):
                assert init.helper_pid not in (0, init.pid)
                code, text = finish(init, output)
            assert code == 3
            assert "sleep 100" in text
            assert text.split()[0] != "1"
            assert not Path(f"/proc/{init.helper_pid}").exists()

    @pytest.mark.parametrize("option", [True, False])
    def test_proc_of_the_joined_pid_namespace_shows_nothing_else(
        self, box: Box, option: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Never the host's: by the kernel's option, and by a copy where it has none (before Linux 6.17)."""
        if not option:
            monkeypatch.setattr(procfs, "_has_option", False)
        with box.start("sleep", "100") as (other, _):
            spec = joining(make_spec("sh", "-c", "echo /proc/[0-9]*; cat /proc/1/cmdline; ls -l /proc/self/exe"), "pid",
                           f"/proc/{other.pid}/ns/pid")  # fmt: skip
            code, text = box.run(spec=spec)
        lines = text.splitlines()
        assert code == 0
        assert len(lines[0].split()) == 2
        assert lines[1].startswith("sleep\x00100\x00")

    def test_a_proc_that_is_not_of_that_namespace_is_not_copied(
        self, box: Box, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """X, allowed to mount, has put the host's procfs, which it was given, over its own."""
        monkeypatch.setattr(procfs, "_has_option", False)
        spec = make_spec("sh", "-c", "mount -o bind /host /proc; echo ready; sleep 100")
        for kind in ("bounding", "effective", "permitted"):
            spec["process"]["capabilities"][kind] = ["CAP_SYS_ADMIN"]
        spec["mounts"].append({"type": "bind", "source": "/proc", "destination": "/host", "options": ["bind"]})
        with box.start(spec=spec) as (other, output):
            assert read_line(output) == "ready"
            victim = joining(make_spec("ps"), "pid", f"/proc/{other.pid}/ns/pid")
            assert "is another's" in str(failure(lambda: box.run(spec=victim)))

    def test_pid_namespace_with_a_terminal(self, box: Box) -> None:
        with box.start("sleep", "100") as (other, _):
            script = "trap 'echo int; exit 6' INT; echo ready; while :; do sleep 0.01; done"
            spec = joining(make_spec("sh", "-c", script, terminal=True), "pid", f"/proc/{other.pid}/ns/pid")
            with box.start(spec=spec) as (init, output):
                assert read_line(output) == "ready"
                os.write(output, b"\x03")
                until(lambda: "int" in read_line(output))
                assert pidfd.wait(init.pidfd) == 6

    def test_pid_namespace_and_a_program_that_is_missing(self, box: Box) -> None:
        with box.start("sleep", "100") as (other, _):
            spec = joining(make_spec("nope"), "pid", f"/proc/{other.pid}/ns/pid")
            error = failure(lambda: box.run(spec=spec))
            assert (error.exit_code, str(error)) == (127, 'exec: "nope": executable file not found in $PATH')

    def test_dev_shm_comes_along(self, box: Box) -> None:
        """`--ipc=container:X`: from X's mount namespace, which the host's mount table does not show."""
        shm = {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777", "size=1m"]}
        spec = make_spec("sh", "-c", "echo mine > /dev/shm/mark; echo ready; sleep 100")
        spec["mounts"].append(shm)
        with box.start(spec=spec) as (other, output):
            assert read_line(output) == "ready"
            spec = make_spec("cat", "/dev/shm/mark")
            namespace = f"/proc/{other.pid}/ns/mnt"
            spec["mounts"].append({
                "destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": ["rbind", "rprivate"],
                "namespace": namespace,
            })  # fmt: skip
            assert box.run(spec=spec) == (0, "mine\n")
            spec["mounts"][-1]["source"] = "/nope"
            assert failure(lambda: box.run(spec=spec)).errno == 2

    def test_wrong_type_or_gone(self, box: Box) -> None:
        error = failure(lambda: box.run(spec=joining(make_spec("true"), "ipc", "/proc/self/ns/uts")))
        assert (error.step, error.operation) == ("namespaces", "setns")
        error = failure(lambda: box.run(spec=joining(make_spec("true"), "ipc", "/proc/self/ns/nope")))
        assert (error.step, error.errno) == ("namespaces", 2)


@pytest.fixture
def mapped(box: Box) -> Box:
    """The box's files belong to root of a user namespace."""
    if not containers.user_namespaces():
        pytest.skip("no user namespaces here (forbidden, or we are in a chroot)")
    for path in (box.root, *box.root.rglob("*")):
        os.chown(path, FIRST_HOST_ID, FIRST_HOST_ID, follow_symlinks=False)
    return box


def user_spec(*args: str, **process: Any) -> dict[str, Any]:
    spec = make_spec(*args, namespaces=(*NAMESPACES, "user"), **process)
    mapping = [{"containerID": 0, "hostID": FIRST_HOST_ID, "size": COUNT}]
    spec["linux"].update(uidMappings=mapping, gidMappings=mapping)
    return spec


class TestUserNamespace:
    def test_root_inside_is_nobody_outside(self, mapped: Box) -> None:
        with mapped.start(spec=user_spec("sleep", "100")) as (init, _):
            status = Path(f"/proc/{init.pid}/status").read_text()
            assert f"Uid:\t{FIRST_HOST_ID}" in status
            assert link(init.pid, "user") != os.readlink("/proc/self/ns/user")

    def test_maps_identity_and_devices(self, mapped: Box) -> None:
        script = "cat /proc/self/uid_map; id -u; touch /x; stat -c %u /x; echo > /dev/null; stat -c %t:%T /dev/zero"
        code, text = mapped.run(spec=user_spec("sh", "-c", script))
        assert (code, text.split()) == (0, ["0", str(FIRST_HOST_ID), str(COUNT), "0", "0", "1:5"])
        assert (mapped.root / "x").stat().st_uid == FIRST_HOST_ID

    def test_a_user_in_it(self, mapped: Box) -> None:
        spec = user_spec("sh", "-c", "id -u; id -G; echo ok > /dev/stdout", user={"username": "alice"})
        assert mapped.run(spec=spec) == (0, "1000\n1000 10 29\nok\n")

    def test_terminal(self, mapped: Box) -> None:
        with mapped.start(spec=user_spec("tty", terminal=True)) as (init, output):
            assert read_line(output) == "/dev/pts/0"
            assert pidfd.wait(init.pidfd) == 0

    def test_exec(self, mapped: Box) -> None:
        with (
            mapped.start(spec=user_spec("sleep", "100")) as (init, _),
            execute(init, "sh", "-c", "id -u; grep CapEff /proc/self/status") as (process, output),
        ):
            assert link(process.pid, "user") == link(init.pid, "user")
            assert finish(process, output) == (0, "0\nCapEff:\t00000000a80425fb\n")

    def test_joined_with_the_network_of_another(self, mapped: Box) -> None:
        """The staged order: the user namespace first, then what belongs to it, then the new ones."""
        with mapped.start(spec=user_spec("sleep", "100")) as (other, _):
            spec = make_spec("sh", "-c", "id -u; echo $$", namespaces=without("network"))
            spec["linux"]["namespaces"] += [
                {"type": "network", "path": f"/proc/{other.pid}/ns/net"},
                {"type": "user", "path": f"/proc/{other.pid}/ns/user"},
            ]
            with mapped.start(spec=spec) as (init, output):
                assert link(init.pid, "network") == link(other.pid, "network")
                assert link(init.pid, "user") == link(other.pid, "user")
                assert finish(init, output) == (0, "0\n1\n")

    def test_new_with_the_network_of_another(self, mapped: Box) -> None:
        """The staged order once more: from inside the new one, the host's could not be entered."""
        with mapped.start("sleep", "100") as (other, _):
            spec = joining(user_spec("sh", "-c", "id -u; echo $$"), "network", f"/proc/{other.pid}/ns/net")
            spec["mounts"] = [m for m in spec["mounts"] if m["type"] != "sysfs"]  # its owner is not ours
            spec["mounts"] = [m for m in spec["mounts"] if m["type"] != "cgroup"]
            with mapped.start(spec=spec) as (init, output):
                assert link(init.pid, "network") == link(other.pid, "network")
                assert finish(init, output) == (0, "0\n1\n")

    def test_maps_that_the_kernel_refuses(self, mapped: Box) -> None:
        spec = user_spec("true")
        spec["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 0}]
        error = failure(lambda: mapped.run(spec=spec))
        assert (error.step, error.path.endswith("uid_map")) == ("namespaces", True)


def inside(manager: cgroups.Manager) -> str:
    """Where a container sees its group."""
    return "/sys/fs/cgroup" if manager.driver == "fs2" else "/sys/fs/cgroup/pids"


class TestCgroup:
    def test_joined_and_hidden(self, box: Box, manager: cgroups.Manager) -> None:
        """The namespace's root is the container's group: the host's path does not show (rule 11)."""
        with box.start("sh", "-c", "cat /proc/self/cgroup; echo end; sleep 100", cgroup=manager) as (init, output):
            lines = list(iter(lambda: read_line(output), "end"))
            assert init.pid in manager.pids()
        # Of a hybrid host's v2 tree, which the manager leaves alone, only the namespace itself is the container's.
        ours = [line for line in lines if line.startswith("0:") == (manager.driver == "fs2")]
        assert ours
        assert all(line.endswith(":/") for line in ours)

    def test_exec_joins_too(self, box: Box, manager: cgroups.Manager) -> None:
        with (
            box.start("sleep", "100", cgroup=manager) as (init, _),
            execute(init, "sleep", "100", request={"cgroup": manager}) as (process, _),
        ):
            assert set(manager.pids()) == {init.pid, process.pid}

    def test_file_system_shows_the_own_group(self, box: Box, manager: cgroups.Manager) -> None:
        tree = inside(manager)
        spec = make_spec("sh", "-c", f"cat {tree}/cgroup.procs; ls -d {tree}/boxwright* 2>&1")
        text = box.run(spec=spec, cgroup=manager)[1]
        assert text.splitlines()[0] == "1"
        assert "No such file" in text

    def test_without_a_cgroup_namespace_it_is_bound(self, box: Box, manager: cgroups.Manager) -> None:
        spec = make_spec("cat", f"{inside(manager)}/cgroup.procs", namespaces=without("cgroup"))
        spec["mounts"] = [PROC, {**CGROUP, "options": ["nosuid"]}]
        code, text = box.run(spec=spec, cgroup=manager)
        assert (code, text.split()) == (0, ["1"])

    def test_born_in_a_v2_group(self, box: Box) -> None:
        """clone3(CLONE_INTO_CGROUP) on the v2 tree of this host, whatever its controllers."""
        tree = next((p for p in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if Path(p, "cgroup.procs").exists()), None)
        if tree is None:
            pytest.skip("no cgroup v2 tree")
        group = Path(tree, f"boxwright-test-{os.getpid()}")
        group.mkdir()

        class Born:
            paths = {"": str(group)}

            def clone_fd(self) -> int:
                return os.open(group, os.O_RDONLY | os.O_DIRECTORY)

            def add(self, pid: int) -> None:
                raise AssertionError("it is born in the group")

        try:
            spec = make_spec("sh", "-c", "grep ^0: /proc/self/cgroup; ls /sys/fs/cgroup; echo end; sleep 100")
            with box.start(spec=spec, cgroup=Born()) as (init, output):
                lines = list(iter(lambda: read_line(output), "end"))
                assert (group / "cgroup.procs").read_text().split()[0] == str(init.pid)
                assert lines[0] == "0::/"
                assert "cgroup.procs" in lines
        finally:
            until(lambda: not (group / "cgroup.procs").read_text())
            group.rmdir()


class TestParents:
    def test_sibling_is_our_parents_child(self, box: Box) -> None:
        """A short-lived starter makes the shim's child: pdeathsig then follows the shim, not the starter."""
        ours, theirs = os.pipe()
        starter = os.fork()
        if starter == 0:
            try:
                os.close(ours)
                mount_fd, _ = rootfs.make_rootfs({"type": "bind", "source": str(box.root), "lock": None})
                spec = make_spec("sh", "-c", "exit 12")
                process = create_init(InitRequest(spec, mount_fd, sibling=True))
                process.wait("ready")
                process.release_gate()
                process.wait("executed")
                os.write(theirs, f"{process.pid}\n".encode())
            finally:
                os._exit(0)
        os.close(theirs)
        os.waitpid(starter, 0)
        pid = int(read_line(ours))
        os.close(ours)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 12

    def test_sibling_exec_and_its_helper(self, box: Box) -> None:
        from boxwright.libcontainer import setns
        from boxwright.libcontainer.process import ExecRequest

        ours, theirs = os.pipe()
        with box.start("sleep", "100") as (init, _):
            starter = os.fork()
            if starter == 0:
                try:
                    request = ExecRequest(
                        init.pid, init.pidfd, make_spec("sh", "-c", "exit 13")["process"], sibling=True
                    )
                    process = setns.create_exec(request)
                    process.wait("executed")
                    os.write(theirs, f"{process.pid} {process.helper_pid}\n".encode())
                finally:
                    os._exit(0)
            os.waitpid(starter, 0)
            pid, helper = map(int, read_line(ours).split())
            assert os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]) == 0
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 13
        os.close(ours)
        os.close(theirs)

    def test_sibling_that_fails(self, box: Box) -> None:
        starter = os.fork()
        if starter == 0:
            code = 1
            try:
                code = failure(lambda: box.run("nope", sibling=True)).exit_code
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(starter, 0)[1]) == 127
        with pytest.raises(ChildProcessError):  # only when all were collected
            while True:
                os.waitpid(-1, 0)


class TestNetlink:
    def test_socket_of_the_new_namespace_comes_up_early(self, box: Box) -> None:
        mount_fd, _ = rootfs.make_rootfs({"type": "bind", "source": str(box.root), "lock": None})
        process: InitProcess = create_init(InitRequest(make_spec("true"), mount_fd, wants_netlink=True))
        try:
            assert process.wait("network")[0] == "network"
            assert process.netlink_fd >= 0
            assert os.stat(f"/proc/self/fd/{process.netns_fd}").st_ino == os.stat(f"/proc/{process.pid}/ns/net").st_ino
            process.wait("ready")
            process.release_gate()
            process.wait("executed")
            assert pidfd.wait(process.pidfd) == 0
        finally:
            process.abort()
            process.close()
            os.close(mount_fd)

    def test_settings_of_an_interface_wait_for_the_gate(self, box: Box) -> None:
        spec = make_spec("cat", "/proc/sys/net/ipv4/conf/late0/forwarding")
        spec["linux"]["sysctl"] = {"net.ipv4.conf.late0.forwarding": "1"}
        assert failure(lambda: box.run(spec=spec)).step == "sysctls"

        def add_link(process: InitProcess) -> None:
            pid = os.fork()
            if pid == 0:
                try:
                    namespaces.setns(process.netns_fd, namespaces.CLONE_NEWNET)
                    os._exit(
                        os.spawnvp(
                            os.P_WAIT, "ip", ["ip", "link", "add", "late0", "type", "veth", "peer", "name", "late1"]
                        )
                    )
                finally:
                    os._exit(1)
            if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
                pytest.fail("no interface could be made")

        with box.start(spec=spec, gate=add_link) as (process, output):
            assert finish(process, output) == (0, "1\n")


def test_signals_of_a_parent_are_not_the_childs(box: Box) -> None:
    """A handler and its wakeup descriptor stay the parent's."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    wakeup = signal.set_wakeup_fd(theirs)
    try:
        with box.start("sleep", "100", gate=lambda p: pidfd.send_signal(p.pidfd, signal.SIGTERM)) as (process, _):
            os.set_blocking(ours, False)
            with pytest.raises(BlockingIOError):
                os.read(ours, 1)
            assert process.pid
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, before)
        os.close(ours)
        os.close(theirs)
