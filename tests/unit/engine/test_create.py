import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.desired import Desired

from boxwright.db import intents
from boxwright.engine import create, names, spec
from boxwright.engine.state import Status
from boxwright.errdefs import Conflict, Error, InvalidParameter, NotFound, NotImplemented_, System

Desire = Callable[[Callable[[Desired], Awaitable[None]]], None]


def test_a_container_is_rows_a_snapshot_and_a_directory(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        answer = await world.ask("web", {"Cmd": ["echo", "hi"]})
        assert re.fullmatch("[0-9a-f]{64}", answer["Id"]) and answer["Warnings"] == []
        c = world.eng.store.get("web")
        assert c.id == answer["Id"] and c.state.status is Status.CREATED
        assert (c.record.path, c.record.args) == ("echo", ["hi"])
        assert c.record.image == world.images.images["busybox"].id
        assert c.config.hostname == c.id[:12]
        assert world.snapshots.keys == {c.id: ["sha256:a"]}
        directory = world.eng.container_dir(c.id)
        assert os.stat(directory).st_mode & 0o777 == 0o710
        assert os.stat(f"{directory}/exit.json").st_size == 4096
        assert world.events == ["create"]
        assert intents.pending(world.eng.db) == []
        assert world.images.held == []

    desire(work)


def test_defaults_that_docker_fills_in(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        h = (await world.make()).host_config
        assert (h.network_mode, h.ipc_mode, h.restart_policy.name, h.shm_size) == ("default", "private", "no", 64 << 20)
        assert h.log_config.type == "json-file" and h.runtime == "boxwright"
        assert h.masked_paths == spec.MASKED_PATHS and h.readonly_paths == spec.READONLY_PATHS
        privileged = (await world.make(None, {"HostConfig": {"Privileged": True}})).host_config
        assert privileged.masked_paths is None and privileged.readonly_paths is None
        limited = (await world.make(None, {"HostConfig": {"Memory": 8 << 20}})).host_config
        assert limited.memory_swap == 16 << 20
        host = await world.make(None, {"HostConfig": {"NetworkMode": "host"}})
        assert host.config.hostname == os.uname().nodename

    desire(work)


def test_the_images_configuration_completes_the_users(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        plain = (await world.make(None, {"Image": "app"})).config
        assert (plain.entrypoint, plain.cmd, plain.working_dir, plain.user) == (["/app"], ["serve"], "/srv", "1000")
        assert plain.stop_signal == "SIGINT" and plain.exposed_ports == {"80/tcp": {}}
        own = {
            "Image": "app", "Cmd": ["test"], "Env": ["MODE=dev", "A=1"], "Labels": {"x": "y"},
            "ExposedPorts": {"90/tcp": {}}, "WorkingDir": "/w/../v", "User": "0", "StopSignal": "KILL",
        }  # fmt: skip
        mine = (await world.make(None, own)).config
        assert (mine.entrypoint, mine.cmd, mine.working_dir, mine.user) == (["/app"], ["test"], "/v", "0")
        assert mine.env == ["MODE=dev", "A=1", "PATH=/bin"]
        assert mine.labels == {"maker": "us", "x": "y"}
        assert mine.exposed_ports == {"80/tcp": {}, "90/tcp": {}}
        # An entrypoint of the user's drops the image's command; an empty one drops the image's entrypoint.
        c = await world.make(None, {"Image": "app", "Entrypoint": ["/bin/sh"]})
        assert (c.config.cmd, c.record.path, c.record.args) == (None, "/bin/sh", [])
        c = await world.make(None, {"Image": "app", "Entrypoint": [""], "Cmd": ["ls"]})
        assert (c.config.entrypoint, c.record.path) == (None, "ls")

    desire(work)


REFUSED: list[tuple[dict[str, Any], type[Error], str]] = [
    ({"Image": ""}, InvalidParameter, "no image specified"),
    ({"Image": "nope"}, NotFound, "No such image: nope:latest"),
    ({"Image": "app", "Entrypoint": [""]}, InvalidParameter, "no command specified"),
    (
        {"WorkingDir": "rel"},
        InvalidParameter,
        "the working directory 'rel' is invalid, it needs to be an absolute path",
    ),
    ({"StopSignal": "ZZ"}, InvalidParameter, "nvalid signal: ZZ"),
    ({"Hostname": "a b"}, InvalidParameter, "invalid hostname format: a b"),
    ({"Domainname": "a\n1.2.3.4 evil"}, InvalidParameter, "invalid hostname format"),
    ({"Env": ["=x"]}, InvalidParameter, "invalid environment variable: =x"),
    ({"Env": [""]}, InvalidParameter, "invalid environment variable: "),
    ({"ExposedPorts": {"zz": {}}}, InvalidParameter, "invalid port specification"),
    ({"Healthcheck": {"Interval": 5}}, InvalidParameter, "Interval in Healthcheck cannot be less than 1ms"),
    (
        {"Labels": {"boxwright.timeout": "1.5"}},
        InvalidParameter,
        "label boxwright.timeout must be 0 to 1000000000 seconds: '1.5'",
    ),
    ({"HostConfig": {"Timeout": -1}}, InvalidParameter, "HostConfig.Timeout must be 0 to 1000000000 seconds: -1"),
    (
        {"NetworkingConfig": {"EndpointsConfig": {"bridge": {"IPAMConfig": {"IPv4Address": "172.17.0.9"}}}}},
        InvalidParameter,
        "user specified IP address is supported on user defined networks only",
    ),
    (
        {"NetworkingConfig": {"EndpointsConfig": {"bridge": {"Aliases": ["q"]}}}},
        InvalidParameter,
        "network-scoped alias is supported only for containers in user defined networks",
    ),
]

HOST_REFUSED: list[tuple[dict[str, Any], type[Error], str]] = [
    ({"Memory": 100}, InvalidParameter, "Minimum memory limit allowed is 6MB"),
    ({"Memory": 8 << 20, "MemorySwap": 1 << 20}, InvalidParameter, "Minimum memoryswap limit should be larger"),
    ({"MemorySwap": 1 << 20}, InvalidParameter, "You should always set the Memory limit when using Memoryswap limit"),
    ({"NanoCpus": 10**12}, InvalidParameter, "ange of CPUs is from 0.01 to"),
    ({"NanoCpus": 10**9, "CpuPeriod": 10000}, InvalidParameter, "Conflicting options: Nano CPUs and CPU Period"),
    ({"CpuPeriod": 1}, InvalidParameter, "CPU cfs period can not be less than 1ms"),
    ({"CpuQuota": 1}, InvalidParameter, "CPU cfs quota can not be less than 1ms"),
    ({"MemoryReservation": 1}, InvalidParameter, "Minimum memory reservation allowed is 6MB"),
    (
        {"IOMaximumIOps": 3},
        InvalidParameter,
        "nvalid QoS settings: linux does not support configuration of maximum IOPs",
    ),
    ({"CpuCount": 3}, NotImplemented_, "HostConfig.CpuCount"),
    ({"CgroupnsMode": "zz"}, InvalidParameter, "invalid cgroup namespace mode: zz"),
    ({"IpcMode": "zz"}, InvalidParameter, "invalid IPC mode: zz"),
    ({"IpcMode": "container:"}, InvalidParameter, "invalid IPC mode: container:"),
    ({"PidMode": "private"}, InvalidParameter, "invalid PID mode: private"),
    ({"PidMode": "container:nope"}, InvalidParameter, "No such container: nope"),
    ({"UTSMode": "zz"}, InvalidParameter, "invalid UTS mode: zz"),
    ({"UsernsMode": "zz"}, InvalidParameter, "invalid user namespace mode: zz"),
    ({"Isolation": "hyperv"}, InvalidParameter, "nvalid isolation: \"hyperv\" - linux only supports 'default'"),
    ({"OomScoreAdj": 5000}, InvalidParameter, "Invalid value 5000, range for oom score adj is [-1000, 1000]"),
    ({"ShmSize": -1}, InvalidParameter, "SHM size can not be less than 0"),
    ({"Runtime": "zz"}, InvalidParameter, "unknown or invalid runtime name: zz"),
    ({"CapAdd": ["zz"]}, InvalidParameter, 'invalid CapAdd: unknown capability: "CAP_ZZ"'),
    ({"CapDrop": ["zz"]}, InvalidParameter, 'invalid CapDrop: unknown capability: "CAP_ZZ"'),
    ({"SecurityOpt": ["zz"]}, InvalidParameter, 'invalid --security-opt 1: "zz"'),
    ({"SecurityOpt": ["a=b"]}, InvalidParameter, 'invalid --security-opt 2: "a=b"'),
    ({"RestartPolicy": {"Name": "zz"}}, InvalidParameter, "invalid restart policy: unknown policy 'zz'; use one of"),
    (
        {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}},
        InvalidParameter,
        "invalid restart policy: maximum retry count can only be used with 'on-failure'",
    ),
    (
        {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -3}},
        InvalidParameter,
        "invalid restart policy: maximum retry count cannot be negative",
    ),
    (
        {"RestartPolicy": {"Name": "always"}, "AutoRemove": True},
        InvalidParameter,
        "can't create 'AutoRemove' container with restart policy",
    ),
    ({"LogConfig": {"Type": "zz"}}, InvalidParameter, "error looking up logging plugin zz"),
    ({"LogConfig": {"Type": "splunk"}}, NotImplemented_, "splunk"),
    ({"LogConfig": {"Type": "json-file", "Config": {"a": "b"}}}, InvalidParameter, "unknown log opt 'a' for json-file"),
    ({"ExtraHosts": ["a\nb:1.2.3.4"]}, InvalidParameter, "bad format for add-host"),
    ({"Dns": ["zz"]}, InvalidParameter, "zz is not an ip address"),
    ({"DnsSearch": ["a\nnameserver 6.6.6.6"]}, InvalidParameter, "invalid DNS setting"),
    ({"DnsOptions": ["a b"]}, InvalidParameter, "invalid DNS setting"),
    ({"ExtraHosts": ["zz"]}, InvalidParameter, 'bad format for add-host: "zz"'),
    ({"ExtraHosts": ["a:b"]}, InvalidParameter, 'invalid IP address in add-host: "b"'),
    ({"PortBindings": {"zz": []}}, InvalidParameter, "invalid port specification"),
    ({"PortBindings": {"80/tcp": [{"HostPort": "zz"}]}}, InvalidParameter, "invalid port specification"),
    ({"PortBindings": {"80/tcp": [{"HostPort": "99999"}]}}, InvalidParameter, "invalid port"),
    ({"DeviceRequests": [{"Count": 1}]}, NotImplemented_, "HostConfig.DeviceRequests"),
    ({"DeviceCgroupRules": ["zz"]}, InvalidParameter, "invalid device cgroup rule format: 'zz'"),
    ({"Ulimits": [{"Name": "zz"}]}, InvalidParameter, "invalid ulimit type: zz"),
    ({"StorageOpt": {"size": "1G"}}, NotImplemented_, "storage-opt"),
    ({"Annotations": {"": "x"}}, InvalidParameter, "invalid Annotations: the empty string is not permitted"),
    ({"CgroupParent": "/a/../../b"}, InvalidParameter, "invalid cgroup parent"),
    ({"NetworkMode": "container:"}, InvalidParameter, "invalid container format container:<name|id>"),
    (
        {"NetworkMode": "container:x", "Dns": ["1.1.1.1"]},
        InvalidParameter,
        "conflicting options: dns and the network mode",
    ),
    ({"NetworkMode": "host", "Links": ["a:b"]}, InvalidParameter, "host type networking can't be used with links"),
    ({"Links": ["nope:x"]}, InvalidParameter, "could not get container for nope: No such container: nope"),
    ({"Links": ["a:b:c"]}, InvalidParameter, "bad format for links: a:b:c"),
    ({"VolumesFrom": ["nope"]}, InvalidParameter, "No such container: nope"),
    ({"VolumesFrom": [""]}, InvalidParameter, "volumes-from specification cannot be an empty string"),
    ({"Binds": ["/a:/b", "/c:/b"]}, InvalidParameter, "Duplicate mount point: /b"),
    ({"Binds": ["/tmp:/x"], "Tmpfs": {"/x": ""}}, InvalidParameter, "Duplicate mount point: /x"),
    ({"Tmpfs": {"/": ""}}, InvalidParameter, "invalid specification: destination can't be '/'"),
    ({"Tmpfs": {"x": ""}}, InvalidParameter, "invalid mount path: 'x' mount path must be absolute"),
    ({"VolumeDriver": "zz", "Binds": ["q:/x"]}, NotFound, 'error looking up volume plugin zz: plugin "zz" not found'),
    ({"Binds": ["q/z:/x"]}, InvalidParameter, "create q/z"),
]


@pytest.mark.parametrize(
    ("body", "kind", "text"), [*REFUSED, *(({"HostConfig": h}, kind, text) for h, kind, text in HOST_REFUSED)], ids=str
)
def test_what_is_refused_leaves_nothing(desire: Desire, body: dict[str, Any], kind: type[Error], text: str) -> None:
    async def work(world: Desired) -> None:
        with pytest.raises(kind) as caught:
            await world.ask("x1", body)
        assert text in str(caught.value)
        assert len(world.eng.store) == 0 and world.events == []
        assert world.snapshots.keys == {} and os.listdir(world.eng.config.path("containers")) == []
        assert world.eng.db.query("SELECT id FROM entities") == [("0",)]
        assert intents.pending(world.eng.db) == []
        assert world.images.held == []

    desire(work)


@pytest.mark.parametrize("name", ["x", "-a", "a/b", "a b", "/", "//a", "é1", "a\n", "ab\n", "_a", ".a"])
def test_names_that_cannot_be(desire: Desire, name: str) -> None:
    async def work(world: Desired) -> None:
        with pytest.raises(InvalidParameter, match=r"only \[a-zA-Z0-9\]\[a-zA-Z0-9_.-\] are allowed"):
            await world.ask(name)

    desire(work)


def test_a_name_that_is_taken(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        first = await world.make("/web")
        assert first.name == "web"
        with pytest.raises(Conflict) as caught:
            await world.ask("web")
        assert str(caught.value) == (
            f'Conflict. The container name "/web" is already in use by container "{first.id}". '
            "You have to remove (or rename) that container to be able to reuse that name."
        )

    desire(work)


def test_random_names_are_valid_and_free() -> None:
    taken: set[str] = set()
    for _ in range(300):
        name = names.generate(taken.__contains__)
        assert names.clean(name) == name and name not in taken
        taken.add(name)
    assert re.fullmatch("[a-z]+_[a-z]+", names.generate(lambda name: False))
    # With every combination taken it still ends: digits make room.
    assert names.generate(lambda name: not name[-1].isdigit())[-1].isdigit()


def test_anonymous_volumes_are_made_and_go_with_a_failed_create(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        c = await world.make("one", {"Image": "app"})
        (point,) = c.record.mounts
        assert point.destination == "/data" and re.fullmatch("[0-9a-f]{64}", point.name) and not point.named
        assert point.source == f"/volumes/{point.name}/_data"
        assert world.volumes.copied == [(point.name, "/data")]
        before = set(world.volumes.volumes)
        world.snapshots.error = System("no space left on device")
        with pytest.raises(System, match="no space"):
            await world.ask("two", {"Image": "app", "HostConfig": {"Binds": ["named:/n"]}})
        # What the user named stays, as with Docker; what nobody can name goes.
        assert set(world.volumes.volumes) == before | {"named"}
        assert world.eng.store.find("two") is None and intents.pending(world.eng.db) == []

    desire(work)


def test_a_volume_cannot_be_removed_under_a_create(desire: Desire, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: Desired) -> None:
        asked: list[Exception] = []

        async def meanwhile(key: str, chain_ids: list[str], record: bool) -> None:
            world.snapshots.keys[key] = chain_ids
            for name in list(world.volumes.volumes):
                try:
                    await world.volumes.remove(name, True)
                except Conflict as error:
                    asked.append(error)

        monkeypatch.setattr(world.snapshots, "prepare", meanwhile)
        c = await world.make("web", {"Image": "app", "HostConfig": {"Binds": ["named:/n"]}})
        assert len(asked) == 2 and {p.name for p in c.record.mounts} == set(world.volumes.volumes)
        assert world.eng.claimed_volumes == {}

    desire(work)


def test_an_engine_that_died_in_the_middle_undoes_it(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        id = "d" * 64
        await world.volumes.create("v" * 64, "local", None, None)
        world.snapshots.keys[id] = []
        os.makedirs(world.eng.container_dir(id))
        with world.eng.db.transaction():
            world.eng.store.reserve("half", id)
            intents.begin(world.eng.db, create.INTENT, id, {"volumes": ["v" * 64, "w" * 64]})
        with pytest.raises(Conflict):
            await world.ask("half")
        await create.recover(world.eng)
        assert world.snapshots.keys == {} and world.volumes.volumes == {}
        assert not os.path.exists(world.eng.container_dir(id))
        assert (await world.make("half")).name == "half"

    desire(work)


def test_two_that_want_one_name_at_once(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        results = await asyncio.gather(*(world.ask("same") for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(r, dict) for r in results) == 1
        assert sum(isinstance(r, Conflict) for r in results) == 4
        assert len(world.snapshots.keys) == 1

    desire(work)


def test_modes_name_containers_by_id(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        donor = await world.make("donor")
        modes = {"NetworkMode": "container:donor", "IpcMode": "container:donor", "PidMode": "container:donor"}
        h = (await world.make(None, {"HostConfig": modes})).host_config
        assert h.network_mode == h.ipc_mode == h.pid_mode == f"container:{donor.id}"

    desire(work)
