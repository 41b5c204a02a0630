"""The engine's client suites of limits, stats and health checks on Debian 12's kernel 6.1: cgroup v2, AppArmor enabled,
no lowerdir+, no mounts that can be copied while they are detached, no pidns option of procfs."""

import glob
import os
import shutil
from pathlib import Path

import pytest
from support import machine

DOCKER = shutil.which("docker")
# An emulated processor beside others' work: a suite of half a minute takes ten times as long.
SECONDS = 540
pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(SECONDS + 60),
    pytest.mark.skipif(bool(machine.missing()), reason=machine.missing() or "ready"),
    pytest.mark.skipif(DOCKER is None, reason="the docker client is not installed"),
]


@pytest.mark.parametrize("suite", ["limits", "stats", "health"])
def test_the_engine_there(tmp_path: Path, suite: str) -> None:
    assert DOCKER
    output = machine.run(
        tmp_path,
        machine.UNIFIED,
        [f"clients/test_cli_{suite}.py"],
        distributions=["boxwright", "pytest"],
        files=[os.path.realpath(DOCKER), *glob.glob("/usr/lib/*/libnftables.so.1")],
        modules=["overlay", "bridge", "br_netfilter", "veth", "nft_*", "nf_nat"],
        seconds=SECONDS,
    )
    assert machine.passed(output), output
