"""The cgroup and seccomp suites on Debian 12's kernel: v2 with every controller, and v1 mounted as systemd does."""

from pathlib import Path

import pytest
from support import machine

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(240),
    pytest.mark.skipif(bool(machine.missing()), reason=machine.missing() or "ready"),
]


@pytest.mark.parametrize(("layout", "driver"), [(machine.UNIFIED, "fs2"), (machine.LEGACY, "fs")])
def test_the_suite_passes_with_every_controller(tmp_path: Path, layout: str, driver: str) -> None:
    output = machine.run(tmp_path, layout, ["testsuite/cgroups", "kernel/test_seccomp.py"], modules=["brd"])
    assert machine.passed(output), output
    # Of the controllers nothing may be skipped for the layout's own driver.
    assert f"is not with {driver} on this host" not in output, output
