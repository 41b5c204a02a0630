"""The `boxwright` command itself, for people without the docker CLI."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support import images
from support.engine import Engine, Ran, wait_for
from support.terminal import Terminal

from boxwright.cli.run import published

pytestmark = [pytest.mark.root, pytest.mark.network]
COMMAND = [sys.executable, "-m", "boxwright.cli.main"]


def boxwright(engine: Engine, *arguments: str, stdin: bytes = b"") -> Ran:
    done = subprocess.run([*COMMAND, "-H", engine.host, *arguments], input=stdin, capture_output=True, timeout=60)
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def box(engine: Engine) -> Iterator[str]:
    assert boxwright(engine, "run", "-d", "--name", "box", "busybox", "sleep", "600").code == 0
    yield "box"
    boxwright(engine, "rm", "-f", "box")


@pytest.mark.parametrize(
    ("arguments", "code", "out"),
    [
        (["busybox", "echo", "hello"], 0, "hello\n"),
        (["busybox", "sh", "-c", "exit 42"], 42, ""),
        (["-e", "A=b", "-w", "/tmp", "busybox", "sh", "-c", "echo $A $PWD"], 0, "b /tmp\n"),
        (["-u", "user", "--hostname", "hh", "busybox", "sh", "-c", "id -un; hostname"], 0, "user\nhh\n"),
        (["-m", "64m", "--cpus", "0.5", "--read-only", "--tmpfs", "/t", "busybox", "touch", "/t/x"], 0, ""),
        (["--network", "none", "busybox", "ls", "/sys/class/net"], 0, "lo\n"),
        (["--entrypoint", "echo", "busybox", "-n", "x"], 0, "x"),
        (["busybox", "no-such-program"], 127, ""),
        (["busybox", "/etc"], 126, ""),
        (["no-such-image"], 125, ""),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_run(engine: Engine, arguments: list[str], code: int, out: str) -> None:
    ran = boxwright(engine, "run", "--rm", *arguments)
    assert (ran.code, ran.out) == (code, out), ran


def test_run_takes_input_and_keeps_streams_apart(engine: Engine) -> None:
    ran = boxwright(engine, "run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo err >&2", stdin=b"typed\n")
    assert (ran.out, ran.err) == ("typed\n", "err\n")


def test_run_on_a_terminal(engine: Engine) -> None:
    with Terminal([*COMMAND, "-H", engine.host, "run", "--rm", "-it", "busybox", "sh"], rows=30, columns=90) as person:
        person.expect("# ")
        person.type("stty size\n")
        person.expect("30 90")
        person.type("exit 4\n")
        assert person.wait() == 4


def test_leaving_a_terminal(engine: Engine) -> None:
    """ctrl-p ctrl-q: the command ends, the program does not; of a run and of an exec."""
    command = [*COMMAND, "-H", engine.host]
    with Terminal([*command, "run", "-it", "--name", "left", "busybox", "sh"]) as person:
        person.expect("# ")
        person.type("\x10\x11")
        person.expect("read escape sequence")
        assert person.wait() == 0
    try:
        with Terminal([*command, "exec", "-it", "left", "sh"]) as person:
            person.expect("# ")
            person.type("\x10\x11")
            assert person.wait() == 0
        assert engine.inspect("left")["State"]["Running"]
    finally:
        boxwright(engine, "rm", "-f", "left")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 5), (signal.SIGTERM, 6), (signal.SIGUSR1, 7)], ids=lambda value: str(value)
)
def test_signals_are_the_containers(engine: Engine, number: int, code: int) -> None:
    script = "trap 'exit 5' INT; trap 'exit 6' TERM; trap 'exit 7' USR1; echo ready; while :; do usleep 10000; done"
    command = [*COMMAND, "-H", engine.host, "run", "--rm", "busybox", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None and running.stdout.readline() == b"ready\n"
            running.send_signal(number)
            assert running.wait(30) == code
        finally:
            running.kill()
    assert boxwright(engine, "ps", "-aq").out == ""


def test_a_program_that_takes_no_notice_of_signals(engine: Engine) -> None:
    """The third one ends the command; the program goes on."""
    script = "trap '' INT; echo ready; while :; do usleep 10000; done"
    command = [*COMMAND, "-H", engine.host, "run", "--name", "deaf", "busybox", "sh", "-c", script]

    def passed_on() -> int:
        told = engine.ok("events", "--since", "1m", "--until", "0s", "-f", "event=kill", "-f", "container=deaf")
        return len(told.splitlines())

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None and running.stdout.readline() == b"ready\n"
            for count in (1, 2):
                running.send_signal(signal.SIGINT)
                wait_for(lambda count=count: passed_on() == count, "it is passed on")
            assert running.poll() is None
            running.send_signal(signal.SIGINT)
            assert running.wait(30) == 1
            assert running.stderr is not None and b"got 3 SIGTERM/SIGINTs" in running.stderr.read()
            assert engine.inspect("deaf")["State"]["Running"]
        finally:
            running.kill()
            engine.ok("rm", "-f", "deaf")


def test_what_is_of_the_client(engine: Engine, tmp_path: Path) -> None:
    """Variables by name and paths with a dot are of where the command runs."""
    (tmp_path / "file").write_text("here")
    done = subprocess.run(
        [*COMMAND, "-H", engine.host, "run", "--rm", "-e", "OF_CLIENT", "-e", "NOBODYS", "-v", ".:/w:ro", "busybox",
         "sh", "-c", "echo $OF_CLIENT; env | grep -c NOBODYS; cat /w/file"],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, env={**os.environ, "OF_CLIENT": "its own"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "its own\n0\nhere"), done


PUBLISHED: list[tuple[str, dict[str, str]]] = [
    ("80", {"80/tcp": ":"}),
    ("80/UDP", {"80/udp": ":"}),
    ("8080:80", {"80/tcp": ":8080"}),
    ("127.0.0.1::80", {"80/tcp": "127.0.0.1:"}),
    ("[::1]:8080:80", {"80/tcp": "::1:8080"}),
    ("80-81", {"80/tcp": ":", "81/tcp": ":"}),
    ("127.0.0.1:8080-8081:80-81/sctp", {"80/sctp": "127.0.0.1:8080", "81/sctp": "127.0.0.1:8081"}),
    ("8080-8090:80", {"80/tcp": ":8080-8090"}),
]


@pytest.mark.parametrize(("text", "bindings"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_ports_that_are_published(text: str, bindings: dict[str, str]) -> None:
    exposed, found = published((text,))
    assert exposed == {key: {} for key in bindings}
    assert {key: f"{given['HostIp']}:{given['HostPort']}" for key, (given,) in found.items()} == bindings


@pytest.mark.parametrize("text", ["x", "80-79", "8080-8081:80-82", "70000", "1:2:3:4:", ""])
def test_ports_that_cannot_be(text: str) -> None:
    with pytest.raises(click.BadParameter):
        published((text,))


def test_the_everyday_verbs(engine: Engine, box: str) -> None:
    assert re.search(r"^[0-9a-f]{12} .*busybox.* Up .* box$", boxwright(engine, "ps").out, re.M)
    assert boxwright(engine, "exec", box, "sh", "-c", "echo in; exit 3").code == 3
    assert boxwright(engine, "exec", "-i", box, "cat", stdin=b"through").out == "through"
    (found,) = json.loads(boxwright(engine, "inspect", box).out)
    assert found["Name"] == "/box"
    assert "busybox" in boxwright(engine, "images").out
    assert boxwright(engine, "version").out.startswith("Client: boxwright")
    assert boxwright(engine, "stop", "-t", "0", box).out == "box\n"
    assert "Exited (137)" in boxwright(engine, "ps", "-a", "-f", "name=box").out
    events = boxwright(engine, "events", "--since", "1m", "--until", "0s").out
    assert re.search(r"container die .*exitCode=137", events)


def test_logs_and_load(engine: Engine, tmp_path: Path) -> None:
    boxwright(engine, "run", "--name", "talk", "busybox", "sh", "-c", "echo out; echo err >&2")
    ran = boxwright(engine, "logs", "talk")
    assert (ran.out, ran.err) == ("out\n", "err\n")
    assert boxwright(engine, "rm", "talk").out == "talk\n"
    archive = images.archive(tmp_path / "a.tar", [("tiny:1", [images.layer([("f", b"x")])], {})])
    assert boxwright(engine, "load", "-i", str(archive)).out == "Loaded image: tiny:1\n"
    assert boxwright(engine, "load", stdin=archive.read_bytes()).out == "Loaded image: tiny:1\n"


def test_trace_draws_a_start(engine: Engine, box: str) -> None:
    lines = boxwright(engine, "trace", box).out.splitlines()
    assert re.match(r"box: \d+\.\d\d ms", lines[0])
    steps = {line.split()[0] for line in lines[2:] if line.strip()}
    assert {"lookup", "verify", "address", "cgroup", "clone", "mounts", "network", "pivot_root", "execve"} <= steps
    assert any("█" in line for line in lines)


def test_trace_explains_a_failed_start(engine: Engine) -> None:
    boxwright(engine, "run", "--name", "wrong", "busybox", "no-such-program")
    out = boxwright(engine, "trace", "wrong").out
    for pattern in (r'failed: exec: "no-such-program"', r"step +execve", r"errno +2", r"hint +looked for in /usr"):
        assert re.search(pattern, out), out
    boxwright(engine, "rm", "wrong")


def test_refusals(engine: Engine) -> None:
    ran = boxwright(engine, "exec", "nobody", "true")
    assert (ran.code, ran.err) == (1, "Error response from the engine: No such container: nobody\n")
    ran = boxwright(engine, "rm", "nobody")
    assert ran.code == 1
    assert "No such container: nobody" in ran.err
    assert boxwright(engine, "ps", "-f", "nonsense").code == 2
    nowhere = subprocess.run([*COMMAND, "-H", "unix:///nowhere.sock", "ps"], capture_output=True, text=True, timeout=30)
    assert nowhere.returncode == 1
    assert "no engine listens at unix:///nowhere.sock" in nowhere.stderr


@pytest.mark.skipif(os.path.exists("/var/lib/boxwright"), reason="this machine has an engine of its own")
def test_run_starts_an_engine_when_none_listens() -> None:
    """With the user's own roots, as a person would: hostfs needs no download."""
    environment = {key: value for key, value in os.environ.items() if key != "DOCKER_HOST"}
    try:
        ran = subprocess.run(
            [*COMMAND, "run", "--rm", "hostfs", "sh", "-c", "echo mine > /root/mark; cat /root/mark"],
            capture_output=True, text=True, timeout=60, env=environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert (ran.returncode, ran.stdout) == (0, "mine\n"), ran
        assert not os.path.exists("/root/mark")
        said = re.search(r"no engine listens at \S+: started one for this user \(pid (\d+);", ran.stderr)
        assert said, ran.stderr
        pid = int(said[1])
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the engine ends")
    finally:
        instance = Path("/var/lib/boxwright/instance")
        name = instance.read_text().split()[0] if instance.exists() else ""
        subprocess.run(["ip", "link", "delete", "boxwright0"], capture_output=True)
        subprocess.run(["nft", "delete", "table", "ip", f"boxwright_{name}"], capture_output=True)
        for group in Path("/sys/fs/cgroup").glob(f"**/boxwright-{name}"):
            group.rmdir()
        for path in ("/var/lib/boxwright", "/run/boxwright"):
            shutil.rmtree(path, ignore_errors=True)
