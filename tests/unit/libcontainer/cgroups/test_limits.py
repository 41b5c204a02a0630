"""OCI resources → files and values, for both versions."""

import pytest

from boxwright.errdefs import StepError
from boxwright.libcontainer.cgroups.fs import limits as v1
from boxwright.libcontainer.cgroups.fs2 import limits as v2

MIB = 1 << 20


def flat(groups: list) -> list[str]:
    return [f"{name}={value}" for group in groups for _, name, value in group]


def on_v1(resources: dict, *files: str, without: tuple[str, ...] = ()) -> list[str]:
    files += ("memory.memsw.limit_in_bytes", "pids.max")
    return flat(v1.plan(resources, lambda _, name: name in files and name not in without))


def on_v2(resources: dict, **current: str | None) -> list[str]:
    found = {"memory_swap_max": "max", "pids_max": "max", **current}
    return flat(v2.plan(resources, lambda name: found.get(name.replace(".", "_"))))


@pytest.mark.parametrize(
    ("resources", "old", "new"),
    [
        ({}, [], []),
        ({"memory": None, "cpu": {}, "pids": {}}, [], []),
        (
            {"memory": {"limit": 64 * MIB, "swap": 96 * MIB}},
            [f"memory.limit_in_bytes={64 * MIB}", f"memory.memsw.limit_in_bytes={96 * MIB}"],
            [f"memory.max={64 * MIB}", f"memory.swap.max={32 * MIB}"],
        ),
        (
            {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}},
            [f"memory.limit_in_bytes={64 * MIB}", f"memory.memsw.limit_in_bytes={64 * MIB}"],
            [f"memory.max={64 * MIB}", "memory.swap.max=0"],
        ),
        (
            {"memory": {"limit": 64 * MIB, "swap": -1}},
            [f"memory.limit_in_bytes={64 * MIB}", "memory.memsw.limit_in_bytes=-1"],
            [f"memory.max={64 * MIB}", "memory.swap.max=max"],
        ),
        (
            {"memory": {"limit": -1}},
            ["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"],
            ["memory.max=max", "memory.swap.max=max"],
        ),
        (
            {"memory": {"reservation": 5 * MIB, "disableOOMKiller": False}},
            [f"memory.soft_limit_in_bytes={5 * MIB}", "memory.oom_control=0"],
            [f"memory.low={5 * MIB}"],
        ),
        (
            {"cpu": {"shares": 2, "quota": 5000, "period": 10000, "cpus": "0-1", "mems": "0"}},
            ["cpu.shares=2", "cpu.cfs_period_us=10000", "cpu.cfs_quota_us=5000", "cpuset.cpus=0-1", "cpuset.mems=0"],
            ["cpu.weight=1", "cpu.max=5000 10000", "cpuset.cpus=0-1", "cpuset.mems=0"],
        ),
        ({"cpu": {"quota": -1}}, ["cpu.cfs_quota_us=-1"], ["cpu.max=max"]),
        ({"cpu": {"shares": 0, "quota": 0, "cpus": ""}}, [], []),
        (
            {"cpu": {"burst": 0, "idle": 1}},
            ["cpu.cfs_burst_us=0", "cpu.idle=1"],
            ["cpu.idle=1", "cpu.max.burst=0"],
        ),
        ({"pids": {"limit": 5}}, ["pids.max=5"], ["pids.max=5"]),
        ({"pids": {"limit": 0}}, ["pids.max=max"], ["pids.max=max"]),
        ({"pids": {"limit": -1}}, ["pids.max=max"], ["pids.max=max"]),
        (
            {"blockIO": {"weight": 1000, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}},
            ["blkio.weight=1000", "blkio.weight_device=8:0 10"],
            ["io.weight=10000", "io.weight=8:0 1"],
        ),
        (
            {
                "blockIO": {
                    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}, {"major": 8, "minor": 1, "rate": 0}],
                    "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 6}],
                }
            },
            [
                "blkio.throttle.read_bps_device=8:0 5",
                "blkio.throttle.read_bps_device=8:1 0",
                "blkio.throttle.write_iops_device=8:0 6",
            ],
            ["io.max=8:0 rbps=5", "io.max=8:1 rbps=max", "io.max=8:0 wiops=6"],
        ),
        (
            {"hugepageLimits": [{"pageSize": "1GB", "limit": 1 << 30}]},
            [f"hugetlb.1GB.limit_in_bytes={1 << 30}"],
            [f"hugetlb.1GB.max={1 << 30}"],
        ),
        (
            {"rdma": {"mlx5_0": {"hcaHandles": 3, "hcaObjects": 10}}},
            ["rdma.max=mlx5_0 hca_handle=3 hca_object=10"],
            ["rdma.max=mlx5_0 hca_handle=3 hca_object=10"],
        ),
    ],
)
def test_plans(resources: dict, old: list[str], new: list[str]) -> None:
    assert on_v1(resources) == old
    assert on_v2(resources) == new


def test_what_only_v1_has() -> None:
    resources = {
        "memory": {"swappiness": 0, "kernelTCP": 7, "disableOOMKiller": True},
        "cpu": {"realtimePeriod": 1000, "realtimeRuntime": 500},
        "blockIO": {"leafWeight": 20},
        "network": {"classID": 0x100001, "priorities": [{"name": "eth0", "priority": 5}]},
    }
    assert on_v1(resources) == [
        "memory.kmem.tcp.limit_in_bytes=7",
        "memory.swappiness=0",
        "memory.oom_control=1",
        "cpu.rt_period_us=1000",
        "cpu.rt_runtime_us=500",
        "blkio.leaf_weight=20",
        "net_cls.classid=1048577",
        "net_prio.ifpriomap=eth0 5",
    ]
    for section, values in resources.items():
        for key, value in values.items():
            if value:
                with pytest.raises(StepError, match="cgroup v2"):
                    on_v2({section: {key: value}})


def test_bfq_brings_its_own_weight() -> None:
    block = {"blockIO": {"weight": 300, "weightDevice": [{"major": 8, "minor": 0, "weight": 400}]}}
    assert on_v1(block, "blkio.bfq.weight") == ["blkio.bfq.weight=300", "blkio.bfq.weight_device=8:0 400"]
    assert on_v2(block, io_bfq_weight="default 100") == ["io.bfq.weight=300", "io.bfq.weight=8:0 400"]


def test_a_reservation_of_huge_pages_counts_where_the_kernel_can() -> None:
    huge = {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}
    assert on_v2(huge, hugetlb_2MB_rsvd_max="max") == ["hugetlb.2MB.max=0", "hugetlb.2MB.rsvd.max=0"]


def test_v2_completes_what_an_update_leaves_out() -> None:
    assert on_v2({"cpu": {"period": 5000}}, cpu_max="2000 100000") == ["cpu.max=2000 5000"]
    assert on_v2({"memory": {"swap": 96 * MIB}}, memory_max=str(64 * MIB)) == [f"memory.swap.max={32 * MIB}"]
    with pytest.raises(StepError, match="needs a memory limit"):
        on_v2({"memory": {"swap": 96 * MIB}}, memory_max="max")
    with pytest.raises(StepError, match="below the memory limit"):
        on_v2({"memory": {"swap": 5, "limit": 6}})


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 100), (262144, 10000)])
def test_weights_keep_minimum_usual_and_maximum(shares: int, weight: int) -> None:
    assert v2.weight_of_shares(shares) == weight


def test_weights_rise_with_shares() -> None:
    weights = [v2.weight_of_shares(shares) for shares in range(2, 262145, 97)]
    assert weights == sorted(weights)
    assert [v2.weight_of_blkio(w) for w in (10, 500, 1000)] == [1, 4950, 10000]


def test_lifting_a_limit_that_the_host_does_not_have_is_nothing() -> None:
    for resources in ({"memory": {"limit": 64 * MIB, "swap": -1}}, {"memory": {"limit": 64 * MIB}}):
        assert on_v1(resources, without=("memory.memsw.limit_in_bytes",)) == [f"memory.limit_in_bytes={64 * MIB}"]
        assert on_v2(resources, memory_swap_max=None) == [f"memory.max={64 * MIB}"]
    assert on_v1({"pids": {"limit": -1}}, without=("pids.max",)) == []
    assert on_v2({"pids": {"limit": -1}}, pids_max=None) == []
