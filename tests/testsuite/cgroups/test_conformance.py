"""What every cgroup manager must limit and tell; the same tests for v1 (fs) and v2 (fs2), against the real kernel."""

import errno
import mmap
import os
import select
import signal
import stat

import pytest
from support.groups import until, value

from boxwright.errdefs import StepError
from boxwright.libcontainer import cgroups, devices
from boxwright.libcontainer.cgroups import files

pytestmark = pytest.mark.root

MIB = 1 << 20


# --- memory ------------------------------------------------------------------------------------------------------------


def test_memory_limits_are_set_and_changed_in_any_direction(group, needs):
    needs("memory")
    manager = group({"memory": {"limit": 64 * MIB, "swap": 128 * MIB, "reservation": 32 * MIB}})

    def limits() -> tuple[int, int]:
        limit = int(value(manager, "memory.limit_in_bytes", "memory.max"))
        swap = int(value(manager, "memory.memsw.limit_in_bytes", "memory.swap.max"))
        return limit, swap if manager.driver == "fs" else swap + limit

    assert limits() == (64 * MIB, 128 * MIB)
    assert int(value(manager, "memory.soft_limit_in_bytes", "memory.low")) == 32 * MIB
    for limit, both in ((256, 512), (16, 16), (512, 1024), (64, 128)):
        manager.set({"memory": {"limit": limit * MIB, "swap": both * MIB}})
        assert limits() == (limit * MIB, both * MIB)
        memory = manager.stats()["memory"]
        assert (memory["limit"], memory["swap_limit"], memory["swap_usage"]) == (limit * MIB, (both - limit) * MIB, 0)
    manager.set({"memory": {"limit": -1}})
    memory = manager.stats()["memory"]
    assert (memory["limit"], memory["swap_limit"]) == (-1, -1)


def test_memory_is_limited_and_the_kill_is_noticed(group, spawn, needs):
    needs("memory")
    manager = group({"memory": {"limit": 16 * MIB, "swap": 16 * MIB}})
    notice = manager.oom_fd()
    try:
        assert not os.get_inheritable(notice)
        assert not select.select([notice], [], [], 0)[0]
        child = spawn(lambda: len(b"x" * (64 * MIB)))
        manager.add(child.pid)
        child.go()
        assert os.WTERMSIG(child.wait()) == signal.SIGKILL
        assert select.select([notice], [], [], 20)[0]
        assert os.read(notice, 4096)
        until(lambda: manager.oom_kills() >= 1, "the kill is not counted")
        assert manager.stats()["memory"]["oom_kills"] >= 1
    finally:
        os.close(notice)


def test_a_limit_below_use_is_refused_when_asked_to_check(group, spawn, needs):
    needs("memory")
    manager = group({"memory": {"limit": 64 * MIB}})

    def hold() -> object:
        held = mmap.mmap(-1, 16 * MIB)
        held.write(b"x" * (16 * MIB))
        signal.raise_signal(signal.SIGSTOP)
        return len(held)

    child = spawn(hold)
    manager.add(child.pid)
    child.go()
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    with pytest.raises(StepError, match=f'"{8 * MIB}".*in use'):
        manager.set({"memory": {"limit": 8 * MIB, "checkBeforeUpdate": True}})
    assert manager.stats()["memory"]["limit"] == 64 * MIB


def test_kills_in_groups_inside_count(group, spawn, needs):
    needs("memory")
    manager = group({"memory": {"limit": 16 * MIB, "swap": 16 * MIB}})
    directory = manager.paths["memory" if manager.driver == "fs" else ""]
    os.mkdir(f"{directory}/inner")
    child = spawn(lambda: len(b"x" * (64 * MIB)))
    files.write(f"{directory}/inner/cgroup.procs", str(child.pid))
    child.go()
    assert os.WTERMSIG(child.wait()) == signal.SIGKILL
    until(lambda: manager.oom_kills() >= 1, "the kill is not counted")


def test_swappiness_and_the_oom_switch_are_v1s(group, needs):
    needs("memory")
    for memory, name, text in (
        ({"swappiness": 7}, "memory.swappiness", "7"),
        ({"disableOOMKiller": True}, "memory.oom_control", "oom_kill_disable 1"),
    ):
        manager = group(memory and {"memory": memory}, create=False)
        if manager.driver == "fs2":
            with pytest.raises(StepError, match="cgroup v2"):
                manager.create()
            continue
        manager.create()
        assert value(manager, name, name).splitlines()[0] == text


# --- processes ---------------------------------------------------------------------------------------------------------


def test_forks_end_at_the_pids_limit(group, spawn, needs):
    needs("pids")
    manager = group({"pids": {"limit": 3}})

    def forks() -> int:
        for made in range(10):
            try:
                if os.fork() == 0:
                    signal.pause()
            except OSError as error:
                assert error.errno == errno.EAGAIN
                return made
        return 10

    child = spawn(forks)
    manager.add(child.pid)
    assert child.go().result() == "2"
    stats = manager.stats()["pids"]
    assert stats["limit"] == 3
    manager.set({"pids": {"limit": -1}})
    assert manager.stats()["pids"]["limit"] == -1


# --- processors --------------------------------------------------------------------------------------------------------


def test_cpu_weight_quota_and_period(group, needs):
    needs("cpu")
    manager = group({"cpu": {"shares": 1024, "quota": 50_000, "period": 100_000}})
    assert value(manager, "cpu.shares", "cpu.weight") == ("1024" if manager.driver == "fs" else "100")

    def bandwidth() -> tuple[str, ...]:
        if manager.driver == "fs2":
            return tuple(files.read(f"{manager.paths['']}/cpu.max").split())
        return tuple(files.read(f"{manager.paths['cpu']}/cpu.cfs_{name}_us") for name in ("quota", "period"))

    assert bandwidth() == ("50000", "100000")
    for quota, period in ((1000, 1000), (200_000, 50_000), (10_000, 1_000_000)):
        manager.set({"cpu": {"quota": quota, "period": period}})
        assert bandwidth() == (str(quota), str(period))
    manager.set({"cpu": {"period": 20_000}})
    assert bandwidth() == ("10000", "20000")
    manager.set({"cpu": {"quota": -1}})
    assert bandwidth() == ("-1" if manager.driver == "fs" else "max", "20000")


def test_a_quota_throttles(group, spawn, needs):
    needs("cpu")
    manager = group({"cpu": {"quota": 2_000, "period": 20_000}})

    def burn() -> object:
        while True:
            pass

    child = spawn(burn)
    manager.add(child.pid)
    child.go()
    until(lambda: manager.stats()["cpu"]["throttled_periods"] > 2, "the group is not throttled")
    stats = manager.stats()["cpu"]
    assert stats["periods"] >= stats["throttled_periods"]
    # Counted when a period's throttling ends.
    until(lambda: manager.stats()["cpu"]["throttled_ns"] > 0, "no time is counted as throttled")
    assert stats["usage_ns"] > 0


def test_a_cpuset_confines_and_is_changed(group, spawn, needs):
    needs("cpuset")
    manager = group({"cpu": {"cpus": "0", "mems": "0"}})
    child = spawn()
    manager.add(child.pid)
    assert os.sched_getaffinity(child.pid) == {0}
    if len(os.sched_getaffinity(0)) > 1:
        manager.set({"cpu": {"cpus": "0-1"}})
        assert os.sched_getaffinity(child.pid) == {0, 1}


def test_real_time_needs_a_share_of_the_parents(group, needs):
    needs("cpu")
    real_time = {"cpu": {"realtimePeriod": 1_000_000, "realtimeRuntime": 5_000}}
    manager = group(create=False)
    root = os.path.dirname(os.path.dirname(manager.paths.get("cpu", "")))
    if manager.driver == "fs2" or not os.path.exists(f"{root}/cpu.rt_runtime_us"):
        with pytest.raises(StepError, match=r"realtime|rt_"):
            group(real_time)
        return
    manager.create()
    with pytest.raises(StepError, match=r"cannot write .*/c/cpu\.rt_runtime_us"):
        manager.set(real_time)
    files.write(f"{os.path.dirname(manager.paths['cpu'])}/cpu.rt_runtime_us", "10000")
    manager.set(real_time)
    assert files.read(f"{manager.paths['cpu']}/cpu.rt_runtime_us") == "5000"


@pytest.mark.parametrize("shares", [1, 262145])
def test_shares_out_of_range_are_refused(group, shares):
    with pytest.raises(StepError, match="allowed cpu-shares is"):
        group({"cpu": {"shares": shares}}, create=False).create()


# --- block devices -----------------------------------------------------------------------------------------------------


def block_device() -> tuple[int, int]:
    for name in sorted(os.listdir("/sys/block")):
        if not name.startswith(("loop", "zram")):
            major, _, minor = files.read(f"/sys/block/{name}/dev").partition(":")
            return int(major), int(minor)
    pytest.skip("this machine has no block device")


def test_block_throttles(group, needs):
    needs("blkio" if group(create=False).driver == "fs" else "io")
    major, minor = block_device()
    rate = {"major": major, "minor": minor, "rate": MIB}
    kinds = ("throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice")
    manager = group({"blockIO": {kind: [rate] for kind in kinds}})
    if manager.driver == "fs2":
        line = files.read(f"{manager.paths['']}/io.max")
        assert line == f"{major}:{minor} rbps={MIB} wbps={MIB} riops={MIB} wiops={MIB}"
        return
    for name in ("read_bps", "write_bps", "read_iops", "write_iops"):
        assert files.read(f"{manager.paths['blkio']}/blkio.throttle.{name}_device") == f"{major}:{minor} {MIB}"


def test_block_weight(group, needs):
    needs("blkio" if group(create=False).driver == "fs" else "io")
    manager = group()
    directory = manager.paths["blkio" if manager.driver == "fs" else ""]
    names = [
        n for n in ("blkio.bfq.weight", "blkio.weight", "io.bfq.weight", "io.weight") if n in os.listdir(directory)
    ]
    if not names:
        with pytest.raises(StepError, match="weight"):
            manager.set({"blockIO": {"weight": 500}})
        return
    manager.set({"blockIO": {"weight": 500}})
    text = files.read(f"{directory}/{names[0]}").removeprefix("default ").splitlines()[0]
    assert text == ("4950" if names[0] == "io.weight" else "500")


# --- huge pages --------------------------------------------------------------------------------------------------------


def test_huge_pages_are_limited(group, needs):
    needs("hugetlb")
    manager = group({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]})
    assert value(manager, "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max") == str(4 * MIB)
    assert manager.stats()["hugetlb"]["2MB"]["usage"] == 0


# --- devices -----------------------------------------------------------------------------------------------------------


def tries(*attempts):
    """For a child: open or make device nodes, one attempt after each byte that arrives; answers come as letters."""

    def run() -> str:
        answers = []
        for kind, major, minor, flags in attempts:
            path = f"/dev/shm/boxwright-test-{os.getpid()}"
            try:
                os.mknod(path, kind | 0o600, os.makedev(major, minor))
            except PermissionError:
                answers.append("m")
                continue
            try:
                os.close(os.open(path, flags | os.O_NONBLOCK))
                answers.append("+")
            except PermissionError:
                answers.append("-")
            except OSError:
                # Allowed, and there is no such device.
                answers.append("+")
            finally:
                os.unlink(path)
        return "".join(answers)

    return run


NULL, ZERO, KMSG = (stat.S_IFCHR, 1, 3), (stat.S_IFCHR, 1, 5), (stat.S_IFCHR, 1, 11)
BLOCK = (stat.S_IFBLK, 7, 0)


@pytest.fixture
def verdict(spawn):
    """The answers for each attempt, of a process in the group."""
    if not os.path.isdir("/dev/shm"):
        pytest.skip("needs /dev/shm to make nodes in")

    def ask(manager: cgroups.Manager, *attempts) -> str:
        child = spawn(tries(*attempts))
        manager.add(child.pid)
        return child.go().result()

    return ask


def test_the_default_policy_opens_the_usual_devices_only(group, verdict):
    manager = group()
    assert (
        verdict(manager, (*NULL, os.O_RDWR), (*ZERO, os.O_RDWR), (*KMSG, os.O_RDONLY), (*BLOCK, os.O_RDONLY)) == "++--"
    )


def test_a_privileged_policy_opens_all(group, verdict):
    manager = group({"devices": devices.ALLOW_ALL})
    assert verdict(manager, (*KMSG, os.O_RDONLY), (*BLOCK, os.O_RDONLY)) == "++"


def test_access_is_told_apart(group, verdict):
    rule = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
    manager = group({"devices": [{"allow": False, "access": "rwm"}, rule]})
    attempts = [(*KMSG, flags) for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)]
    assert verdict(manager, *attempts) == "+--"


def test_all_but_one_device(group, verdict):
    deny = {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "w"}
    manager = group({"devices": [*devices.ALLOW_ALL, deny]})
    attempts = [(*KMSG, flags) for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)]
    assert verdict(manager, *attempts, (*BLOCK, os.O_RDONLY)) == "+--+"


def test_the_policy_is_replaced_in_a_living_group(group, spawn, verdict):
    manager = group()
    manager.add(spawn().pid)
    for rules, expected in (
        ([{"allow": True, "type": "c", "major": 1, "minor": -1, "access": "rwm"}], "+-"),
        ([{"allow": True, "type": "b", "major": 7, "minor": 0, "access": "r"}], "-+"),
        ([], "--"),
        (devices.ALLOW_ALL, "++"),
        ([], "--"),
    ):
        manager.set({"devices": rules})
        assert verdict(manager, (*KMSG, os.O_RDONLY), (*BLOCK, os.O_RDONLY)) == expected
        assert verdict(manager, (*NULL, os.O_RDWR)) == "+"


# --- refusals ----------------------------------------------------------------------------------------------------------


def test_unified_settings_are_v2s(group, needs):
    needs("pids")
    manager = group({"unified": {"pids.max": "9"}}, create=False)
    if manager.driver == "fs":
        with pytest.raises(StepError, match="need cgroup v2"):
            manager.create()
        return
    manager.create()
    assert files.read(f"{manager.paths['']}/pids.max") == "9"


@pytest.mark.parametrize("name", ["../c/pids.max", "pids", "a/b.c"])
def test_unified_names_stay_in_the_group(group, name):
    with pytest.raises(StepError, match="unified"):
        group({"unified": {name: "1"}}, create=False).create()


def test_errors_name_file_and_value(group, needs):
    needs("cpuset")
    manager = group(create=False)
    with pytest.raises(StepError) as caught:
        manager.resources = {"cpu": {"cpus": "4095"}}
        manager.create()
    assert caught.value.step == "cgroup"
    assert caught.value.path.endswith("/c/cpuset.cpus")
    assert caught.value.path in caught.value.message
    assert '"4095"' in caught.value.message
    assert caught.value.errno


@pytest.mark.parametrize(
    "resources",
    [
        {"memory": "much"},
        {"memory": {"limit": "64m"}},
        {"pids": {"limit": True}},
        {"blockIO": {"throttleReadBpsDevice": [{"rate": 1}]}},
        {"blockIO": {"weightDevice": "8:0"}},
        {"hugepageLimits": [{"pageSize": "../x", "limit": 1}]},
        {"devices": [{"allow": True, "type": "x"}]},
        {"devices": [{"allow": True, "access": "q"}]},
    ],
)
def test_malformed_resources_are_refused(group, resources):
    with pytest.raises(StepError):
        group(resources, create=False).create()


def test_what_is_not_mounted_is_refused_by_name(group):
    manager = group(create=False)
    manager.paths.pop("rdma", None)
    manager.resources = {"rdma": {"mlx5_0": {"hcaHandles": 2}}}
    with pytest.raises(StepError, match=r"rdma\.max"):
        manager.create()


def test_a_refused_set_leaves_what_was_there(group, spawn, needs):
    for controller in ("memory", "cpu", "cpuset", "pids"):
        needs(controller)
    manager = group({"pids": {"limit": 30}, "memory": {"limit": 64 * MIB}, "cpu": {"shares": 512}})
    manager.add(spawn().pid)
    before = manager.stats()
    wanted = {"memory": {"limit": 32 * MIB}, "cpu": {"shares": 256, "cpus": "4000"}, "pids": {"limit": 20}}
    with pytest.raises(StepError) as refused:
        manager.set(wanted)
    assert "cpuset.cpus" in refused.value.path
    assert not refused.value.hint
    after = manager.stats()
    assert after["memory"]["limit"] == before["memory"]["limit"]
    assert after["pids"]["limit"] == 30
    del wanted["cpu"]["cpus"]
    manager.set(wanted)
    assert manager.stats()["memory"]["limit"] == 32 * MIB
    assert manager.stats()["pids"]["limit"] == 20


def test_stats_have_one_shape(group, spawn):
    manager = group()
    manager.add(spawn().pid)
    stats = manager.stats()
    assert set(stats) == {"cpu", "memory", "pids", "blkio", "hugetlb"}
    shapes = {
        "cpu": "usage_ns user_ns system_ns percpu_ns periods throttled_periods throttled_ns",
        "memory": "usage max_usage limit swap_usage swap_limit failures oom_kills stat",
        "pids": "current limit",
    }
    for section, keys in shapes.items():
        assert not stats[section] or set(stats[section]) <= set(keys.split()), section
    if stats["pids"]:
        assert stats["pids"]["current"] == 1
