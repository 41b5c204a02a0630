import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.desired import Desired

from boxwright.config import Ulimit
from boxwright.engine import mounts, security, spec, start
from boxwright.engine.store import Container
from boxwright.errdefs import Conflict, InvalidParameter, StepError
from boxwright.libcontainer import advance, options
from boxwright.linux.capabilities import NUMBERS
from boxwright.types import ExecConfig

NAMES = tuple(NUMBERS)
Desire = Callable[[Callable[[Desired], Awaitable[None]]], None]


async def built(world: Desired, host_config: dict[str, Any] | None = None, **config: Any) -> dict[str, Any]:
    c = await world.make(None, {"HostConfig": host_config or {}, **config})
    return spec.build(world.eng, c)


def mount_of(document: dict[str, Any], destination: str) -> dict[str, Any]:
    (found,) = [m for m in document["mounts"] if m["destination"] == destination]
    return found


def kinds(document: dict[str, Any]) -> dict[str, str | None]:
    return {n["type"]: n.get("path") for n in document["linux"]["namespaces"]}


def test_file_systems_of_the_defaults_can_be_made_in_advance(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        made = set(advance.FILE_SYSTEMS)
        for entry in (await built(world))["mounts"]:
            if entry["type"] not in ("bind", "cgroup"):
                settings = tuple(options.parse(entry["options"]).data)
                assert (entry["type"], entry["source"], settings) in made
                made.remove((entry["type"], entry["source"], settings))
        assert not made

    desire(work)


def test_defaults_are_dockers(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        c = await world.make("web", {"Cmd": ["sleep", "1"], "Hostname": "h", "Domainname": "d", "User": "1:2"})
        document = spec.build(world.eng, c)
        process = document["process"]
        assert process["args"] == ["sleep", "1"]
        assert process["env"] == ["PATH=/bin", "HOSTNAME=h"]
        assert process["cwd"] == "/" and process["oomScoreAdj"] == 0 and process["noNewPrivileges"] is False
        assert process["user"] == {"username": "1:2", "additionalGids": [], "additionalGroups": []}
        assert set(process["capabilities"]["bounding"]) == set(security.DEFAULT_CAPABILITIES)
        assert "inheritable" not in process["capabilities"] and "ambient" not in process["capabilities"]
        assert process["rlimits"] == []
        assert (document["hostname"], document["domainname"]) == ("h", "d")
        assert document["root"]["readonly"] is False
        linux = document["linux"]
        assert kinds(document) == {"mount": None, "network": None, "pid": None, "ipc": None, "uts": None}
        assert linux["cgroupsPath"] == f"/boxwright-00000000/{c.id}"
        assert linux["resources"] == {"devices": []}
        assert "/proc/kcore" in linux["maskedPaths"] and "/proc/sys" in linux["readonlyPaths"]
        assert linux["sysctl"] == {
            "net.ipv4.ip_unprivileged_port_start": "0",
            "net.ipv4.ping_group_range": "0 2147483647",
        }
        assert "seccomp" not in linux
        order = [m["destination"] for m in document["mounts"]]
        assert order == [
            "/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm",
            "/etc/resolv.conf", "/etc/hostname", "/etc/hosts",
        ]  # fmt: skip
        assert "ro" in mount_of(document, "/sys")["options"]
        assert "ro" in mount_of(document, "/sys/fs/cgroup")["options"]
        assert f"size={64 << 20}" in mount_of(document, "/dev/shm")["options"]
        assert mount_of(document, "/etc/hosts")["source"] == f"{world.eng.container_dir(c.id)}/hosts"

    desire(work)


def test_privileged(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        document = await built(world, {"Privileged": True, "CapDrop": ["CHOWN"]})
        granted = document["process"]["capabilities"]["bounding"]
        assert granted == [name for name in NAMES if name in granted] and "CAP_SYS_ADMIN" in granted
        assert "CAP_CHOWN" in granted
        assert document["linux"]["maskedPaths"] == [] and document["linux"]["readonlyPaths"] == []
        assert document["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
        assert "ro" not in mount_of(document, "/sys")["options"]
        assert "rw" in mount_of(document, "/sys/fs/cgroup")["options"]
        assert any(d["path"] == "/dev/null" for d in document["linux"]["devices"])

    desire(work)


def test_namespaces_of_the_host(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        shared = {
            "NetworkMode": "host",
            "PidMode": "host",
            "IpcMode": "host",
            "UTSMode": "host",
            "CgroupnsMode": "host",
        }
        document = await built(world, shared)
        assert kinds(document) == {"mount": None}
        assert "hostname" not in document and document["linux"]["sysctl"] == {}
        assert mount_of(document, "/dev/shm")["source"] == "/dev/shm"
        queues = [m["type"] for m in document["mounts"] if m["destination"] == "/dev/mqueue"]
        assert queues == (["bind"] if os.path.isdir("/dev/mqueue") else [])
        document = await built(world, {"CgroupnsMode": "private", "IpcMode": "none"})
        assert "cgroup" in kinds(document) and "ipc" in kinds(document)
        assert not [m for m in document["mounts"] if m["destination"] == "/dev/shm"]

    desire(work)


def test_namespaces_of_another_container(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        await world.make("donor", {"Hostname": "dh", "HostConfig": {"IpcMode": "shareable"}})
        joined = {"NetworkMode": "container:donor", "PidMode": "container:donor", "IpcMode": "container:donor"}
        c = await world.make("guest", {"HostConfig": joined})
        with pytest.raises(Conflict, match="non running container"):
            spec.build(world.eng, c)
        await start.start(world.eng, "donor")
        document = spec.build(world.eng, c)
        found = kinds(document)
        assert found["network"] == "/proc/4242/ns/net"
        assert found["pid"] == "/proc/4242/ns/pid" and found["ipc"] == "/proc/4242/ns/ipc"
        assert mount_of(document, "/dev/shm")["namespace"] == "/proc/4242/ns/mnt"
        assert document["linux"]["sysctl"] == {}
        assert document["hostname"] == "dh"
        await world.make("private")
        await start.start(world.eng, "private")
        c = await world.make("other", {"HostConfig": {"IpcMode": "container:private"}})
        with pytest.raises(Conflict, match="non-shareable IPC"):
            spec.build(world.eng, c)

    desire(work)


def test_process_settings(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        world.eng.config.default_ulimits = {"nofile": Ulimit("nofile", 1024, 2048), "core": Ulimit("core", 0, 0)}
        settings = {
            "CapAdd": ["net_admin"], "CapDrop": ["CAP_CHOWN"], "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": -1}],
            "SecurityOpt": ["no-new-privileges"], "OomScoreAdj": 100, "GroupAdd": ["audio", "12"],
            "Sysctls": {"net.ipv4.ping_group_range": "1 0", "kernel.shmmax": "1"}, "ReadonlyRootfs": True,
            "Annotations": {"a": "b"}, "ConsoleSize": [24, 80],
        }  # fmt: skip
        document = await built(world, settings, Tty=True, Env=["A=1", "PATH", "TERM=vt100"], WorkingDir="/w")
        process = document["process"]
        assert "CAP_NET_ADMIN" in process["capabilities"]["effective"]
        assert "CAP_CHOWN" not in process["capabilities"]["permitted"]
        assert process["rlimits"] == [
            {"type": "RLIMIT_NOFILE", "soft": 5, "hard": 2**64 - 1},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ]
        assert process["noNewPrivileges"] is True and process["oomScoreAdj"] == 100
        assert process["user"]["additionalGids"] == [12] and process["user"]["additionalGroups"] == ["audio"]
        # "PATH" without a value takes PATH away.
        assert [e for e in process["env"] if not e.startswith("HOSTNAME=")] == ["TERM=vt100", "A=1"]
        assert process["consoleSize"] == {"height": 24, "width": 80}
        assert document["linux"]["sysctl"]["net.ipv4.ping_group_range"] == "1 0"
        assert document["annotations"] == {"a": "b"}
        assert document["root"]["readonly"] is True and "ro" in mount_of(document, "/etc/hosts")["options"]

    desire(work)


def test_resources(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        settings = {
            "Memory": 64 << 20, "MemoryReservation": 32 << 20, "MemorySwappiness": 10, "NanoCpus": 1_500_000_000,
            "CpuShares": 512, "CpusetCpus": "0", "PidsLimit": 7, "BlkioWeight": 300,
        }  # fmt: skip
        resources = (await built(world, settings))["linux"]["resources"]
        assert resources["memory"] == {
            "limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20, "swappiness": 10,
        }  # fmt: skip
        assert resources["cpu"] == {"shares": 512, "quota": 150_000, "period": 100_000, "cpus": "0"}
        assert resources["pids"] == {"limit": 7}
        assert resources["blockIO"] == {"weight": 300}
        unlimited = (await built(world, {"PidsLimit": -1, "Memory": 8 << 20, "MemorySwap": -1}))["linux"]["resources"]
        assert "pids" not in unlimited and unlimited["memory"] == {"limit": 8 << 20, "swap": -1}

    desire(work)


def test_mounts_of_the_user(desire: Desire, tmp_path: Any) -> None:
    async def work(world: Desired) -> None:
        settings = {
            "Binds": [f"{tmp_path}:/a/b/c:ro,rslave", "named:/a", f"{tmp_path}/new:/n"],
            "Tmpfs": {"/t": "size=1m", "/dev/shm": "size=2m"},
            "Mounts": [{"Type": "bind", "Source": str(tmp_path), "Target": "/etc/hosts", "ReadOnly": True}],
        }  # fmt: skip
        c = await world.make("web", {"HostConfig": settings})
        world.eng.config.data_root = str(tmp_path / "x")  # a slave that holds it is never refused
        await mounts.prepare(world.eng, c)
        assert (tmp_path / "new").is_dir()
        assert world.volumes.mounted == [("named", c.id)]
        document = spec.build(world.eng, c)
        assert mount_of(document, "/a/b/c")["options"] == ["rbind", "rslave", "rro"]
        assert mount_of(document, "/a")["source"] == "/volumes/named/_data"
        assert mount_of(document, "/t")["options"] == ["noexec", "nosuid", "nodev", "size=1m"]
        assert mount_of(document, "/dev/shm")["options"][-1] == "size=2m"
        assert mount_of(document, "/etc/hosts")["source"] == str(tmp_path)
        order = [m["destination"] for m in document["mounts"]]
        assert order.index("/a") < order.index("/a/b/c")
        assert document["linux"]["rootfsPropagation"] == "rslave"
        await mounts.release(world.eng, c)
        assert world.volumes.mounted == []

    desire(work)


def test_a_bind_that_holds_the_data_root_is_a_slave(desire: Desire, tmp_path: Any) -> None:
    async def work(world: Desired) -> None:
        c = await world.make("web", {"HostConfig": {"Binds": ["/:/host", "/proc:/p"]}})
        assert {p.destination: p.propagation for p in c.record.mounts} == {"/host": "rslave", "/p": "rprivate"}

    desire(work)


def test_a_missing_source_is_named(desire: Desire, tmp_path: Any) -> None:
    async def work(world: Desired) -> None:
        gone = tmp_path / "gone"
        gone.mkdir()
        c = await world.make("web", {"HostConfig": {"Mounts": [{"Type": "bind", "Source": str(gone), "Target": "/x"}]}})
        gone.rmdir()
        with pytest.raises(StepError) as caught:
            await mounts.prepare(world.eng, c)
        assert caught.value.path == str(gone) and caught.value.step == "mounts"
        (tmp_path / "file").write_text("")
        c = await world.make("web2", {"HostConfig": {"Binds": [f"{tmp_path}/file/below:/x"]}})
        with pytest.raises(StepError, match="error while creating mount source path"):
            await mounts.prepare(world.eng, c)

    desire(work)


def test_what_would_not_propagate_is_refused(desire: Desire, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: Desired) -> None:
        kind = "private"
        fields = {"private": [], "shared": ["shared:7"], "slave": ["master:7"]}
        monkeypatch.setattr(mounts, "_mount_of", lambda path: ("/", fields[kind]))
        shared = await world.make("one", {"HostConfig": {"Binds": ["/proc:/b:rshared"]}})
        slave = await world.make("two", {"HostConfig": {"Binds": ["/proc:/b:slave"]}})
        with pytest.raises(StepError) as caught:
            await mounts.prepare(world.eng, shared)
        assert caught.value.message == "path /proc is mounted on / but it is not a shared mount"
        with pytest.raises(StepError, match="but it is not a shared or slave mount"):
            await mounts.prepare(world.eng, slave)
        kind = "slave"
        await mounts.prepare(world.eng, slave)
        with pytest.raises(StepError):
            await mounts.prepare(world.eng, shared)
        kind = "shared"
        await mounts.prepare(world.eng, slave)
        await mounts.prepare(world.eng, shared)

    desire(work)


def test_the_mount_of_a_path() -> None:
    assert mounts._mount_of("/proc/self")[0] == "/proc"
    assert mounts._mount_of("/nonexistent/x")[0] == "/"


def test_volumes_from(desire: Desire, tmp_path: Any) -> None:
    async def work(world: Desired) -> None:
        donor = await world.make("donor", {"Image": "app", "HostConfig": {"Binds": [f"{tmp_path}:/b", "v1:/v"]}})
        settings = {"VolumesFrom": ["donor:ro"], "Binds": ["v2:/v"]}
        c = await world.make("web", {"Image": "app", "HostConfig": settings})
        found = {p.destination: p for p in c.record.mounts}
        theirs = {p.destination: p for p in donor.record.mounts}
        assert found["/data"].name == theirs["/data"].name and not found["/data"].rw
        assert found["/b"].source == str(tmp_path) and not found["/b"].rw
        assert found["/v"].name == "v2" and found["/v"].rw
        assert mounts.users_of(world.eng, theirs["/data"].name) == [donor.id, c.id]
        assert len(found) == 3

    desire(work)


def test_exec_takes_the_containers_settings_and_its_own(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        c = await world.make("web", {"Image": "app", "Env": ["A=1", "B=2"], "HostConfig": {"CapDrop": ["ALL"]}})
        process = spec.exec_process(
            world.eng, c, ExecConfig(cmd=["ls"], env=["B=3", "C=4"], tty=True), ["DB_NAME=/web/db", "A=9"]
        )
        assert process["args"] == ["ls"] and process["cwd"] == "/srv"
        assert process["user"]["username"] == "1000"
        assert {"A=1", "B=3", "C=4", "MODE=prod", "TERM=xterm", "DB_NAME=/web/db"} <= set(process["env"])
        assert process["capabilities"]["bounding"] == []
        process = spec.exec_process(
            world.eng, c, ExecConfig(cmd=["ls"], user="0", working_dir="/x", privileged=True, env=["A"]), []
        )
        assert process["user"]["username"] == "0" and process["cwd"] == "/x"
        assert not any(entry.startswith(("A=", "TERM=")) for entry in process["env"])
        assert "CAP_SYS_ADMIN" in process["capabilities"]["bounding"]

    desire(work)


@pytest.mark.parametrize(
    ("host_config", "sysctl"),
    [
        ({}, "kernel.panic"), ({}, "vm.swappiness"), ({}, "fs.file-max"), ({}, "net/../kernel/panic"),
        ({"NetworkMode": "host"}, "net.ipv4.ip_forward"), ({"IpcMode": "host"}, "kernel.shmmax"),
        ({"IpcMode": "host"}, "fs.mqueue.msg_max"),
    ],
)  # fmt: skip
def test_a_sysctl_of_the_host_is_refused(desire: Desire, host_config: dict[str, Any], sysctl: str) -> None:
    async def work(world: Desired) -> None:
        with pytest.raises(InvalidParameter, match="sysctl"):
            await built(world, {**host_config, "Sysctls": {sysctl: "1"}})

    desire(work)


def test_devices(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        device = {"PathOnHost": "/dev/null", "PathInContainer": "/dev/mine", "CgroupPermissions": "r"}
        linux = (await built(world, {"Devices": [device], "DeviceCgroupRules": ["c 1:* mr"]}))["linux"]
        assert [d["path"] for d in linux["devices"]] == ["/dev/mine"]
        assert linux["resources"]["devices"] == [
            {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"},
            {"allow": True, "type": "c", "major": 1, "minor": -1, "access": "mr"},
        ]
        c = await world.make(None, {"HostConfig": {"Devices": [{**device, "PathOnHost": "/dev/nope"}]}})
        with pytest.raises(StepError, match="/dev/nope"):
            spec.build(world.eng, c)

    desire(work)


def test_building_changes_no_constant(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        c: Container = await world.make("web", {"Image": "app", "HostConfig": {"Binds": ["v:/v"], "Memory": 8 << 20}})
        before = repr(spec.build(world.eng, c))
        assert repr(spec.build(world.eng, c)) == before

    desire(work)


known = st.sampled_from(["chown", "CAP_KILL", "net_admin", "SYS_ADMIN", "ALL", "cap_all"])


@given(st.lists(known), st.lists(known), st.booleans())
def test_capabilities_follow_dockers_rules(add: list[str], drop: list[str], privileged: bool) -> None:
    got = security.capabilities(add, drop, privileged, NAMES)
    assert got == [name for name in NAMES if name in got]
    adds, drops = set(security.normalise("CapAdd", add)), set(security.normalise("CapDrop", drop))
    if privileged:
        assert set(got) == set(NAMES)
    elif "ALL" in adds:
        assert set(got) == set(NAMES) - drops
    elif "ALL" in drops:
        assert set(got) == adds
    else:
        assert set(got) == (set(security.DEFAULT_CAPABILITIES) - drops) | adds


def test_a_capability_that_the_engine_does_not_have_is_not_promised() -> None:
    assert security.capabilities(["ALL"], [], False, ["CAP_KILL"]) == ["CAP_KILL"]
    assert security.capabilities([], [], False, ["CAP_KILL", "CAP_SYS_ADMIN"]) == ["CAP_KILL"]
