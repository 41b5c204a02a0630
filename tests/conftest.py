"""Fixtures of every suite: a real engine, and the comparison of the machine before and after each module."""

import os
import select
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from support.engine import Engine, Peer
from support.leaks import Snapshot

# Machines are slow at times: what hypothesis tries is bounded by number, never by the clock.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--leak-check", action="store_true", help="fail a module that leaves something on the machine")


@pytest.fixture(scope="module", autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Mounts, links, netns, cgroups, processes, firewall tables and directories are equal before and after a module."""
    if not request.config.getoption("--leak-check"):
        yield
        return
    before = Snapshot.take()
    yield
    # What the kernel takes down asynchronously (a network namespace's links) is given time; the rest must be gone.
    for _ in range(200):
        left = before.left_behind(Snapshot.take())
        if not left:
            return
        select.select([], [], [], 0.05)
    pytest.fail("left behind:\n" + "\n".join(left))


@pytest.fixture(scope="module")
def engine(nothing_left_behind: None) -> Iterator[Engine]:
    """A running engine with the busybox images, one for each module; it removes all that it made at the end."""
    # BOXWRIGHT_PEER=unix://… runs the client suites against another engine: what they expect is what Docker does.
    made = Peer(os.environ["BOXWRIGHT_PEER"]) if "BOXWRIGHT_PEER" in os.environ else Engine()
    try:
        made.start().load()
        yield made
    finally:
        made.close()
