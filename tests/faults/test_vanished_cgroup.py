"""Somebody else takes a running container's cgroup away (v1: its processes are moved to the root, and the group is
removed): it runs on without limits, what needs the group says so, and its end is as any other's."""

import os
from pathlib import Path

import pytest
from support import below
from support.engine import Engine, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.network,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not os.path.isdir("/sys/fs/cgroup/memory"), reason="a cgroup v2 cannot be left by its processes"
    ),
]
PROGRAM = "trap 'exit 3' TERM; sleep 1000 & while :; do sleep 0.05; done"


def take_away(engine: Engine, name: str) -> None:
    """The container's group in every hierarchy."""
    instance, id = (engine.data_root / "instance").read_text().split()[0], engine.inspect(name)["Id"]
    found = [
        path for top in ("*/boxwright", "boxwright") for path in Path("/sys/fs/cgroup").glob(f"{top}-{instance}/{id}")
    ]
    assert found
    for group in {path.resolve() for path in found}:
        hierarchy = group.parents[1]

        def emptied(group: Path = group, hierarchy: Path = hierarchy) -> bool:
            pids = (group / "cgroup.procs").read_text().split()
            for pid in pids:
                try:
                    (hierarchy / "cgroup.procs").write_text(pid)
                except ProcessLookupError:
                    continue
            return not pids

        wait_for(emptied, "it is empty")
        wait_for(lambda group=group: removed(group), f"{group} is removed")  # type: ignore[misc]


def removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


@pytest.fixture
def bare(own: Engine, request: pytest.FixtureRequest) -> str:
    """A container without its cgroup."""
    options = getattr(request, "param", ())
    own.ok("run", "-d", "--name", "bare", *options, "busybox", "sh", "-c", PROGRAM)
    take_away(own, "bare")
    return "bare"


def test_what_needs_the_group_says_so_and_the_rest_works(own: Engine, bare: str) -> None:
    for refused in (["pause", bare], ["update", "--memory", "64m", "--memory-swap", "64m", bare]):
        ran = own.docker(*refused)
        assert ran.code != 0 and "cgroup" in ran.err and "gone" in ran.err, ran
    ran = own.docker("exec", bare, "true")
    assert ran.code != 0 and "cgroup" in ran.out + ran.err, ran
    assert own.inspect(bare)["State"]["Status"] == "running"
    assert own.api("GET", f"/containers/{bare}/stats?stream=0&one-shot=1").status == 200
    assert own.docker("top", bare).code in (0, 1)
    own.ok("stop", bare)
    state = own.inspect(bare)["State"]
    assert (state["ExitCode"], state["Error"]) == (3, "")
    own.ok("start", bare)
    assert own.ok("exec", bare, "echo", "new") == "new"
    own.ok("rm", "-f", bare)
    wait_for(lambda: not below.groups(own), "no group is left")


def test_an_engine_that_comes_back_finds_it(own: Engine, bare: str) -> None:
    pid = own.inspect(bare)["State"]["Pid"]
    own.restart()
    state = own.inspect(bare)["State"]
    assert (state["Status"], state["Pid"]) == ("running", pid)
    own.ok("rm", "-f", bare)
    wait_for(lambda: below.dead(pid), "it has ended")


@pytest.mark.parametrize("bare", [("--pid", "host")], indirect=True)
def test_without_a_pid_namespace_its_first_process_ends_at_least(own: Engine, bare: str) -> None:
    """Nothing else tells which processes are its own: with the group that knowledge has gone."""
    pid = own.inspect(bare)["State"]["Pid"]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    own.ok("rm", "-f", bare)
    assert below.dead(pid)
    for child in map(int, children):
        if not below.dead(child):
            os.kill(child, 9)
