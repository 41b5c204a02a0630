"""Fixtures of every suite: a real engine, and the comparison of the machine before and after each module."""

import os
import re
import select
from collections.abc import Iterator

import pytest
from support.compatibility import commands
from support.engine import COMMANDS, Engine, Peer
from support.leaks import Snapshot


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--leak-check", action="store_true", help="fail a module that leaves something on the machine")
    told = "tell how many commands of the docker CLI ran, and fail when fewer forms of them than this did"
    parser.addoption("--count-commands", nargs="?", type=int, const=0, metavar="LEAST", help=told)


def forms() -> set[tuple[str, ...]]:
    """The commands that ran, without what differs only by an id, a number or a directory of a test."""
    varies = re.compile(r"[0-9a-f]{12,64}|\d+|/tmp/[\w/.-]+")
    return {tuple(varies.sub("…", word) for word in command) for command in COMMANDS}


def pytest_sessionfinish(session: pytest.Session) -> None:
    least = session.config.getoption("--count-commands")
    if least and len(forms()) < least:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    least = terminalreporter.config.getoption("--count-commands")
    if least is None:
        return
    known = {tuple(command.split()): state for command, state in commands().items()}
    ran = {verb for verb in known if any(c[: len(verb)] == verb for c in COMMANDS)}
    told = (
        f"docker CLI: {COMMANDS.total()} commands ran, {len(COMMANDS)} different ones, {len(forms())} forms"
        f" (least: {least}), {len(ran)} of {len(known)} verbs"
    )
    terminalreporter.write_line(told)
    never = sorted(" ".join(verb) for verb, state in known.items() if verb not in ran and state != "client")
    terminalreporter.write_line(f"verbs that did not run: {', '.join(never) or 'none'}")


def pytest_configure(config: pytest.Config) -> None:
    """Machines are slow at times: what hypothesis tries is bounded by number, never by the clock."""
    if config.pluginmanager.hasplugin("hypothesispytest"):  # the emulated machine has none
        from hypothesis import HealthCheck, settings

        settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("suite")


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
