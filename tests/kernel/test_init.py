"""A container's first process on the real kernel: what it sees, what it may do, and how it fails."""

import os
import signal
import stat
import sys
from pathlib import Path

import pytest
from kernel.containers import (
    CAPABILITIES,
    DEV,
    MQUEUE,
    PROC,
    PTS,
    Box,
    execute,
    failure,
    finish,
    make_spec,
    read_all,
    read_line,
    until,
)

from boxwright.errdefs import StepError
from boxwright.libcontainer import console
from boxwright.linux import pidfd

pytestmark = pytest.mark.root


def status_fields(text: str) -> dict[str, str]:
    return {k: v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}


def test_is_pid_1_of_its_own_namespaces(box: Box) -> None:
    script = "echo $$; for n in mnt pid net uts ipc cgroup user; do readlink /proc/self/ns/$n; done; ls /sys/class/net"
    pid, *rest = box.script(script).split()
    assert pid == "1"
    names = ("mnt", "pid", "net", "uts", "ipc", "cgroup", "user")
    ours = [os.readlink(f"/proc/self/ns/{name}") for name in names]
    assert [a == b for a, b in zip(rest, ours, strict=False)] == [False] * 6 + [True]
    assert rest[7:] == ["lo"]


def test_loopback_is_up(box: Box) -> None:
    assert int(box.script("cat /sys/class/net/lo/flags"), 16) & 1


def test_host_and_domain_name(box: Box) -> None:
    spec = make_spec("sh", "-c", "hostname; cat /proc/sys/kernel/domainname")
    spec.update(hostname="boxy", domainname="example.org")
    assert box.run(spec=spec) == (0, "boxy\nexample.org\n")


def test_inherits_no_ignored_or_blocked_signal(box: Box) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        fields = status_fields(box.run("cat", "/proc/self/status")[1])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        signal.signal(signal.SIGUSR2, before)
    assert (int(fields["SigIgn"], 16), int(fields["SigBlk"], 16)) == (0, 0)


def test_the_c_librarys_own_signals_are_not_ignored() -> None:
    """32 and 33, which posix_spawn(3) leaves ignored, and no function of the C library sets."""
    program = "from boxwright.linux import signals; signals.reset(); print(open('/proc/self/status').read())"
    read, write = os.pipe()
    pid = os.posix_spawn(
        sys.executable, [sys.executable, "-c", program], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)], setsigdef=[signal.SIGTERM],
    )  # fmt: skip
    os.close(write)
    with open(read) as output:
        fields = status_fields(output.read())
    assert os.waitpid(pid, 0)[1] == 0
    assert int(fields["SigIgn"], 16) == 0


def test_leads_a_session(box: Box) -> None:
    assert box.run("cat", "/proc/self/stat")[1].split()[5] == "1"


def test_default_capabilities_and_nothing_inheritable(box: Box) -> None:
    fields = status_fields(box.run("cat", "/proc/self/status")[1])
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == int(fields["CapBnd"], 16) == 0xA80425FB
    assert int(fields["CapInh"], 16) == int(fields["CapAmb"], 16) == 0
    assert fields["NoNewPrivs"] == "0"


def test_a_user_loses_effective_capabilities_but_keeps_the_bound(box: Box) -> None:
    spec = make_spec("cat", "/proc/self/status", user={"username": "alice"})
    fields = status_fields(box.run(spec=spec)[1])
    assert (int(fields["CapEff"], 16), int(fields["CapBnd"], 16)) == (0, 0xA80425FB)
    assert fields["Uid"].split() == ["1000"] * 4
    assert fields["Groups"].split() == ["10", "29", "1000"]


def test_ambient_capabilities_reach_a_user(box: Box) -> None:
    sets = {name: ["CAP_NET_BIND_SERVICE"] for name in ("bounding", "effective", "permitted", "ambient")}
    spec = make_spec("cat", "/proc/self/status", user={"username": "alice"}, capabilities=sets)
    fields = status_fields(box.run(spec=spec)[1])
    assert int(fields["CapEff"], 16) == int(fields["CapAmb"], 16) == 1 << 10


def test_no_new_privileges(box: Box) -> None:
    spec = make_spec("cat", "/proc/self/status", noNewPrivileges=True)
    assert status_fields(box.run(spec=spec)[1])["NoNewPrivs"] == "1"


def test_unknown_capability_is_refused(box: Box) -> None:
    spec = make_spec("true", capabilities={"bounding": ["CAP_NOPE"]})
    assert "CAP_NOPE" in str(failure(lambda: box.run(spec=spec)))


@pytest.mark.parametrize(("umask", "shown"), [(None, "0022"), (0o077, "0077"), (0, "0000")])
def test_umask(box: Box, umask: int | None, shown: str) -> None:
    user = {"username": ""} if umask is None else {"username": "", "umask": umask}
    assert box.script("umask", spec=make_spec("sh", "-c", "umask", user=user)).strip() == shown


def test_rlimits(box: Box) -> None:
    limits = [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    spec = make_spec("cat", "/proc/self/limits", rlimits=limits)
    lines = box.run(spec=spec)[1].splitlines()
    assert next(line.split()[3:5] for line in lines if line.startswith("Max open files")) == ["64", "128"]
    assert next(line.split()[4:6] for line in lines if line.startswith("Max core")) == ["0", "0"]


def test_an_rlimit_that_cannot_be_set_is_told(box: Box) -> None:
    error = failure(lambda: box.run(spec=make_spec("true", rlimits=[{"type": "RLIMIT_X", "soft": 1, "hard": 1}])))
    assert (error.step, error.path) == ("rlimits", "RLIMIT_X")


def test_oom_score_adj(box: Box) -> None:
    assert box.run(spec=make_spec("cat", "/proc/self/oom_score_adj", oomScoreAdj=500)) == (0, "500\n")


def test_sysctls_of_own_namespaces(box: Box) -> None:
    spec = make_spec(
        "sysctl", "-n", "net.ipv4.ip_unprivileged_port_start", "kernel.msgmax", "net.ipv4.conf.lo.forwarding"
    )
    spec["linux"]["sysctl"] = {
        "net.ipv4.ip_unprivileged_port_start": "0",
        "kernel.msgmax": "12345",
        "net.ipv4.conf.lo.forwarding": "1",
    }
    assert box.run(spec=spec) == (0, "0\n12345\n1\n")
    assert Path("/proc/sys/kernel/msgmax").read_text() != "12345\n"


def test_a_sysctl_that_is_not_there_is_told(box: Box) -> None:
    spec = make_spec("true")
    spec["linux"]["sysctl"] = {"net.nope": "1"}
    error = failure(lambda: box.run(spec=spec))
    assert (error.step, error.path, error.exit_code) == ("sysctls", "/proc/sys/net/nope", 128)


def test_environment_is_the_specs_plus_home(box: Box) -> None:
    os.environ["BOXWRIGHT_TEST_SECRET"] = "x"
    try:
        code, text = box.run("env", spec=make_spec("env", env=["PATH=/bin", "A=1", "A=2"], user={"username": "alice"}))
    finally:
        del os.environ["BOXWRIGHT_TEST_SECRET"]
    assert code == 0
    assert sorted(text.split()) == ["A=2", "HOME=/home/alice", "PATH=/bin"]


def test_working_directory_is_made(box: Box) -> None:
    assert box.run(spec=make_spec("pwd", cwd="/srv/a/b")) == (0, "/srv/a/b\n")
    assert stat.S_IMODE((box.root / "srv/a/b").stat().st_mode) == 0o755


def test_working_directory_that_is_a_file(box: Box) -> None:
    error = failure(lambda: box.run(spec=make_spec("pwd", cwd="/etc/passwd")))
    assert str(error).startswith("Cannot mkdir: /etc/passwd is not a directory")


def test_streams_belong_to_the_user(box: Box) -> None:
    spec = make_spec("sh", "-c", "echo hello > /dev/stdout", user={"username": "alice"})
    assert box.run(spec=spec) == (0, "hello\n")


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["foo"], 127, 'exec: "foo": executable file not found in $PATH'),
        (["/x"], 127, 'exec: "/x": stat /x: no such file or directory'),
        (["/etc"], 126, 'exec: "/etc": is a directory'),
        (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
        (["/etc/passwd/x"], 127, 'exec: "/etc/passwd/x": stat /etc/passwd/x: not a directory'),
        ([""], 127, 'exec: "": executable file not found in $PATH'),
        (["/etc/noformat"], 126, "exec /etc/noformat: exec format error"),
        (["/etc/nointerp"], 127, "exec /etc/nointerp: no such file or directory"),
    ],
)
def test_programs_that_cannot_run(box: Box, args: list[str], code: int, text: str) -> None:
    for name, content in (("noformat", "true\n"), ("nointerp", "#!/nope/sh\n")):
        (box.root / "etc" / name).write_text(content)
        (box.root / "etc" / name).chmod(0o755)
    error = failure(lambda: box.run(*args))
    assert (str(error), error.exit_code, error.step) == (text, code, "execve")


def test_a_program_that_only_its_owner_may_run(box: Box) -> None:
    (box.root / "bin/busybox").chmod(0o700)
    error = failure(lambda: box.run(spec=make_spec("/bin/true", user={"username": "alice"})))
    assert (error.exit_code, str(error)) == (126, 'exec: "/bin/true": permission denied')


def test_exit_codes(box: Box) -> None:
    assert box.run("sh", "-c", "exit 7")[0] == 7
    # PID 1 cannot kill itself by a signal, so the shell is killed from outside.
    with box.start("sleep", "100") as (process, _):
        pidfd.send_signal(process.pidfd, signal.SIGKILL)
        assert pidfd.wait(process.pidfd) == 137


def test_timeline_names_every_step(box: Box) -> None:
    seen: list[str] = []
    with box.start("true", gate=lambda p: None) as (process, _):
        pidfd.wait(process.pidfd)
    with box.start("sleep", "1") as (process, _):
        seen = [step[0] for step in process._steps]
    assert seen == ["gate", "credentials", "execve"]


def test_dev(box: Box) -> None:
    script = (
        "cd /dev; for n in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' $n; done; "
        "for n in fd stdin stdout stderr ptmx core; do echo $n $(readlink $n); done"
    )
    lines = box.script(script).splitlines()
    assert lines[0] == "null character special file 1:3 666"
    assert [line.split()[-2] for line in lines[:6]] == ["1:3", "1:5", "1:7", "1:8", "1:9", "5:0"]
    assert lines[6:] == [
        "fd /proc/self/fd",
        "stdin /proc/self/fd/0",
        "stdout /proc/self/fd/1",
        "stderr /proc/self/fd/2",
        "ptmx pts/ptmx",
        "core /proc/kcore",
    ]


def test_devices_of_the_spec(box: Box) -> None:
    spec = make_spec("stat", "-c", "%t:%T %a %u %g", "/dev/mine/x")
    spec["linux"]["devices"] = [
        {"path": "/dev/mine/x", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4}
    ]
    assert box.run(spec=spec) == (0, "1:5 640 3 4\n")


def test_masked_and_read_only_paths(box: Box) -> None:
    script = "cat /proc/keys; ls /sys/firmware /proc/scsi; (echo 4321 > /proc/sys/kernel/msgmax) 2>&1 || true"
    assert "Read-only file system" in box.script(script).splitlines()[-1]
    assert box.script("stat -c '%F %t:%T' /proc/keys; ls /proc/acpi | wc -l") == "character special file 1:3\n0\n"


def test_read_only_root_with_writable_mounts(box: Box) -> None:
    spec = make_spec("sh", "-c", "touch /x 2>&1; touch /dev/y && echo ok")
    spec["root"]["readonly"] = True
    assert box.run(spec=spec) == (0, "touch: /x: Read-only file system\nok\n")


def test_read_only_tmpfs_still_gets_its_mount_points(box: Box) -> None:
    spec = make_spec("sh", "-c", "touch /dev/y 2>&1; ls /dev/pts /dev/null")
    spec["mounts"][1] = {**DEV, "options": [*DEV["options"], "ro"]}
    assert box.run(spec=spec)[1].splitlines()[0] == "touch: /dev/y: Read-only file system"


def test_the_hosts_tree_is_gone(box: Box) -> None:
    text = box.script("cat /proc/self/mountinfo")
    targets = {line.split()[4] for line in text.splitlines()}
    allowed = {"/", "/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys"}
    assert {t for t in targets if not t.startswith(("/proc/", "/sys/"))} <= allowed


def test_own_descriptors_only(box: Box) -> None:
    assert box.run("ls", "/proc/self/fd")[1].split() == ["0", "1", "2", "3"]  # 3 is ls's own


def test_passed_descriptors(box: Box, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("first")
    (tmp_path / "b").write_text("second")
    fds = [os.open(tmp_path / name, os.O_RDONLY) for name in "ab"]
    try:
        assert box.script("cat <&3; cat <&4", keep_fds=fds) == "firstsecond"
    finally:
        for fd in fds:
            os.close(fd)


def test_cgroup_mount(box: Box) -> None:
    text = box.script("cat /proc/self/cgroup; ls /sys/fs/cgroup; touch /sys/fs/cgroup/x 2>&1 || true")
    assert "Read-only file system" in text


def test_terminal(box: Box) -> None:
    spec = make_spec("sh", "-c", "tty; stty size; ls -l /dev/console; echo $(ps -o tty | tail -1)", terminal=True)
    spec["process"]["consoleSize"] = {"height": 33, "width": 77}
    with box.start(spec=spec) as (process, output):
        text = read_all(output)
        assert pidfd.wait(process.pidfd) == 0
    lines = text.split("\r\n")
    assert lines[:2] == ["/dev/pts/0", "33 77"]
    assert "136," in lines[2]


def test_terminal_resize_reaches_the_program(box: Box) -> None:
    script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.01; done"
    with box.start(spec=make_spec("sh", "-c", script, terminal=True)) as (_, output):
        assert read_line(output) == "ready"
        console.resize(output, 11, 22)
        assert read_line(output) == "11 22"


def test_terminal_signals(box: Box) -> None:
    with box.start(
        spec=make_spec(
            "sh", "-c", "trap 'echo int; exit 3' INT; echo ready; while :; do sleep 0.01; done", terminal=True
        )
    ) as (
        process,
        output,
    ):
        assert read_line(output) == "ready"
        os.write(output, b"\x03")
        assert "int" in read_all(output)
        assert pidfd.wait(process.pidfd) == 3


class TestInitProcess:
    """`--init`: PID 1 is ours, the program its child."""

    def test_exit_code_and_reaping(self, box: Box) -> None:
        script = "(sleep 0 &); ps -o pid,args; exit 9"
        code, text = box.run("sh", "-c", script, init=True)
        assert code == 9
        assert "/sbin/docker-init -- sh -c" in text
        assert "python" not in text

    def test_nothing_of_the_launcher_shows(self, box: Box) -> None:
        capabilities = {k: [*CAPABILITIES, "CAP_SYS_PTRACE"] for k in ("bounding", "effective", "permitted")}
        script = "cat /proc/1/comm; ls /proc/1/fd; cat /proc/1/cmdline /proc/1/environ"
        code, text = box.run(spec=make_spec("sh", "-c", script, capabilities=capabilities), init=True)
        comm, rest = text.split("\n", 1)
        assert (code, comm) == (0, "docker-init")
        assert rest.replace("\0", " ").startswith("/sbin/docker-init -- sh -c cat")
        assert "PATH=" not in rest
        assert "python" not in rest

    def test_signals_are_passed_on(self, box: Box) -> None:
        script = "trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.01; done"
        with box.start("sh", "-c", script, init=True) as (process, output):
            assert read_line(output) == "ready"
            pidfd.send_signal(process.pidfd, signal.SIGTERM)
            assert finish(process, output) == (5, "term\n")

    def test_a_program_killed_by_a_signal(self, box: Box) -> None:
        assert box.run("sh", "-c", "kill -KILL $$", init=True)[0] == 137

    def test_orphans_are_reaped(self, box: Box) -> None:
        with box.start("sh", "-c", "(sleep 0.02 & sleep 0.01 &); echo ready; exec sleep 100", init=True) as (
            process,
            output,
        ):
            assert read_line(output) == "ready"
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            until(lambda: len(children.read_text().split()) == 1)

    def test_failures_cross(self, box: Box) -> None:
        error = failure(lambda: box.run("nope", init=True))
        assert (error.exit_code, str(error)) == (127, 'exec: "nope": executable file not found in $PATH')

    def test_with_a_terminal_the_program_is_in_the_foreground(self, box: Box) -> None:
        spec = make_spec(
            "sh", "-c", "trap 'echo int; exit 4' INT; echo ready; while :; do sleep 0.01; done", terminal=True
        )
        with box.start(spec=spec, init=True) as (process, output):
            assert read_line(output) == "ready"
            os.write(output, b"\x03")
            assert "int" in read_all(output)
            assert pidfd.wait(process.pidfd) == 4


class TestGate:
    def test_a_closed_gate_ends_the_child_without_a_trace(self, box: Box) -> None:
        ran = box.root / "tmp/ran"

        def close(process: object) -> None:
            process.abort()  # type: ignore[attr-defined]

        with pytest.raises(StepError), box.start("touch", "/tmp/ran", gate=close):
            pass
        assert not ran.exists()

    def test_the_parents_death_ends_the_child(self, box: Box) -> None:
        """The shim is killed while the container runs, as a user other than root: rule 12."""
        ours, theirs = os.pipe()
        parent = os.fork()
        if parent == 0:
            try:
                os.close(ours)
                spec = make_spec("sleep", "100", user={"username": "alice"})
                with box.start(spec=spec) as (process, _):
                    os.write(theirs, f"{process.pid}\n".encode())
                    signal.pause()
            finally:
                os._exit(1)
        os.close(theirs)
        pid = int(read_line(ours))
        fd = pidfd.open_pid(pid)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        import select

        assert select.select([fd], [], [], 10)[0], "the container survived its shim"
        os.close(fd)
        os.close(ours)


def test_mqueue_and_devpts_belong_to_the_container(box: Box) -> None:
    spec = make_spec("sh", "-c", "ls /dev/mqueue; ls /dev/pts")
    assert spec["mounts"][:3] == [PROC, DEV, PTS]
    assert MQUEUE in spec["mounts"]
    assert box.run(spec=spec)[1].split() == ["ptmx"]


def test_exec_in_a_container(box: Box) -> None:
    with box.start("sleep", "100") as (init, _):
        with execute(init, "sh", "-c", "echo $$ $PPID; exit 4") as (process, output):
            code, text = finish(process, output)
        assert code == 4
        assert text.split()[1] == "0"
