"""The management commands of the docker CLI (`docker container run` for `docker run`), and what has no other spelling."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network]

NOWHERE = "127.0.0.1:1"  # a registry that refuses the connection


@pytest.fixture
def idle(engine: Engine) -> Iterator[str]:
    """A running container, `idle`."""
    engine.ok("container", "run", "-d", "--name", "idle", "-p", "127.0.0.1::80", "busybox", "sleep", "600")
    yield "idle"
    engine.docker("container", "rm", "-f", "idle")


def status(engine: Engine, name: str) -> str:
    return engine.ok("container", "inspect", "-f", "{{.State.Status}}", name)


def test_a_containers_life(engine: Engine) -> None:
    script = "echo said; trap 'exit 4' TERM; while :; do sleep 0.1; done"
    engine.ok("container", "create", "--name", "life", "busybox", "sh", "-c", script)
    assert status(engine, "life") == "created"
    assert engine.ok("container", "start", "life") == "life"
    wait_for(lambda: engine.ok("container", "logs", "life") == "said", "it has said its word")
    engine.ok("container", "pause", "life")
    assert status(engine, "life") == "paused"
    engine.ok("container", "unpause", "life")
    engine.ok("container", "restart", "-t", "5", "life")
    assert status(engine, "life") == "running"
    engine.ok("container", "rename", "life", "other")
    waiting = engine.spawn("container", "wait", "other")
    engine.ok("container", "stop", "-t", "5", "other")
    out, _ = waiting.communicate(timeout=30)
    assert (out.strip(), status(engine, "other")) == (b"4", "exited")
    engine.ok("container", "start", "other")
    engine.ok("container", "kill", "-s", "KILL", "other")
    wait_for(lambda: status(engine, "other") == "exited", "it is killed")
    assert engine.ok("container", "inspect", "-f", "{{.State.ExitCode}}", "other") == "137"
    assert engine.ok("container", "rm", "other") == "other"


def test_looking_at_a_running_container(engine: Engine, idle: str, tmp_path: Path) -> None:
    assert engine.ok("container", "exec", idle, "echo", "in") == "in"
    assert engine.ok("container", "port", idle, "80").startswith("127.0.0.1:")
    assert "sleep 600" in engine.ok("container", "top", idle)
    assert idle in engine.ok("container", "stats", "--no-stream", "--format", "{{.Name}}", idle)
    engine.ok("container", "update", "--pids-limit", "50", idle)
    assert (
        engine.ok(
            "container", "exec", idle, "cat", "/sys/fs/cgroup/pids/pids.max" if _v1() else "/sys/fs/cgroup/pids.max"
        )
        == "50"
    )
    (tmp_path / "file").write_text("there\n")
    engine.ok("container", "cp", str(tmp_path / "file"), f"{idle}:/root/file")
    engine.ok("container", "cp", f"{idle}:/root/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "there\n"
    assert "A /root/file" in engine.ok("container", "diff", idle).splitlines()
    engine.ok("container", "export", "-o", str(tmp_path / "all.tar"), idle)
    engine.ok("image", "import", str(tmp_path / "all.tar"), "imported:1")
    assert engine.ok("container", "run", "--rm", "imported:1", "cat", "/root/file") == "there"
    engine.ok("image", "rm", "imported:1")


def _v1() -> bool:
    return Path("/sys/fs/cgroup/pids").is_dir()


def test_attaching_to_a_container(engine: Engine) -> None:
    engine.ok("container", "create", "-i", "--name", "echoes", "busybox", "cat")
    engine.ok("container", "start", "echoes")
    attached = engine.spawn("container", "attach", "echoes")
    out, _ = attached.communicate(b"back and forth\n", timeout=30)
    assert out == b"back and forth\n"
    engine.ok("container", "wait", "echoes")
    engine.ok("container", "rm", "echoes")


def test_an_images_life(engine: Engine, idle: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nLABEL made=here\n")
    classic = {"DOCKER_BUILDKIT": "0"}
    engine.ok("image", "build", "-q", "-t", "built:1", str(tmp_path), env=classic)
    engine.ok("builder", "build", "-q", "-t", "built:2", str(tmp_path), env=classic)
    assert engine.ok("image", "inspect", "-f", "{{.Config.Labels.made}}", "built:1") == "here"
    assert "LABEL made=here" in engine.ok("image", "history", "--format", "{{.CreatedBy}}", "built:1")
    engine.ok("container", "commit", "-m", "kept", idle, "built:3")
    engine.ok("image", "tag", "built:3", f"{NOWHERE}/built:4")
    engine.ok("image", "save", "-o", str(tmp_path / "image.tar"), "built:1")
    assert engine.docker("image", "rm", "built:1", "built:2", "built:3").code == 0
    engine.ok("image", "load", "-q", "-i", str(tmp_path / "image.tar"))
    listed = engine.ok("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
    assert "built:1" in listed and "built:2" not in listed
    for verb in ("pull", "push"):
        refused = engine.docker("image", verb, f"{NOWHERE}/built:4")
        assert refused.code == 1 and "connection refused" in refused.err + refused.out
    engine.ok("image", "rm", "built:1", f"{NOWHERE}/built:4")


def test_what_is_pruned(engine: Engine) -> None:
    engine.ok("volume", "create", "named")
    unnamed = engine.ok("volume", "create")
    assert unnamed in engine.ok("volume", "prune", "-f")
    assert engine.ok("volume", "ls", "-q") == "named"
    told = engine.ok("volume", "prune", "-f", "-a")
    assert "named" in told and "Total reclaimed space" in told
    assert engine.ok("volume", "ls", "-q") == ""
    assert engine.ok("network", "prune", "-f") == ""
    assert "Total" in engine.ok("builder", "prune", "-f")
    assert {"bridge", "host", "none"} <= set(engine.ok("network", "ls", "--format", "{{.Name}}").split())


def test_events_of_the_system(engine: Engine) -> None:
    since = json.loads(engine.ok("info", "-f", "{{json .SystemTime}}"))
    engine.ok("volume", "create", "seen")
    engine.ok("volume", "rm", "seen")
    until = json.loads(engine.ok("system", "info", "-f", "{{json .SystemTime}}"))
    shown = engine.ok(
        "system", "events", "--since", since, "--until", until, "--format", "{{.Type}} {{.Action}} {{.Actor.ID}}"
    )
    assert shown.splitlines() == ["volume create seen", "volume destroy seen"]


@pytest.mark.parametrize("verb", ["disable", "enable", "inspect", "push", "rm", "set", "upgrade"])
def test_there_are_no_plugins(engine: Engine, verb: str) -> None:
    arguments = ["a=b"] if verb == "set" else []
    refused = engine.docker("plugin", verb, "absent", *arguments)
    assert refused.code == 1
    assert "not found" in refused.err.lower()
    assert engine.ok("plugin", "ls", "-q") == ""
