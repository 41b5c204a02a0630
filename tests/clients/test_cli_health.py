"""Health checks through the docker CLI."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support import images
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(120)]

FAST = ("--health-interval", "100ms")
FOREVER = ("busybox", "sleep", "1000")


def health(engine: Engine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = engine.inspect(name)["State"]["Health"]
    return found


def until(engine: Engine, name: str, status: str) -> dict[str, Any]:
    wait_for(lambda: health(engine, name)["Status"] == status, f"{name} is {status}")
    return health(engine, name)


@contextmanager
def removed(engine: Engine, *names: str) -> Iterator[None]:
    try:
        yield
    finally:
        engine.ok("rm", "-f", *names)


def events(engine: Engine, name: str, since: float, *filters: str) -> list[dict[str, Any]]:
    chosen = [part for f in filters for part in ("--filter", f)]
    out = engine.ok("events", "--since", f"{since:.6f}", "--until", f"{time.time():.6f}", "--format", "{{json .}}",
                    "--filter", f"container={name}", *chosen)  # fmt: skip
    return [json.loads(line) for line in out.splitlines()]


def test_healthy_then_unhealthy_and_back(engine: Engine) -> None:
    since = time.time()
    check = ("--health-cmd", "echo probed; test ! -e /sick", "--health-retries", "2")
    engine.ok("run", "-d", "--name", "h1", *check, *FAST, *FOREVER)
    with removed(engine, "h1"):
        first = until(engine, "h1", "healthy")
        assert first["FailingStreak"] == 0
        result = first["Log"][0]
        assert (result["ExitCode"], result["Output"]) == (0, "probed\n") and result["Start"] < result["End"]
        assert "(healthy)" in engine.ok("ps", "--filter", "name=h1", "--format", "{{.Status}}")
        assert engine.ok("ps", "--filter", "health=healthy", "--format", "{{.Names}}") == "h1"
        engine.ok("exec", "h1", "touch", "/sick")
        assert until(engine, "h1", "unhealthy")["FailingStreak"] >= 2
        assert engine.ok("ps", "--filter", "health=unhealthy", "--format", "{{.Names}}") == "h1"
        engine.ok("exec", "h1", "rm", "/sick")
        until(engine, "h1", "healthy")
        wait_for(lambda: len(health(engine, "h1")["Log"]) == 5, "five results are kept")
        actions = [e["Action"] for e in events(engine, "h1", since)]
        told = [a for a in actions if a.startswith("health_status")]
        assert told == ["health_status: healthy", "health_status: unhealthy", "health_status: healthy"]
        probe = "/bin/sh -c echo probed; test ! -e /sick"
        begin = actions.index(f"exec_create: {probe}")
        assert actions[begin : begin + 3] == [f"exec_create: {probe}", f"exec_start: {probe}", "exec_die"]
        engine.ok("stop", "-t", "0", "h1")
        assert health(engine, "h1")["Status"] == "unhealthy"


def test_the_start_period_forgives(engine: Engine) -> None:
    options = ("--health-cmd", "false", "--health-retries", "1", "--health-start-period", "1h")
    engine.ok(
        "run", "-d", "--name", "h2", *options, "--health-start-interval", "100ms", "--health-interval", "1h", *FOREVER
    )
    with removed(engine, "h2"):
        wait_for(lambda: len(health(engine, "h2")["Log"]) >= 3, "it is probed at the start interval")
        assert (health(engine, "h2")["Status"], health(engine, "h2")["FailingStreak"]) == ("starting", 0)
        assert "(health: starting)" in engine.ok("ps", "--filter", "name=h2", "--format", "{{.Status}}")


def test_a_probe_that_takes_too_long_is_killed(engine: Engine) -> None:
    options = ("--health-cmd", "echo so far; sleep 2345", "--health-timeout", "300ms", "--health-retries", "1")
    engine.ok("run", "-d", "--name", "h3", *options, *FAST, *FOREVER)
    with removed(engine, "h3"):
        result = until(engine, "h3", "unhealthy")["Log"][0]
        assert (result["ExitCode"], result["Output"]) == (-1, "Health check exceeded timeout (300ms): so far\n")
        engine.ok("pause", "h3")
        engine.ok("unpause", "h3")
        engine.ok("exec", "h3", "true")
        wait_for(lambda: engine.ok("top", "h3", "-eo", "pid,args").count("sleep 2345") <= 2, "probes do not pile up")


def test_much_output_is_cut(engine: Engine) -> None:
    options = ("--health-cmd", "yes | head -c 100000")
    engine.ok("run", "-d", "--name", "h4", *options, *FAST, *FOREVER)
    with removed(engine, "h4"):
        output = until(engine, "h4", "healthy")["Log"][0]["Output"]
        assert output == "y\n" * 2048 + "..."


def test_what_cannot_be_run_is_unhealthy(engine: Engine) -> None:
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"],
            "Healthcheck": {"Test": ["CMD", "/no/such"], "Interval": 10**8, "Retries": 1}}  # fmt: skip
    assert engine.api("POST", "/containers/create?name=h5", body).status == 201
    engine.ok("start", "h5")
    with removed(engine, "h5"):
        result = until(engine, "h5", "unhealthy")["Log"][0]
        assert result["ExitCode"] == -1 and "/no/such" in result["Output"]


def test_pause_stops_the_probing(engine: Engine) -> None:
    engine.ok("run", "-d", "--name", "h6", "--health-cmd", "true", *FAST, *FOREVER)
    with removed(engine, "h6"):
        until(engine, "h6", "healthy")
        engine.ok("pause", "h6")
        assert health(engine, "h6")["Status"] == "unhealthy"
        engine.ok("unpause", "h6")
        until(engine, "h6", "healthy")
        engine.ok("restart", "-t", "0", "h6")
        until(engine, "h6", "healthy")


def build(engine: Engine, tag: str, *changes: str) -> None:
    """An image with instructions, made by import."""
    options = [part for change in changes for part in ("--change", change)]
    engine.ok("import", *options, "-", tag, stdin=images.layer([]))


def test_the_image_has_one(engine: Engine) -> None:
    build(engine, "checked", "HEALTHCHECK --interval=1h --retries=7 CMD true", 'CMD ["x"]')
    engine.ok("create", "--name", "h7", "checked")
    engine.ok("create", "--name", "h8", "--health-timeout", "2s", "--health-retries", "1", "checked")
    engine.ok("create", "--name", "h9", "--no-healthcheck", "checked")
    with removed(engine, "h7", "h8", "h9"):
        inherited = {"Test": ["CMD-SHELL", "true"], "Interval": 3600 * 10**9, "Retries": 7}
        assert engine.inspect("h7")["Config"]["Healthcheck"] == inherited
        assert engine.inspect("h8")["Config"]["Healthcheck"] == {**inherited, "Timeout": 2 * 10**9, "Retries": 1}
        assert engine.inspect("h9")["Config"]["Healthcheck"]["Test"] == ["NONE"]
    engine.ok("rmi", "checked")


def test_none_is_none(engine: Engine) -> None:
    engine.ok("run", "-d", "--name", "h10", "--no-healthcheck", *FOREVER)
    with removed(engine, "h10"):
        assert "Health" not in engine.inspect("h10")["State"]
        assert "h10" in engine.ok("ps", "--filter", "health=none", "--format", "{{.Names}}").split()
