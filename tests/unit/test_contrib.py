"""The systemd units: what DESIGN's rule 20 asks of them, and systemd's own opinion where it is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

CONTRIB = Path(__file__).parents[2] / "contrib"


def directives(name: str) -> dict[str, str]:
    lines = (CONTRIB / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_containers_outlive_the_service() -> None:
    found = directives("boxwright.service")
    assert (found["KillMode"], found["Delegate"], found["TasksMax"]) == ("process", "yes", "infinity")
    assert found["Type"] == "notify" and "fd://" in found["ExecStart"]
    assert directives("boxwright.socket")["SocketMode"] == "0660"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_them(tmp_path: Path) -> None:
    for name in ("boxwright.service", "boxwright.socket"):
        shutil.copy(CONTRIB / name, tmp_path)
    ran = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "boxwright.service")], capture_output=True, text=True, timeout=60,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
    )  # fmt: skip
    ours = [line for line in ran.stderr.splitlines() if "boxwright" in line]
    assert not ours, ran.stderr
