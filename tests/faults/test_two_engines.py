"""Two engines on one machine, with roots, sockets and bridges of their own, never touch each other's objects."""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import below
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(600)]
PAGE = "mkdir /w; echo page > /w/index.html; httpd -f -p 80 -h /w"


@pytest.fixture
def pair(nothing_left_behind: None) -> Iterator[tuple[Engine, Engine]]:
    first, second = Engine(), Engine()
    try:
        first.start().load()
        second.start().load()
        yield first, second
    finally:
        second.close()
        first.close()


def publish(engine: Engine, name: str) -> int:
    """A web server on a published port; returns the port."""
    engine.ok("run", "-d", "--name", name, "-p", "127.0.0.1:0:80", "busybox", "sh", "-c", PAGE)
    port = int(engine.ok("port", name, "80/tcp").rpartition(":")[2])
    wait_for(lambda: answers(port), f"{name} answers on {port}")
    return port


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
            return bool(page.read() == b"page\n")
    except OSError:
        return False


def kernel_objects(engine: Engine, name: str) -> dict[str, object]:
    """What the kernel holds for this engine: ports of its bridge, its firewall table, the container's process."""
    return {
        "bridge ports": below.bridge_ports(engine),
        "firewall elements": below.elements(engine),
        "addresses": below.addresses(engine),
        "process": engine.inspect(name)["State"]["Pid"],
        "address": engine.inspect(name)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"],
    }


def test_one_ends_and_the_other_does_not_notice(pair: tuple[Engine, Engine]) -> None:
    first, second = pair
    port = publish(first, "web")
    before = kernel_objects(first, "web")
    assert all(before.values())
    publish(second, "web")  # the same name: each engine has its own
    second.restart()  # what reconciles at its start finds foreign objects too
    assert kernel_objects(first, "web") == before
    second.close()
    assert kernel_objects(first, "web") == before
    assert answers(port)


def test_a_restart_keeps_its_own_and_leaves_the_others(pair: tuple[Engine, Engine]) -> None:
    first, second = pair
    ports = [publish(first, "mine"), publish(second, "yours")]
    before = [kernel_objects(first, "mine"), kernel_objects(second, "yours")]
    first.restart()
    second.restart()
    assert [kernel_objects(first, "mine"), kernel_objects(second, "yours")] == before
    assert all(answers(port) for port in ports)


def assert_refused(engine: Engine, said: str, **instead: str) -> None:
    """A further engine that has one thing in common with `engine` and all else of its own ends with this word."""
    own = {
        "--data-root": f"{engine.home}/other-data", "--exec-root": f"{engine.home}/other",
        "-H": f"unix://{engine.home}/other.sock", "--bridge": f"{engine.bridge}2",
    }  # fmt: skip
    flags = [part for flag in (own | instead).items() for part in flag]
    command = [sys.executable, "-m", "boxwright.cli.main", "serve", "--ephemeral", *flags]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = ran.stderr.splitlines()
    assert ran.returncode == 1 and lines and lines[-1].startswith(said), f"{instead}: {ran.returncode}\n{ran.stderr}"
    assert "Traceback" not in ran.stderr, ran.stderr


def test_an_engine_is_started_twice(pair: tuple[Engine, Engine]) -> None:
    """On one data root, run directory, socket or bridge: the second says which, and leaves the first and no trace."""
    first, _ = pair
    port = publish(first, "twice")
    before = kernel_objects(first, "twice")
    taken = {
        "--data-root": (str(first.data_root), f"boxwright: another engine is using {first.data_root}"),
        "--exec-root": (str(first.exec_root), f"boxwright: another engine is using {first.exec_root}"),
        "-H": (first.host, f"boxwright: {first.socket} is in use by another engine"),
        "--bridge": (first.bridge, f"boxwright: bridge {first.bridge} belongs to another boxwright engine"),
    }
    for flag, (value, said) in taken.items():
        assert_refused(first, said, **{flag: value})
        assert kernel_objects(first, "twice") == before, flag
        wait_for(lambda: answers(port), f"it answers after a second {flag}")
    first.ok("rm", "-f", "twice")


def test_both_pass_their_suite_side_by_side() -> None:
    clients = Path(__file__).parents[1] / "clients"
    suites = [str(clients / f"test_cli_{name}.py") for name in ("objects", "run", "lifecycle")]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *suites],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=500)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(outputs)[-6000:]
