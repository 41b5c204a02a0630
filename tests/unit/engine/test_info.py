from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.desired import Desired

from boxwright.config import Settings, load
from boxwright.engine import hostinfo, info, start, stop
from boxwright.errdefs import InvalidParameter

Desire = Callable[[Callable[[Desired], Awaitable[None]]], None]

# Of Docker 28's answer; swarm's and Windows' own fields aside.
_KEYS = """
ID Containers ContainersRunning ContainersPaused ContainersStopped Images Driver DriverStatus Plugins MemoryLimit
SwapLimit CpuCfsPeriod CpuCfsQuota CPUShares CPUSet PidsLimit IPv4Forwarding Debug NFd OomKillDisable NGoroutines
SystemTime LoggingDriver CgroupDriver CgroupVersion NEventsListener KernelVersion OperatingSystem OSVersion OSType
Architecture IndexServerAddress RegistryConfig NCPU MemTotal GenericResources DockerRootDir HttpProxy HttpsProxy
NoProxy Name Labels ExperimentalBuild ServerVersion Runtimes DefaultRuntime Swarm LiveRestoreEnabled Isolation
InitBinary ContainerdCommit RuncCommit InitCommit SecurityOptions Warnings DefaultAddressPools CDISpecDirs
"""
INFO_KEYS = set(_KEYS.split())


def test_info_counts_and_describes(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        await world.make("one")
        await world.make("two")
        await start.start(world.eng, "two")
        listener = world.eng.bus.subscribe()
        found = info.info(world.eng)
        assert found["DriverStatus"] == [["Backing Filesystem", "fake"]]
        listener.close()
        assert set(found) >= INFO_KEYS
        assert (found["Containers"], found["ContainersRunning"], found["ContainersStopped"]) == (2, 1, 1)
        assert found["Images"] == 2 and found["NEventsListener"] == 1
        assert found["MemTotal"] > 1 << 20 and found["NCPU"] >= 1
        assert found["Runtimes"] == {"boxwright": {"path": "boxwright-runtime"}}
        assert found["DockerRootDir"] == world.eng.config.data_root
        assert found["Swarm"]["LocalNodeState"] == "inactive"
        assert found["SecurityOptions"][0] == "name=seccomp,profile=unconfined"
        await stop.stop(world.eng, "two", None, 0)

    desire(work)


def test_version_and_ping(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        found = info.version(world.eng)
        assert (found["ApiVersion"], found["MinAPIVersion"], found["Os"]) == ("1.51", "1.24", "linux")
        assert found["Components"][0]["Name"] == "Engine" and found["Components"][0]["Version"] == found["Version"]
        assert info.ping()["Api-Version"] == "1.51"

    desire(work)


def test_the_host_is_known() -> None:
    host = hostinfo.host()
    assert host.cgroup_version in ("1", "2")
    name, _ = hostinfo.operating_system()
    assert name


def test_a_settings_file(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(
        '{"data-root": "/d", "default-address-pools": [{"base": "10.0.0.0/8", "size": 24}], '
        '"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}}, "icc": false}'
    )
    settings = load(str(path))
    assert settings.data_root == "/d" and settings.path("a", "b") == "/d/a/b" and not settings.icc
    assert settings.default_address_pools[0].size == 24
    assert settings.default_ulimits["nofile"].hard == 2
    assert settings.default_shm_size == Settings().default_shm_size
    for text, what in (("{", "daemon.json"), ('{"data-rot": 1}', "data-rot"), ('{"mtu": "x"}', "mtu")):
        path.write_text(text)
        with pytest.raises(InvalidParameter, match=what):
            load(str(path))
    with pytest.raises(InvalidParameter, match="nowhere"):
        load(str(tmp_path / "nowhere"))
