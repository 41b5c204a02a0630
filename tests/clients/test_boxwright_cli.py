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

import pytest
from support import images
from support.engine import Engine, Ran, wait_for
from support.terminal import Terminal

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
