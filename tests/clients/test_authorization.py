"""An authorization plugin before a real engine, as the docker CLI's user meets it."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.network]

PROGRAM = Path(__file__).parents[1] / "support" / "authz_plugin.py"
DIRECTORY = Path("/run/docker/plugins")


@pytest.fixture(scope="module")
def guarded(nothing_left_behind: None) -> Iterator[tuple[Engine, Path]]:
    engine = Engine()
    missing = [d for d in (DIRECTORY, DIRECTORY.parent) if not d.exists()]
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    name = f"{engine.home.name}-guard"
    socket, mode = DIRECTORY / f"{name}.sock", engine.home / "mode"
    mode.write_text("no-privileged")
    plugin = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(socket), str(mode), str(engine.home / "log")], stdout=subprocess.PIPE
    )
    try:
        assert plugin.stdout and plugin.stdout.readline() == b"ready\n"
        engine.start("--authorization-plugin", name).load()
        yield engine, mode
        mode.write_text("allow")
        engine.close()
    finally:
        plugin.kill()
        plugin.wait()
        assert plugin.stdout
        plugin.stdout.close()
        socket.unlink(missing_ok=True)
        for directory in missing:
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def test_a_policy(guarded: tuple[Engine, Path]) -> None:
    engine, _ = guarded
    name = f"{engine.home.name}-guard"
    assert engine.ok("run", "--rm", "-i", "busybox", "cat", stdin=b"through") == "through"
    ran = engine.docker("run", "--rm", "--privileged", "busybox", "true")
    assert ran.code == 125
    assert f"authorization denied by plugin {name}: privileged containers are not for you" in ran.err
    assert engine.ok("ps", "-aq") == ""
    assert name in engine.ok("info", "--format", "{{json .Plugins.Authorization}}")


def test_an_attach_that_is_denied_leaves_nothing(guarded: tuple[Engine, Path]) -> None:
    engine, mode = guarded
    engine.ok("create", "--name", "denied", "-i", "busybox", "cat")
    mode.write_text("deny-answers")
    try:
        assert engine.docker("start", "-ai", "denied", stdin=b"x").code == 1
    finally:
        mode.write_text("no-privileged")
    assert engine.ok("inspect", "denied", "--format", "{{.State.Status}}") == "created"
    assert engine.ok("start", "-ai", "denied", stdin=b"again") == "again"
    engine.ok("rm", "-f", "denied")
