"""Fixtures of the kernel tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kernel.containers import Box, make_root

from boxwright.libcontainer import cgroups

if TYPE_CHECKING:
    from kernel.netns import World


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """A fresh container root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    return Box(make_root(tmp_path / "root"))


@pytest.fixture
def manager() -> Iterator[cgroups.Manager]:
    """A cgroup of this test's own."""
    parent = f"/boxwright-test-{os.getpid()}"
    made = cgroups.manager(cgroups.detect(), parent, "box", {})
    made.create()
    yield made
    made.kill()
    made.destroy()
    cgroups.remove_parent(cgroups.detect(), parent)


@pytest.fixture
def world() -> "Iterator[World]":
    """Namespaces of a host and its neighbour."""
    from kernel.netns import World  # needs more than the emulated machine has

    made = World()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Of a network controller's database."""
    return str(tmp_path / "db")
