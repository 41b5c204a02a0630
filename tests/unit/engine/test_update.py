"""`docker update` against a fake driver: what is merged, refused, undone and recovered."""

import errno
from pathlib import Path
from typing import Any

import pytest
from support.life import Life, lived

from boxwright.engine import hostinfo, restore, start, update
from boxwright.engine.state import Operation, Status
from boxwright.errdefs import Conflict, Error, InvalidParameter, NotFound, NotImplemented_, StepError, System
from boxwright.types import HostConfig, RestartPolicy, UpdateRequest
from boxwright.types.container import DeviceMapping, ThrottleDevice, Ulimit

MIB = 1 << 20


@pytest.fixture(autouse=True)
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that can do everything."""
    switches = {n: True for n, f in hostinfo.HostInfo.__annotations__.items() if f in (bool, "bool")}
    host = hostinfo.HostInfo(**switches, cpus="0-3", mems="0")
    monkeypatch.setattr(hostinfo, "host", lambda: host)


def test_a_stopped_container_only_remembers(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create(memory=64 * MIB, memory_swap=128 * MIB)
        wanted = UpdateRequest(memory=100 * MIB, cpu_shares=7, restart_policy=RestartPolicy(name="always"))
        assert await update.update(life.eng, "c", wanted) == {"Warnings": None}
        config = c.host_config
        assert (config.memory, config.memory_swap, config.cpu_shares) == (100 * MIB, 128 * MIB, 7)
        assert config.restart_policy.name == "always"
        assert c.record.before_update is None
        assert life.events == ["update"]

    lived(tmp_path, work)


def test_a_running_container_gets_what_is_named(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        life.create(memory=64 * MIB, memory_swap=128 * MIB, cpu_shares=512)
        await start.start(life.eng, "c")
        await update.update(life.eng, "c", UpdateRequest(memory=32 * MIB, pids_limit=-1))
        await update.update(life.eng, "c", UpdateRequest(nano_cpus=500_000_000, pids_limit=9))
        assert life.driver.lives[0].updates == [
            {"memory": {"limit": 32 * MIB, "swap": 128 * MIB}, "pids": {"limit": -1}},
            {"cpu": {"quota": 50_000, "period": 100_000}, "pids": {"limit": 9}},
        ]

    lived(tmp_path, work)


@pytest.mark.parametrize(("number", "kind"), [(errno.EBUSY, System), (errno.EINVAL, InvalidParameter)])
def test_what_the_kernel_refuses_is_undone(tmp_path: Path, number: int, kind: type[Error]) -> None:
    async def work(life: Life) -> None:
        c = life.create(memory=64 * MIB, memory_swap=128 * MIB)
        await start.start(life.eng, "c")
        life.driver.lives[0].update_error = StepError("cgroup: cannot write", step="cgroup", errno=number)
        before = c.host_config
        with pytest.raises(kind, match=f"^Cannot update container {c.id}: cgroup: cannot write$"):
            await update.update(life.eng, "c", UpdateRequest(memory=32 * MIB))
        assert c.host_config == before
        assert c.record.before_update is None
        assert c.state.operation is Operation.NONE
        assert "update" not in life.events

    lived(tmp_path, work)


@pytest.mark.parametrize("refused", [False, True])
def test_a_new_engine_finishes_or_undoes(tmp_path: Path, refused: bool) -> None:
    async def work(life: Life) -> None:
        c = life.create(memory=64 * MIB, memory_swap=128 * MIB, pids_limit=5)
        await start.start(life.eng, "c")
        first = life.driver.lives[0]
        # What an engine leaves that dies after its intent.
        old = c.host_config
        new = HostConfig(**{n: getattr(old, n) for n in old.__struct_fields__})
        new.memory, new.pids_limit = 32 * MIB, 0
        life.eng.store.change(c, operation=Operation.UPDATING)
        life.eng.store.replace(c, host_config=new, before_update=old)
        c.running, life.driver.found[c.id] = None, first
        first.update_error = StepError("no") if refused else None
        await restore.restore(life.eng)
        assert c.state.status is Status.RUNNING
        assert c.record.before_update is None
        assert c.host_config.memory == (64 if refused else 32) * MIB
        if not refused:
            assert first.updates == [{"memory": {"limit": 32 * MIB, "swap": 128 * MIB}, "pids": {"limit": -1}}]

    lived(tmp_path, work)


NANO, PERIOD = {"nano_cpus": 10**9}, {"cpu_period": 50_000}


@pytest.mark.parametrize(
    ("held", "wanted", "text"),
    [
        (PERIOD, NANO, "Nano CPUs cannot be updated as CPU Period has already been set"),
        ({"cpu_quota": 5000}, NANO, "Nano CPUs cannot be updated as CPU Quota has already been set"),
        (NANO, PERIOD, "CPU Period cannot be updated as NanoCPUs has already been set"),
        (NANO, {"cpu_quota": 5000}, "CPU Quota cannot be updated as NanoCPUs has already been set"),
        ({}, {"memory": 64 * MIB}, "Memory limit should be smaller than already set memoryswap limit"),
        (
            {"memory": 64 * MIB, "memory_swap": 64 * MIB},
            {"memory_swap": 32 * MIB},
            "Minimum memoryswap limit should be larger than memory limit",
        ),
        (
            {"auto_remove": True},
            {"restart_policy": RestartPolicy(name="always")},
            "Restart policy cannot be updated because AutoRemove is enabled for the container",
        ),
    ],
)
def test_conflicts(tmp_path: Path, held: dict[str, Any], wanted: dict[str, Any], text: str) -> None:
    async def work(life: Life) -> None:
        c = life.create(**held)
        before = c.record
        with pytest.raises(Conflict, match=f"^Cannot update container {c.id}: .*{text}"):
            await update.update(life.eng, "c", UpdateRequest(**wanted))
        assert c.record == before
        assert c.state.operation is Operation.NONE

    lived(tmp_path, work)


@pytest.mark.parametrize(
    ("wanted", "error", "text"),
    [
        ({"memory": MIB}, InvalidParameter, "Minimum memory limit allowed is 6MB"),
        ({"blkio_weight": 1}, InvalidParameter, "Range of blkio weight is from 10 to 1000"),
        ({"restart_policy": RestartPolicy(name="sometimes")}, InvalidParameter, "unknown policy 'sometimes'"),
        ({"restart_policy": RestartPolicy(maximum_retry_count=2)}, InvalidParameter, "can only be used with"),
        ({"cgroup_parent": "/x"}, NotImplemented_, "CgroupParent"),
        ({"kernel_memory": 64 * MIB}, NotImplemented_, "KernelMemory"),
        ({"memory_swappiness": 1}, NotImplemented_, "MemorySwappiness"),
        ({"oom_kill_disable": True}, NotImplemented_, "OomKillDisable"),
        ({"devices": [DeviceMapping(path_on_host="/dev/null")]}, NotImplemented_, "Devices"),
        ({"ulimits": [Ulimit(name="nofile")]}, NotImplemented_, "Ulimits"),
        ({"blkio_device_read_bps": [ThrottleDevice()]}, NotImplemented_, "BlkioDeviceReadBps"),
    ],
)
def test_bad_requests_change_nothing(tmp_path: Path, wanted: dict[str, Any], error: type, text: str) -> None:
    async def work(life: Life) -> None:
        c = life.create()
        before = c.record
        with pytest.raises(error, match=text):
            await update.update(life.eng, "c", UpdateRequest(**wanted))
        assert c.record == before
        assert life.events == []

    lived(tmp_path, work)


DECIDED = {*update.FIELDS, "restart_policy", "cpu_percent", "io_maximum_iops", "io_maximum_bandwidth"}


@pytest.mark.parametrize("name", sorted(set(UpdateRequest.__struct_fields__) - DECIDED))
def test_every_other_field_is_refused_by_name(tmp_path: Path, name: str) -> None:
    async def work(life: Life) -> None:
        life.create()
        wanted = UpdateRequest()
        setattr(wanted, name, 5)
        with pytest.raises(NotImplemented_, match=f"(?i)^{name.replace('_', '')} of a container cannot be updated"):
            await update.update(life.eng, "c", wanted)

    lived(tmp_path, work)


def test_the_unknown(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        with pytest.raises(NotFound):
            await update.update(life.eng, "nobody", UpdateRequest())

    lived(tmp_path, work)
