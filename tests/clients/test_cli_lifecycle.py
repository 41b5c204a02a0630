"""create, start, stop, kill, restart, pause, wait, rename, rm, ps, top, events, exec, logs, attach through the docker CLI."""

import json
import re
import subprocess
import time
from collections.abc import Iterator

import pytest
from support.engine import Engine, wait_for
from support.terminal import Terminal

pytestmark = [pytest.mark.root, pytest.mark.network]

SLEEPER = ("busybox", "sleep", "600")
TRAPS = ("busybox", "sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done")


@pytest.fixture
def box(engine: Engine) -> Iterator[str]:
    """A running container that sleeps; removed at the end."""
    engine.ok("run", "-d", "--name", "box", *SLEEPER)
    yield "box"
    engine.docker("rm", "-f", "box")


def state(engine: Engine, name: str) -> dict[str, object]:
    found: dict[str, object] = engine.inspect(name)["State"]
    return found


def test_create_start_wait_logs_rm(engine: Engine) -> None:
    engine.ok("create", "--name", "steps", "busybox", "sh", "-c", "echo one; exit 4")
    assert state(engine, "steps")["Status"] == "created"
    assert engine.ok("start", "steps") == "steps"
    assert engine.ok("wait", "steps") == "4"
    assert engine.ok("logs", "steps") == "one"
    assert engine.ok("ps", "-a", "--filter", "name=steps", "--format", "{{.Status}}").startswith("Exited (4)")
    assert engine.ok("rm", "steps") == "steps"
    assert engine.docker("inspect", "steps").code == 1


def test_start_attached_gives_output_and_code(engine: Engine) -> None:
    engine.ok("create", "--name", "again", "busybox", "sh", "-c", "echo run; exit 6")
    for _ in range(3):
        ran = engine.docker("start", "-a", "again")
        assert (ran.out, ran.code) == ("run\n", 6)
    assert engine.ok("logs", "again") == "run\nrun\nrun"
    engine.ok("rm", "again")


def test_start_with_stdin(engine: Engine) -> None:
    engine.ok("create", "-i", "--name", "reader", "busybox", "cat")
    assert engine.ok("start", "-ai", "reader", stdin=b"typed\n") == "typed"
    engine.ok("rm", "reader")


def test_stop_uses_the_signal_and_then_kills(engine: Engine) -> None:
    engine.ok("run", "-d", "--name", "polite", *TRAPS)
    wait_for(lambda: engine.ok("logs", "polite") == "up", "the trap is set")
    assert engine.ok("stop", "polite") == "polite"
    assert state(engine, "polite")["ExitCode"] == 3
    engine.ok("rm", "polite")
    engine.ok("run", "-d", "--name", "stubborn", *SLEEPER)  # sleep as PID 1 ignores SIGTERM
    start = time.monotonic()
    engine.ok("stop", "-t", "1", "stubborn")
    assert time.monotonic() - start < 8
    assert state(engine, "stubborn")["ExitCode"] == 137
    engine.ok("rm", "stubborn")


def test_kill(engine: Engine, box: str) -> None:
    assert engine.ok("kill", box) == box
    wait_for(lambda: not state(engine, box)["Running"], "the container ends")
    assert state(engine, box)["ExitCode"] == 137
    ran = engine.docker("kill", box)
    assert ran.code == 1
    assert re.search(r"(?i)cannot kill container: box: .*is not running", ran.err), ran


def test_kill_with_a_signal_by_name_and_number(engine: Engine) -> None:
    script = "trap 'echo usr1' USR1; trap 'echo hup' HUP; echo up; while :; do sleep 0.05; done"
    engine.ok("run", "-d", "--name", "signals", "busybox", "sh", "-c", script)
    wait_for(lambda: "up" in engine.ok("logs", "signals"), "the traps are set")
    engine.ok("kill", "-s", "USR1", "signals")
    wait_for(lambda: "usr1" in engine.ok("logs", "signals"), "SIGUSR1 arrives")
    engine.ok("kill", "-s", "1", "signals")
    wait_for(lambda: "hup" in engine.ok("logs", "signals"), "SIGHUP arrives")
    assert engine.docker("kill", "-s", "NOSUCH", "signals").code == 1
    engine.ok("rm", "-f", "signals")


def test_restart_keeps_the_container(engine: Engine, box: str) -> None:
    before = engine.inspect(box)
    assert engine.ok("restart", "-t", "0", box) == box
    after = engine.inspect(box)
    assert before["Id"] == after["Id"]
    assert before["State"]["Pid"] != after["State"]["Pid"]
    assert after["State"]["Running"]


def test_pause_and_unpause(engine: Engine, box: str) -> None:
    assert engine.ok("pause", box) == box
    assert state(engine, box)["Status"] == "paused"
    assert "(Paused)" in engine.ok("ps", "--filter", "name=box", "--format", "{{.Status}}")
    assert engine.docker("exec", box, "true").code == 1
    assert engine.docker("pause", box).code == 1
    assert engine.ok("unpause", box) == box
    assert state(engine, box)["Status"] == "running"
    assert engine.docker("unpause", box).code == 1


def test_stop_of_a_paused_container(engine: Engine, box: str) -> None:
    engine.ok("pause", box)
    engine.ok("rm", "-f", box)


def test_rename(engine: Engine, box: str) -> None:
    engine.ok("rename", box, "other")
    assert engine.inspect("other")["Name"] == "/other"
    assert engine.docker("inspect", "box").code == 1
    engine.ok("rename", "other", box)
    assert engine.docker("rename", box, "").code != 0


def test_rm_refuses_the_running(engine: Engine, box: str) -> None:
    ran = engine.docker("rm", box)
    assert ran.code == 1
    assert re.search(r"(?i)cannot remove .*container.*running|cannot remove a running", ran.err), ran
    assert engine.ok("rm", "-f", box) == box


def test_ps_filters(engine: Engine, box: str) -> None:
    engine.ok("create", "--name", "second", "--label", "color=red", "-p", "0:80", "configured:1.0")

    def names(*filters: str) -> set[str]:
        flags = [flag for f in filters for flag in ("--filter", f)]
        return set(engine.ok("ps", "-a", "--format", "{{.Names}}", *flags).split())

    assert names("status=running") == {"box"}
    assert names("status=created") == {"second"}
    assert names("label=color") == {"second"}
    assert names("label=color=blue") == set()
    assert names("ancestor=busybox") == {"box"}
    assert names("name=sec") == {"second"}
    assert names("since=box") == {"second"}
    assert names("before=second") == {"box"}
    engine.ok("run", "-d", "--name", "third", "-p", "0:80", *SLEEPER)
    assert names("expose=80") == {"third"}  # what an image exposes counts once the container runs
    engine.ok("rm", "-f", "third")
    assert names("network=bridge") >= {"box", "second"}
    assert names("id=" + engine.inspect("second")["Id"][:12]) == {"second"}
    assert engine.ok("ps", "-lq") == engine.inspect("second")["Id"][:12]
    assert engine.docker("ps", "--filter", "nonsense=1").code == 1
    engine.ok("rm", "second")


def test_ps_table(engine: Engine, box: str) -> None:
    lines = engine.ok("ps").splitlines()
    assert re.match(r"CONTAINER ID +IMAGE +COMMAND +CREATED +STATUS +PORTS +NAMES", lines[0])
    assert re.search(r'busybox +"sleep 600" +.* Up .* +box', lines[1])


def test_top(engine: Engine, box: str) -> None:
    lines = engine.ok("top", box).splitlines()
    assert re.match(r"UID +PID +PPID +C +STIME +TTY +TIME +CMD", lines[0])
    assert lines[1].endswith("sleep 600")
    assert engine.ok("top", box, "-o", "pid,comm").splitlines()[0].split() == ["PID", "COMMAND"]


def test_inspect_with_a_template(engine: Engine, box: str) -> None:
    assert (
        engine.ok("inspect", "-f", "{{.State.Running}} {{.Config.Image}} {{.Path}} {{.Args}}", box)
        == "true busybox sleep [600]"
    )
    assert re.fullmatch(
        r"172\.\d+\.\d+\.\d+", engine.ok("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", box)
    )
    ran = engine.docker("inspect", "nobody")
    assert ran.code == 1
    assert re.search(r"(?i)no such object: nobody", ran.err)


def test_exec(engine: Engine, box: str) -> None:
    assert engine.ok("exec", box, "echo", "inside") == "inside"
    assert engine.docker("exec", box, "sh", "-c", "exit 9").code == 9
    assert (
        engine.ok("exec", "-e", "X=y", "-w", "/tmp", "-u", "user", box, "sh", "-c", "echo $X $PWD; id -u")
        == "y /tmp\n1000"
    )
    assert engine.ok("exec", "-i", box, "cat", stdin=b"piped") == "piped"
    ran = engine.docker("exec", box, "sh", "-c", "echo o; echo e >&2")
    assert (ran.out, ran.err) == ("o\n", "e\n")
    assert engine.docker("exec", box, "no-such-program").code in (126, 127)
    engine.ok("exec", "-d", box, "touch", "/tmp/touched")
    wait_for(lambda: engine.docker("exec", box, "test", "-e", "/tmp/touched").code == 0, "the detached exec runs")
    effective = engine.ok("exec", "--privileged", box, "grep", "CapEff", "/proc/self/status").split()[1]
    assert int(effective, 16) > 0xA80425FB
    assert engine.ok("exec", box, "grep", "CapEff", "/proc/self/status").split()[1] == "00000000a80425fb"


def test_exec_has_the_variables_of_links(engine: Engine) -> None:
    """As long as the linked container runs; what the exec names itself, or takes away, counts."""
    engine.ok("run", "-d", "--name", "db", "-e", "K=v", "busybox", "sleep", "600")
    engine.ok("run", "-d", "--name", "web", "--link", "db:al", "-e", "OWN=1", "busybox", "sleep", "600")
    shown = ("web", "sh", "-c", "echo $AL_NAME $AL_ENV_K $OWN")
    try:
        assert engine.ok("exec", *shown) == "/web/al v 1"
        assert engine.ok("exec", "-e", "AL_ENV_K=mine", "-e", "OWN", *shown) == "/web/al mine"
        engine.ok("stop", "-t", "0", "db")
        assert engine.ok("exec", *shown) == "1"
    finally:
        engine.ok("rm", "-f", "web", "db")


def test_exec_on_a_terminal(engine: Engine, box: str) -> None:
    with Terminal(["docker", "-H", engine.host, "exec", "-it", box, "sh"], rows=20, columns=70) as person:
        person.expect("# ")
        person.type("stty size; tty\n")
        person.expect("20 70")
        person.type("exit 8\n")
        assert person.wait() == 8


def test_exec_needs_a_running_container(engine: Engine) -> None:
    engine.ok("create", "--name", "still", "busybox")
    ran = engine.docker("exec", "still", "true")
    assert ran.code == 1
    assert re.search(r"(?i)container .* is not running", ran.err)
    engine.ok("rm", "still")


def test_exec_ends_although_a_child_holds_its_output(engine: Engine, box: str) -> None:
    start = time.monotonic()
    assert engine.ok("exec", box, "sh", "-c", "sleep 300 & echo done") == "done"
    assert time.monotonic() - start < 20


def test_logs(engine: Engine) -> None:
    engine.ok("run", "--name", "talker", "busybox", "sh", "-c", "echo a; echo b >&2; sleep 0.1; echo c")
    ran = engine.docker("logs", "talker")
    assert (ran.out, ran.err) == ("a\nc\n", "b\n")
    assert engine.ok("logs", "--tail", "1", "talker") == "c"
    assert engine.ok("logs", "--tail", "0", "talker") == ""
    assert re.fullmatch(r"(?s)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z a\n.*", engine.ok("logs", "-t", "talker"))
    assert engine.ok("logs", "--since", "1h", "talker") == "a\nc"
    assert engine.ok("logs", "--until", "1h", "talker") == ""
    assert engine.ok("logs", "-f", "talker") == "a\nc"
    engine.ok("rm", "talker")
    ran = engine.docker("logs", "talker")
    assert ran.code == 1
    assert "No such container: talker" in ran.err


def test_logs_follow_until_the_end(engine: Engine) -> None:
    engine.ok(
        "run", "-d", "--name", "counter", "busybox", "sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done"
    )
    assert engine.ok("logs", "-f", "counter").split() == list("12345")
    engine.ok("rm", "-f", "counter")


def test_attach_follows_output_and_code(engine: Engine) -> None:
    engine.ok("run", "-di", "--name", "joined", "busybox", "sh", "-c", "read line; echo got $line; exit 11")
    with engine.spawn("attach", "joined") as client:
        assert client.stdin
        assert client.stdout
        client.stdin.write(b"a line\n")
        client.stdin.flush()
        # Without StdinOnce the end of a client's stdin detaches it: keep it open until the output has come.
        assert client.stdout.readline() == b"got a line\n"
        client.stdin.close()
        assert client.wait(20) == 11
    engine.ok("rm", "joined")


def test_two_clients_see_the_same(engine: Engine) -> None:
    engine.ok("run", "-di", "--name", "shared", "busybox", "sh", "-c", "while read line; do echo $line; done")
    first, second = engine.spawn("attach", "shared"), engine.spawn("attach", "--no-stdin", "shared")
    with first, second:
        assert first.stdin
        assert first.stdout
        assert second.stdout
        # The second client is attached once it sees what the first one types.
        wait_for(lambda: engine.ok("ps", "-q", "--filter", "name=shared"), "the container runs")
        seen: list[bytes] = []
        while not seen:
            first.stdin.write(b"hello\n")
            first.stdin.flush()
            assert first.stdout.readline() == b"hello\n"
            import select

            if select.select([second.stdout], [], [], 0.1)[0]:
                seen.append(second.stdout.readline())
        assert seen == [b"hello\n"]
        engine.ok("rm", "-f", "shared")
        first.communicate(timeout=20)
        second.communicate(timeout=20)


def test_restart_policy_counts(engine: Engine) -> None:
    engine.ok("run", "-d", "--name", "flaky", "--restart", "on-failure:2", "busybox", "false")
    wait_for(lambda: state(engine, "flaky")["Status"] == "exited", "the policy gives up", 60)
    assert engine.inspect("flaky")["RestartCount"] == 2
    engine.ok("rm", "flaky")


def test_restart_always_until_stopped(engine: Engine) -> None:
    engine.ok("run", "-d", "--name", "phoenix", "--restart", "always", "busybox", "sh", "-c", "echo up; sleep 0.05")
    wait_for(lambda: engine.inspect("phoenix")["RestartCount"] >= 2, "it is started again", 60)
    engine.ok("stop", "-t", "0", "phoenix")
    assert not state(engine, "phoenix")["Running"]
    assert not state(engine, "phoenix")["Restarting"]
    engine.ok("rm", "phoenix")


def test_wait_for_several(engine: Engine) -> None:
    for name, code in (("w1", "1"), ("w2", "2")):
        engine.ok("run", "-d", "--name", name, "busybox", "sh", "-c", f"exit {code}")
    assert engine.ok("wait", "w1", "w2").split() == ["1", "2"]
    engine.ok("rm", "w1", "w2")


def test_oom_is_noticed(engine: Engine) -> None:
    engine.docker(
        "run",
        "--name",
        "hungry",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        "busybox",
        "sh",
        "-c",
        "x=a; while :; do x=$x$x; done",
    )
    found = state(engine, "hungry")
    assert (found["OOMKilled"], found["ExitCode"]) == (True, 137)
    engine.ok("rm", "hungry")


def test_events_tell_the_whole_life(engine: Engine) -> None:
    since = str(int(time.time()))
    engine.ok("run", "--rm", "--name", "watched", "busybox", "true")
    wait_for(lambda: engine.docker("inspect", "watched").code == 1, "removed")
    out = engine.ok(
        "events",
        "--since",
        since,
        "--until",
        str(time.time() + 0.1),
        "--filter",
        "container=watched",
        "--format",
        "{{json .}}",
    )
    actions = [json.loads(line)["Action"] for line in out.splitlines()]
    assert [a for a in actions if a in ("create", "attach", "start", "die", "destroy")] == [
        "create",
        "attach",
        "start",
        "die",
        "destroy",
    ]


def test_events_stream_while_they_happen(engine: Engine) -> None:
    watching = engine.spawn(
        "events", "--filter", "event=start", "--format", "{{.Actor.Attributes.name}}", stderr=subprocess.STDOUT
    )
    with watching:
        assert watching.stdout
        import select

        heard: list[bytes] = []
        for attempt in range(50):
            engine.ok("run", "--rm", "--name", f"live{attempt}", "busybox", "true")
            if select.select([watching.stdout], [], [], 0.2)[0]:
                heard.append(watching.stdout.readline())
                break
        assert heard[0].startswith(b"live")
        watching.terminate()
