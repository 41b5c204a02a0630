"""libcontainer's kernel tests on Debian 12's kernel 6.1: before lowerdir+, procfs' pidns option and mounts that can be
copied while they are detached; on cgroup v2."""

from pathlib import Path

import pytest
from support import machine

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(240),
    pytest.mark.skipif(bool(machine.missing()), reason=machine.missing() or "ready"),
]
SUITES = ("init", "setns", "namespaces", "rootfs", "security_mounts")


def test_containers_on_an_older_kernel(tmp_path: Path) -> None:
    shared = ["kernel/conftest.py", "kernel/containers.py"]
    tests = [f"kernel/test_{suite}.py" for suite in SUITES]
    output = machine.run(tmp_path, machine.UNIFIED, [*shared, *tests], modules=["overlay", "veth"], seconds=230)
    assert machine.passed(output), output
