"""`docker stats` and `docker update` on real containers: figures against the load, limits against the kernel."""

import json
import threading
from collections.abc import Iterator

import pytest
from support.engine import Engine, UnixConnection, wait_for

from boxwright.libcontainer.cgroups import files, hierarchy

pytestmark = [pytest.mark.root, pytest.mark.network]

V1 = "memory" in hierarchy.host().v1
MIB = 1 << 20
COUNTERS = {f"{way}_{what}" for way in ("rx", "tx") for what in ("bytes", "packets", "errors", "dropped")}


@pytest.fixture
def busy(engine: Engine) -> Iterator[str]:
    """A container that holds 20 MiB and half a processor."""
    load = "dd if=/dev/zero of=/dev/shm/x bs=1M count=20 2>/dev/null; while :; do :; done"
    limits = ("-m", "64m", "--memory-swap", "64m", "--cpus", "0.5", "--pids-limit", "9")
    name = engine.ok("run", "-d", *limits, "busybox", "sh", "-c", load)
    wait_for(lambda: shot(engine, name)["memory_stats"]["usage"] > 20 * MIB, "the load is there")
    yield name
    engine.ok("rm", "-f", name)


def shot(engine: Engine, name: str) -> dict:
    return engine.api("GET", f"/containers/{name}/stats?stream=false&one-shot=true").json


def test_figures_of_a_load(engine: Engine, busy: str) -> None:
    answer = engine.api("GET", f"/containers/{busy}/stats?stream=false").json
    before, after = answer["precpu_stats"], answer["cpu_stats"]
    used = after["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    system = after["system_cpu_usage"] - before["system_cpu_usage"]
    assert 0 < used < system
    assert after["throttling_data"]["throttled_periods"] > 0
    assert answer["preread"] < answer["read"]
    memory = answer["memory_stats"]
    assert 20 * MIB < memory["usage"] <= memory["limit"] == 64 * MIB
    assert memory["stats"]["total_cache" if V1 else "file"] >= 20 * MIB
    if V1:
        assert memory["max_usage"] >= memory["usage"]
        assert len(after["cpu_usage"]["percpu_usage"]) >= after["online_cpus"]
    assert answer["pids_stats"] == {"current": 1, "limit": 9}
    assert set(answer["networks"]) == {"eth0"}
    assert set(answer["networks"]["eth0"]) == COUNTERS


def test_traffic_is_counted_from_the_containers_side(engine: Engine) -> None:
    sink = engine.ok("run", "-d", "busybox", "sh", "-c", "tail -f /dev/null | nc -l -p 80 >/dev/null; sleep 1000")
    address = engine.ok("inspect", "-f", "{{.NetworkSettings.IPAddress}}", sink)
    send = f"until dd if=/dev/zero bs=64k count=32 | nc {address} 80; do usleep 10000; done; sleep 1000"
    name = engine.ok("run", "-d", "busybox", "sh", "-c", send)
    try:
        wait_for(lambda: shot(engine, name)["networks"]["eth0"]["tx_bytes"] > 2 * MIB, "2 MiB are sent")
        counted = shot(engine, name)["networks"]["eth0"]
        assert 0 < counted["rx_bytes"] < MIB
        assert counted["tx_packets"] > 0
        assert shot(engine, sink)["networks"]["eth0"]["rx_bytes"] > 2 * MIB
    finally:
        engine.ok("rm", "-f", name, sink)


@pytest.mark.parametrize("mode", ["none", "host"])
def test_no_network_no_counters(engine: Engine, mode: str) -> None:
    name = engine.ok("run", "-d", "--network", mode, "busybox", "sleep", "1000")
    try:
        assert "networks" not in shot(engine, name)
    finally:
        engine.ok("rm", "-f", name)


def test_the_table_of_the_cli(engine: Engine, busy: str) -> None:
    idle = engine.ok("create", "--name", "idle-one", "busybox", "true")
    try:
        lines = engine.ok("stats", "--no-stream", "-a", "--format", "{{json .}}").splitlines()
        rows = {row["ID"]: row for row in map(json.loads, lines)}
        assert rows[idle[:12]]["Name"] == "idle-one"
        assert rows[idle[:12]]["MemUsage"] == "0B / 0B"
        row = rows[busy[:12]]
        assert 0.0 < float(row["CPUPerc"].rstrip("%")) < 100.0
        assert row["MemUsage"].endswith(" / 64MiB")
        assert row["PIDs"] == "1"
    finally:
        engine.ok("rm", idle)


def test_a_container_started_during_the_stream(engine: Engine) -> None:
    name = engine.ok("create", "busybox", "sleep", "1000")
    connection = UnixConnection(engine.host.removeprefix("unix://"))
    try:
        connection.request("GET", f"/containers/{name}/stats")
        answer = connection.getresponse()
        assert json.loads(answer.readline())["memory_stats"] == {}
        engine.ok("start", name)
        while not json.loads(answer.readline())["memory_stats"]:
            pass
        engine.ok("rm", "-f", name)
        while line := answer.readline():
            assert json.loads(line)["id"] == name
    finally:
        connection.close()


def test_many_streams_cost_no_thread_and_no_descriptor_each(engine: Engine, busy: str) -> None:
    connections = [UnixConnection(engine.host.removeprefix("unix://")) for _ in range(20)]
    try:
        lines: list[bytes] = []

        def listen(connection: UnixConnection) -> None:
            connection.request("GET", f"/containers/{busy}/stats")
            lines.append(connection.getresponse().readline())

        threads = [threading.Thread(target=listen, args=[one]) for one in connections]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(json.loads(line)["memory_stats"] for line in lines)
        info = engine.api("GET", "/info").json
        assert info["NFd"] < 20 + 80
    finally:
        for one in connections:
            one.close()


def group_file(engine: Engine, name: str, v1: str, v2: str) -> str:
    pid = engine.ok("inspect", "-f", "{{.State.Pid}}", name)
    wanted = v1.partition(".")[0] if V1 else ""
    host = hierarchy.host()
    mount = host.v1[wanted] if V1 else host.v2
    assert mount is not None
    for line in files.read(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if wanted in controllers.split(","):
            return files.read(f"{mount.point}{path}/{v1 if V1 else v2}")
    raise AssertionError(f"no {wanted} group")


def test_update_reaches_the_kernel_and_survives_a_restart(engine: Engine, busy: str) -> None:
    engine.ok("update", "-m", "80m", "--memory-swap", "96m", "--pids-limit", "33", "--cpu-shares", "700", busy)
    for _ in range(2):
        assert group_file(engine, busy, "memory.limit_in_bytes", "memory.max") == str(80 * MIB)
        swap = 96 if V1 else 16
        assert group_file(engine, busy, "memory.memsw.limit_in_bytes", "memory.swap.max") == str(swap * MIB)
        assert group_file(engine, busy, "pids.max", "pids.max") == "33"
        assert group_file(engine, busy, "cpu.shares", "cpu.weight") == ("700" if V1 else "75")
        engine.ok("restart", "-t", "0", busy)
    engine.ok("update", "--pids-limit", "-1", busy)
    assert group_file(engine, busy, "pids.max", "pids.max") == "max"


def test_an_update_that_the_kernel_refuses_changes_nothing(engine: Engine, busy: str) -> None:
    if not V1:
        pytest.skip("cgroup v2 takes any limit and kills instead")
    before = engine.inspect(busy)["HostConfig"]
    refused = engine.docker("update", "-m", "6m", "--memory-swap", "6m", "--pids-limit", "44", busy)
    assert refused.code == 1
    assert f"Cannot update container {busy}: cgroup: cannot write" in refused.err
    assert engine.inspect(busy)["HostConfig"] == before
    assert group_file(engine, busy, "memory.limit_in_bytes", "memory.max") == str(64 * MIB)
    assert group_file(engine, busy, "pids.max", "pids.max") == "9"


def test_a_new_restart_policy_holds_for_the_next_exit(engine: Engine) -> None:
    program = "trap 'exit 3' USR1; echo ready; while :; do sleep 0.05; done"
    name = engine.ok("run", "-d", "busybox", "sh", "-c", program)

    def end_life(lives: int) -> None:
        wait_for(lambda: engine.ok("logs", name).count("ready") == lives, "the trap is set")
        engine.ok("exec", name, "kill", "-USR1", "1")  # `docker kill` would count as a stop by hand

    try:
        engine.ok("update", "--restart", "on-failure:7", name)
        end_life(1)
        wait_for(lambda: engine.inspect(name)["RestartCount"] == 1, "it is started again")
        engine.ok("update", "--restart", "no", name)
        end_life(2)
        assert engine.ok("wait", name) == "3"
        found = engine.inspect(name)
        assert (found["State"]["Status"], found["RestartCount"]) == ("exited", 1)
        assert found["HostConfig"]["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    finally:
        engine.ok("rm", "-f", name)
