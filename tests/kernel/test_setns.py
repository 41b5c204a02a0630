"""`docker exec`: entering a running container, and meeting its end."""

import contextlib
import os
import signal

import pytest
from kernel.containers import CAPABILITIES, Box, execute, failure, finish, make_spec, read_line

from boxwright.errdefs import StepError
from boxwright.libcontainer import console, setns
from boxwright.libcontainer.process import ExecRequest, InitProcess
from boxwright.linux import pidfd

pytestmark = pytest.mark.root
NAMES = ("mnt", "pid", "net", "uts", "ipc", "cgroup")


@pytest.fixture
def running(box: Box) -> object:
    with box.start(spec={**make_spec("sleep", "100"), "hostname": "inside"}) as (process, _):
        yield process


def run(init: InitProcess, *args: str, **process: object) -> tuple[int, str]:
    with execute(init, *args, **process) as (child, output):
        return finish(child, output)


def test_is_in_every_namespace(running: InitProcess) -> None:
    script = "for n in mnt pid net uts ipc cgroup; do readlink /proc/self/ns/$n; done; hostname"
    code, text = run(running, "sh", "-c", script)
    assert code == 0
    assert text.split() == [*(os.readlink(f"/proc/{running.pid}/ns/{name}") for name in NAMES), "inside"]


def test_is_our_child_and_its_helper_is_gone(running: InitProcess) -> None:
    with execute(running, "sleep", "100") as (child, _):
        assert child.helper_pid not in (0, child.pid)
        assert not os.path.exists(f"/proc/{child.helper_pid}")
        with open(f"/proc/{child.pid}/stat") as file:
            assert int(file.read().rpartition(")")[2].split()[1]) == os.getpid()


def test_exit_codes(running: InitProcess) -> None:
    assert run(running, "sh", "-c", "exit 5")[0] == 5
    assert run(running, "sh", "-c", "kill -TERM $$")[0] == 143


def test_leads_a_session(running: InitProcess) -> None:
    fields = run(running, "cat", "/proc/self/stat")[1].split()
    assert fields[0] == fields[4] == fields[5]


def test_user_groups_and_home(running: InitProcess) -> None:
    code, text = run(running, "sh", "-c", "id -u; id -g; id -G; echo $HOME", user={"username": "alice:wheel"})
    assert (code, text.splitlines()) == (0, ["1000", "10", "10", "/home/alice"])


def test_additional_groups(running: InitProcess) -> None:
    user = {"username": "alice", "additionalGids": [77], "additionalGroups": ["wheel", "88"]}
    assert run(running, "id", "-G", user=user)[1].split() == ["1000", "10", "29", "77", "88"]


def test_working_directory(running: InitProcess) -> None:
    assert run(running, "pwd", cwd="/etc") == (0, "/etc\n")


@pytest.mark.parametrize(
    ("cwd", "reason"), [("/nope", "no such file or directory"), ("/etc/passwd", "not a directory")]
)
def test_working_directory_that_is_not_there(running: InitProcess, cwd: str, reason: str) -> None:
    error = failure(lambda: run(running, "pwd", cwd=cwd))
    assert str(error) == f'chdir to cwd ("{cwd}") set in config.json failed: {reason}'
    assert error.exit_code == 127


def test_capabilities(running: InitProcess) -> None:
    text = run(running, "grep", "Cap", "/proc/self/status")[1]
    assert "CapEff:\t00000000a80425fb" in text
    everything = [*CAPABILITIES, "CAP_SYS_ADMIN"]
    sets = dict.fromkeys(("bounding", "effective", "permitted"), everything)
    assert "CapEff:\t00000000a82425fb" in run(running, "grep", "Cap", "/proc/self/status", capabilities=sets)[1]


def test_rlimits_and_oom_score(running: InitProcess) -> None:
    limits = [{"type": "RLIMIT_NOFILE", "soft": 33, "hard": 44}]
    assert run(running, "sh", "-c", "ulimit -n", rlimits=limits) == (0, "33\n")
    assert run(running, "cat", "/proc/self/oom_score_adj", oomScoreAdj=300) == (0, "300\n")


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["foo"], 127, 'exec: "foo": executable file not found in $PATH'),
        (["/x"], 127, 'exec: "/x": stat /x: no such file or directory'),
        (["/etc"], 126, 'exec: "/etc": is a directory'),
        (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_programs_that_cannot_run(running: InitProcess, args: list[str], code: int, text: str) -> None:
    error = failure(lambda: run(running, *args))
    assert (str(error), error.exit_code) == (text, code)


def test_unknown_user(running: InitProcess) -> None:
    error = failure(lambda: run(running, "id", user={"username": "bob"}))
    assert str(error) == "unable to find user bob: no matching entries in passwd file"


def test_terminal(running: InitProcess) -> None:
    size = {"height": 12, "width": 34}
    with execute(running, "sh", "-c", "tty; stty size", terminal=True, consoleSize=size) as (child, output):
        assert read_line(output) == "/dev/pts/0"
        assert read_line(output) == "12 34"
        assert pidfd.wait(child.pidfd) == 0


def test_terminal_resize_and_interrupt(running: InitProcess) -> None:
    script = "trap 'stty size' WINCH; trap 'exit 9' INT; echo ready; while :; do sleep 0.01; done"
    with execute(running, "sh", "-c", script, terminal=True) as (child, output):
        assert read_line(output) == "ready"
        console.resize(output, 5, 6)
        assert read_line(output) == "5 6"
        os.write(output, b"\x03")
        assert pidfd.wait(child.pidfd) == 9


def test_container_that_is_gone(box: Box) -> None:
    with box.start("sleep", "100") as (init, _):
        pidfd.send_signal(init.pidfd, signal.SIGKILL)
        error = failure(lambda: run(init, "true"))
    assert (str(error), error.errno) == ("the container is not running", 3)


def test_racing_the_containers_end(box: Box) -> None:
    """At whatever instant the container ends, an exec either ran or says that it is not running (rule 13)."""
    for _ in range(25):
        with box.start("sleep", "100") as (init, _):
            request = ExecRequest(init.pid, init.pidfd, make_spec("sleep", "100")["process"])
            child = setns.create_exec(request)
            pidfd.send_signal(init.pidfd, signal.SIGKILL)
            try:
                child.wait("executed")
                assert pidfd.wait(child.pidfd) == 137
            except StepError as error:
                assert error.errno == 3, error.to_dict()
            finally:
                child.abort()
                child.close()


def test_dies_with_its_container(box: Box) -> None:
    with contextlib.ExitStack() as stack:
        init, _ = stack.enter_context(box.start("sleep", "100"))
        child, _ = stack.enter_context(execute(init, "sleep", "100"))
        pidfd.send_signal(init.pidfd, signal.SIGKILL)
        assert pidfd.wait(child.pidfd) == 137


def test_timeline(running: InitProcess) -> None:
    child = setns.create_exec(ExecRequest(running.pid, running.pidfd, make_spec("true")["process"]))
    try:
        before = [step[0] for step in child.wait("ready")[1]]
        after = [step[0] for step in child.wait("executed")[1]]
    finally:
        child.abort()
        child.close()
    assert before == ["cgroup", "namespaces", "user", "cwd"]
    assert after == ["credentials", "execve"]
