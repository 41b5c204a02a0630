"""The life of a group, for every cgroup manager: made, joined, frozen, killed and gone, against the real kernel."""

import contextlib
import errno
import mmap
import os
import signal
import stat
import threading

import pytest
from support.groups import until, value

from boxwright.errdefs import StepError
from boxwright.libcontainer.cgroups import files
from boxwright.linux import pidfd

pytestmark = pytest.mark.root

MIB = 1 << 20


def test_a_process_lives_in_the_group_until_both_are_gone(group, spawn):
    manager = group()
    child = spawn()
    manager.add(child.pid)
    assert manager.exists()
    assert manager.pids() == [child.pid]
    assert any(line.endswith("/c") for line in files.read(f"/proc/{child.pid}/cgroup").splitlines())
    manager.kill()
    assert manager.pids() == []
    assert os.WTERMSIG(child.wait()) == signal.SIGKILL
    manager.destroy()
    assert not manager.exists()
    assert not any(os.path.exists(d) for d in manager.directories())


def test_what_does_not_exist_is_empty_and_destroyed(group):
    manager = group(create=False)
    assert not manager.exists()
    assert manager.pids() == []
    assert manager.oom_kills() == 0
    manager.kill()
    manager.destroy()


def test_a_new_manager_finds_a_group_that_another_made(group, spawn):
    first = group({"pids": {}})
    child = spawn()
    first.add(child.pid)
    again = group(create=False)
    assert again.paths == first.paths
    assert again.pids() == [child.pid]
    again.kill()
    again.destroy()
    assert not first.exists()


def test_an_empty_leftover_is_replaced_with_its_limits(group, needs):
    needs("pids")
    group({"pids": {"limit": 7}})
    assert value(group(), "pids.max", "pids.max") == "max"


def test_a_leftover_with_processes_is_refused_by_name(group, spawn):
    manager = group()
    manager.add(spawn().pid)
    with pytest.raises(StepError, match="exists and has processes") as caught:
        group()
    assert caught.value.path in manager.directories()


def test_groups_inside_are_seen_killed_and_removed(group, spawn):
    manager = group()
    inner = [f"{directory}/a/b" for directory in manager.directories()]
    for directory in inner:
        os.makedirs(directory)
    if "cpuset" in manager.paths:
        for level in ("", "/a", "/a/b"):
            for name in ("cpus", "mems"):
                path = f"{manager.paths['cpuset']}{level}/cpuset.{name}"
                files.write(path, files.read(os.path.dirname(manager.paths["cpuset"]) + f"/cpuset.{name}"))
    child = spawn()
    for directory in inner:
        files.write(f"{directory}/cgroup.procs", str(child.pid))
    assert manager.pids() == [child.pid]
    assert manager.pids(all=False) == []
    manager.kill()
    assert os.WIFSIGNALED(child.wait())
    manager.destroy()
    assert not any(os.path.exists(directory) for directory in manager.directories())


def test_destroy_waits_for_the_last_process_to_leave(group, spawn):
    manager = group()
    child = spawn()
    manager.add(child.pid)
    failures = []

    def destroy():
        try:
            manager.destroy()
        except StepError as error:
            failures.append(error)

    thread = threading.Thread(target=destroy)
    thread.start()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    thread.join(20)
    assert not thread.is_alive()
    assert failures == []
    assert not manager.exists()


def test_destroy_of_a_group_in_use_fails_after_a_bounded_time(group, spawn, monkeypatch):
    monkeypatch.setattr("boxwright.libcontainer.cgroups.base.DESTROY_SECONDS", 0.05)
    manager = group()
    manager.add(spawn().pid)
    with pytest.raises(StepError, match="cannot rmdir") as caught:
        manager.destroy()
    assert caught.value.errno == errno.EBUSY


def test_describe_tells_what_was_done(group):
    lines = group().describe()
    assert any(line.startswith("mkdir ") for line in lines)


def test_clone_fd_is_a_directory_on_v2_only(group):
    manager = group()
    fd = manager.clone_fd()
    if manager.driver == "fs":
        assert fd == -1
        return
    try:
        assert stat.S_ISDIR(os.fstat(fd).st_mode)
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_many_groups_at_once_below_a_new_parent(group):
    made = [group(name=f"c{n}", create=False) for n in range(8)]
    failures = []

    def create(manager):
        try:
            manager.create()
        except StepError as error:
            failures.append(error)

    threads = [threading.Thread(target=create, args=(manager,)) for manager in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert failures == []
    assert all(manager.exists() for manager in made)


def test_a_parent_that_is_removed_while_the_group_is_made(group, monkeypatch):
    """By an engine that ends, or by its shim, when the next engine's first container comes."""
    manager = group(create=False)
    make, removed = files.make, []

    def make_late(directory):
        if directory in manager.directories() and removed.count(directory) < 3:
            removed.append(directory)
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(os.path.dirname(directory))
        make(directory)

    monkeypatch.setattr(files, "make", make_late)
    manager.create()
    assert len(removed) == 3 * len(set(removed)) and set(removed) == set(manager.directories())
    assert manager.exists()


def test_an_exec_joins_init_where_the_group_itself_takes_no_process(group, spawn, needs):
    needs("pids")
    manager = group()
    if manager.driver == "fs":
        pytest.skip("v1 lets processes live beside groups")
    init, late = spawn(), spawn()
    directory = manager.paths[""]
    os.mkdir(f"{directory}/init.scope")
    files.write(f"{directory}/init.scope/cgroup.procs", str(init.pid))
    files.write(f"{directory}/cgroup.subtree_control", "+pids")
    with pytest.raises(StepError) as caught:
        manager.add(late.pid)
    assert caught.value.errno == errno.EBUSY
    manager.add(late.pid, beside=init.pid)
    assert manager.pids(all=False) == []
    assert manager.pids() == sorted([init.pid, late.pid])


def test_a_foreign_parent_whose_cpuset_is_empty(group, spawn, needs):
    needs("cpuset")
    manager = group(create=False)
    for directory in manager.directories():
        os.makedirs(os.path.dirname(directory), exist_ok=True)
    manager.create()
    manager.add(spawn().pid)
    assert len(manager.pids()) == 1
    manager.set({"cpu": {"cpus": "0", "mems": "0"}})


def test_a_kernel_without_cgroup_kill(group, spawn, monkeypatch):
    manager = group()
    children = [spawn() for _ in range(3)]
    for child in children:
        manager.add(child.pid)
    write = files.write

    def old(path: str, text: str) -> None:
        if path.endswith("cgroup.kill"):
            raise StepError("cgroup: no such file", errno=errno.ENOENT)
        write(path, text)

    monkeypatch.setattr(files, "write", old)
    manager.kill()
    assert {os.WTERMSIG(child.wait()) for child in children} == {signal.SIGKILL}
    assert not manager.frozen()


def test_what_survives_sigkill_is_told(group, spawn, monkeypatch):
    monkeypatch.setattr("boxwright.libcontainer.cgroups.base.KILL_SECONDS", 0.02)
    manager = group()
    child = spawn()
    manager.add(child.pid)
    with monkeypatch.context() as patch:
        patch.setattr(pidfd, "send_signal", lambda fd, number: None)
        patch.setattr(files, "write", lambda path, text: None)
        with pytest.raises(StepError, match=f"processes {child.pid} in .* survive SIGKILL"):
            manager.kill()


def test_kill_reaches_everything_even_while_it_forks(group, spawn, needs):
    needs("pids")
    manager = group({"pids": {"limit": 40}})

    def bomb() -> object:
        while True:
            try:
                os.fork()
            except OSError:
                continue

    child = spawn(bomb)
    manager.add(child.pid)
    child.go()
    until(lambda: len(manager.pids()) > 20, "the bomb does not go off")
    manager.kill()
    assert manager.pids() == []


def test_a_frozen_group_stands_still_and_runs_on(group, spawn):
    manager = group()
    counter = mmap.mmap(-1, 8)

    def count() -> object:
        turns = 0
        while True:
            turns += 1
            counter[:8] = turns.to_bytes(8, "little")

    child = spawn(count)
    manager.add(child.pid)
    child.go()
    until(lambda: counter[:8] != bytes(8), "the child does not run")
    assert not manager.frozen()
    manager.freeze()
    assert manager.frozen()
    stopped = counter[:8]
    for _ in range(200):
        os.sched_yield()
    assert counter[:8] == stopped
    manager.thaw()
    until(lambda: counter[:8] != stopped, "the child does not run on")
    until(lambda: not manager.frozen(), "still frozen")


def test_kill_ends_a_frozen_group(group, spawn):
    manager = group()
    children = [spawn() for _ in range(5)]
    for child in children:
        manager.add(child.pid)
    manager.freeze()
    manager.kill()
    assert manager.pids() == []
    assert {os.WTERMSIG(child.wait()) for child in children} == {signal.SIGKILL}


def test_what_cannot_be_frozen_is_thawed_again(group, monkeypatch):
    monkeypatch.setattr("boxwright.libcontainer.cgroups.base.FREEZE_SECONDS", 0.02)
    manager = group()
    with monkeypatch.context() as patch:
        patch.setattr(files, "read", lambda path: "FREEZING")
        patch.setattr(os, "pread", lambda *_: b"frozen 0\n")
        with pytest.raises(StepError, match=r"not FROZEN|not frozen") as caught:
            manager.freeze()
    assert "state D" in caught.value.hint
    until(lambda: not manager.frozen(), "it stays frozen")
