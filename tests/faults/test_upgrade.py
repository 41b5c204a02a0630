"""An engine that comes back as another version finds the shims of the one before: what it can speak to it adopts, what
it cannot it leaves running, and says so."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine import Engine, wait_for

import boxwright

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(180)]
POLITE = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done"


def another_version(directory: Path, protocol: str) -> str:
    """A copy of the source whose shims and engine speak `protocol` only; its PYTHONPATH."""
    source = Path(boxwright.__file__).parent
    shutil.copytree(source, directory / "boxwright", ignore=shutil.ignore_patterns("__pycache__"))
    packets = directory / "boxwright" / "launcher" / "packets.py"
    text, count = re.subn(r"(?m)^PROTOCOL, (.*) = \d+, (.*)$", rf"PROTOCOL, \1 = {protocol}, \2", packets.read_text())
    text, spoken = re.subn(r"(?m)^SPOKEN = .*$", f"SPOKEN = ({protocol},)", text)
    assert (count, spoken) == (1, 1)
    packets.write_text(text)
    return str(directory)


@pytest.fixture
def upgraded(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine of another version, not started in ours yet."""
    engine = Engine()
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", another_version(tmp_path, request.param))
        engine.start().load()
    try:
        yield engine
    finally:
        engine.close()


def doctor(engine: Engine) -> list[dict[str, str]]:
    """Findings about shims."""
    roots = ["--data-root", str(engine.data_root), "--exec-root", str(engine.exec_root)]
    command = [sys.executable, "-m", "boxwright.cli.main", "doctor", "--json", *roots]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60).stdout)
    findings = found["findings"] if isinstance(found, dict) else found
    return [finding for finding in findings if finding["kind"] == "shim"]


@pytest.mark.parametrize("upgraded", ["99"], indirect=True)
def test_what_it_cannot_speak_to_runs_on(upgraded: Engine) -> None:
    own = upgraded
    for name in ("stays", "restarts", "killed"):
        own.ok("run", "-d", "--name", name, "busybox", "sh", "-c", POLITE)
    own.ok("run", "-d", "--name", "ends", "busybox", "sh", "-c", "until [ -e /end ]; do sleep 0.05; done; exit 5")
    own.ok("run", "-d", "--name", "ended", "busybox", "sh", "-c", "sleep 0.5; exit 6")
    before = {name: own.inspect(name)["State"] for name in ("stays", "restarts", "killed", "ends", "ended")}
    own.kill()
    wait_for(lambda: not os.path.exists(f"/proc/{before['ended']['Pid']}"), "one ends while no engine is there")
    own.start()

    for name in ("stays", "restarts", "killed", "ends"):
        found = own.inspect(name)
        assert found["State"] == before[name]
        assert "its shim speaks protocol 99, this engine 1 and 2" in found["Boxwright"]["Problem"]
    assert "runs on, but its shim speaks protocol 99" in own.log.read_text()
    ids = {own.inspect(name)["Id"] for name in ("stays", "restarts", "killed", "ends")}
    assert {finding["which"] for finding in doctor(own)} == ids
    assert {finding["level"] for finding in doctor(own)} == {"warning"}
    refused = own.docker("exec", "stays", "true")
    said = refused.out + refused.err
    assert refused.code != 0 and "protocol 99" in said and "restarted" in said

    assert own.inspect("ended")["State"]["ExitCode"] == 6
    (Path(f"/proc/{before['ends']['Pid']}/root") / "end").touch()
    assert own.ok("wait", "ends") == "5"
    own.ok("stop", "stays")
    state = own.inspect("stays")["State"]
    assert (state["ExitCode"], state["Error"]) == (7, "") and own.ok("logs", "stays").split() == ["up", "bye"]
    own.ok("kill", "killed")
    assert own.ok("wait", "killed") == "137"
    assert "up" in own.ok("logs", "restarts") and "restarts" in own.ok("ps")
    own.ok("restart", "restarts")
    assert own.ok("exec", "restarts", "echo", "new") == "new" and own.inspect("restarts")["Boxwright"]["Problem"] == ""
    assert not doctor(own)
    own.ok("rm", "-f", *before)
    wait_for(lambda: not os.listdir(own.exec_root / "shims"), "no shim is left")


@pytest.mark.parametrize("upgraded", ["1"], indirect=True)
def test_what_it_can_speak_to_is_adopted(upgraded: Engine) -> None:
    own = upgraded
    own.ok("run", "-d", "--name", "older", "busybox", "sh", "-c", POLITE)
    before = own.inspect("older")["State"]
    own.restart()
    found = own.inspect("older")
    assert found["State"] == before and found["Boxwright"]["Problem"] == ""
    assert own.ok("exec", "older", "echo", "in") == "in" and not doctor(own)
    own.ok("stop", "older")
    assert own.inspect("older")["State"]["ExitCode"] == 7
    own.ok("rm", "older")
