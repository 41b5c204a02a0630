"""The doctor: an orphan of each kind is found, it and nothing else, mended, and gone; damage is told and left alone."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kernel.test_daemon import Daemon
from support.engine import wait_for

from boxwright.libcontainer import cgroups

pytestmark = [pytest.mark.root, pytest.mark.network]

NOBODY = "0123456789abcdef" * 4


class Patient(Daemon):
    """An engine that was stopped; one container of it runs on."""

    def doctor(self, *flags: str) -> tuple[int, list[dict[str, Any]], str]:
        """(exit code, findings but for warnings about the host, stderr)."""
        command = [sys.executable, "-m", "boxwright.cli.main", "doctor", "--json"]
        roots = ["--data-root", str(self.data_root), "--exec-root", str(self.exec_root)]
        ran = subprocess.run([*command, *roots, *flags], capture_output=True, text=True, timeout=60)
        found = json.loads(ran.stdout) if ran.stdout else []
        return ran.returncode, [finding for finding in found if finding["level"] != "warning"], ran.stderr

    @property
    def instance(self) -> str:
        return (self.data_root / "instance").read_text().split()[0]

    def sql(self, statement: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(self.data_root / "boxwright.db", isolation_level=None)) as db:
            return db.execute(statement, values).fetchall()


@pytest.fixture(scope="module")
def patient(nothing_left_behind: None) -> Iterator[Patient]:
    made = Patient()
    made.start().load()
    made.ok("run", "-d", "--name", "web", "-p", "127.0.0.1:0:80", "-v", "kept:/v", "busybox", "sleep", "600")
    made.ok("create", "--name", "other", "busybox")
    assert made.end() == 0
    yield made
    if made.process and made.process.poll() is None:
        made.end()
    made.start("--ephemeral")
    made.close()


def directory(path: str) -> Callable[[Patient], str]:
    def make(patient: Patient) -> str:
        made = patient.data_root / path
        (made / "inside").mkdir(parents=True)
        return str(made)

    return make


def blob(patient: Patient) -> str:
    path = patient.data_root / "content/blobs/sha256" / ("0" * 64)
    path.write_bytes(b"nobody's")
    return str(path)


def socket_file(patient: Patient) -> str:
    import socket

    path = patient.exec_root / "shims" / f"{NOBODY}.sock"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as sock:
        here = os.open(path.parent, os.O_PATH)
        sock.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)
    return str(path)


def cgroup(patient: Patient) -> str:
    parent = f"/boxwright-{patient.instance}"
    group = cgroups.manager("", parent, NOBODY)
    group.create()
    return f"{parent}/{NOBODY}"


def interface(patient: Patient) -> str:
    name = f"bw{patient.instance[:4]}orphan"
    for command in (
        ["ip", "link", "add", name, "type", "veth", "peer", "name", f"x{name}"],
        ["ip", "link", "set", name, "master", patient.bridge],
    ):
        subprocess.run(command, check=True, timeout=30)
    return name


def element(patient: Patient) -> str:
    table = f"boxwright_{patient.instance}"
    subprocess.run(
        ["nft", f"add element ip {table} published {{ tcp . 9 : 192.0.2.1 . 9 }}"], check=True, timeout=30
    )  # fmt: skip
    return f"{table} published tcp . 9"


def address(patient: Patient) -> str:
    [(network,)] = patient.sql("SELECT id FROM networks WHERE name = 'bridge'")
    patient.sql("INSERT INTO network_addresses VALUES (?, ?, 'bwgone', 'nobody', 0)", network, 0xC0000201)
    return "192.0.2.1"


def port(patient: Patient) -> str:
    patient.sql("INSERT INTO network_ports VALUES ('udp', 9, '192.0.2.1', 'nobody')")
    return "192.0.2.1:9/udp"


def mounted(patient: Patient) -> str:
    path = patient.data_root / "volumes" / "unknown" / "_data"
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(path)], check=True, timeout=30)
    return str(path)


ORPHANS: list[tuple[str, Callable[[Patient], str]]] = [
    ("container directory", directory(f"containers/{NOBODY}")),
    ("volume", directory("volumes/nobodys")),
    ("snapshot", directory("snapshots/overlay/zzz")),
    ("temporary file", directory("tmp/layer-x")),
    ("blob", blob),
    ("socket", socket_file),
    ("cgroup", cgroup),
    ("interface", interface),
    ("firewall element", element),
    ("address", address),
    ("port", port),
]


def test_a_healthy_engine(patient: Patient) -> None:
    assert patient.doctor() == (0, [], "")


@pytest.mark.parametrize(("kind", "make"), ORPHANS, ids=[kind for kind, _ in ORPHANS])
def test_an_orphan(patient: Patient, kind: str, make: Callable[[Patient], str]) -> None:
    which = make(patient)
    code, found, _ = patient.doctor()
    assert code == 1
    assert [(f["level"], f["kind"], f["which"], f["mendable"]) for f in found] == [("orphan", kind, which, True)]
    code, found, said = patient.doctor("--repair")
    assert (code, found) == (0, []), said
    assert said == f"removed {kind} {which}\n"
    assert patient.doctor() == (0, [], "")


def test_a_mount(patient: Patient) -> None:
    path = mounted(patient)
    _, found, _ = patient.doctor()
    assert {(f["kind"], f["which"]) for f in found} == {("mount", path), ("volume", str(Path(path).parent))}
    assert patient.doctor("--repair")[:2] == (0, [])
    assert not os.path.ismount(path) and not os.path.exists(path)
    assert patient.doctor() == (0, [], "")


def test_a_shim_without_its_container(patient: Patient) -> None:
    patient.start()
    patient.ok("run", "-d", "--name", "lost", "--net", "none", "busybox", "sleep", "600")
    id, pid = patient.inspect("lost")["Id"], patient.inspect("lost")["State"]["Pid"]
    patient.end()
    patient.sql("PRAGMA foreign_keys=OFF")
    for table, column in (("container_states", "id"), ("container_timelines", "id"), ("containers", "id")):
        patient.sql(f"DELETE FROM {table} WHERE {column} = ?", id)
    patient.sql("DELETE FROM network_endpoints WHERE container = ?", id)
    _, found, _ = patient.doctor()
    kinds = {f["kind"] for f in found}
    # Its snapshot has a row, and so it stays: what the database knows is not orphaned.
    assert {"shim", "cgroup", "container directory"} == kinds and all(id[:12] in f["which"] for f in found), found
    patient.doctor("--repair")
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the container is gone")
    patient.sql("DELETE FROM snapshots WHERE key = ?", id)
    patient.doctor("--repair")
    assert patient.doctor()[1] == []
    patient.start()
    assert patient.inspect("web")["State"]["Running"]
    patient.end()


def test_damage_is_told_and_left_alone(patient: Patient) -> None:
    volume = patient.data_root / "volumes" / "kept"
    os.rename(volume, aside := patient.home / "aside")
    try:
        code, found, _ = patient.doctor("--repair")
        assert code == 1
        assert [(f["level"], f["kind"], f["which"], f["mendable"]) for f in found] == [
            ("error", "volume", "kept", False)
        ]
    finally:
        os.rename(aside, volume)
    assert patient.doctor() == (0, [], "")


def test_not_beside_a_running_engine(patient: Patient) -> None:
    patient.start()
    code, _, said = patient.doctor("--repair")
    assert code == 1 and f"an engine is using {patient.data_root}" in said
    assert patient.doctor() == (0, [], "")
    directory("volumes/beside")(patient)
    assert [f["which"] for f in patient.doctor()[1]] == [str(patient.data_root / "volumes/beside")]
    assert patient.process
    patient.process.send_signal(signal.SIGTERM)
    assert patient.process.wait(30) == 0
    assert patient.doctor("--repair")[0] == 0


def shim_of(patient: Patient, name: str) -> int:
    """The parent of a container's first process."""
    stat = Path(f"/proc/{patient.inspect(name)['State']['Pid']}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def test_beside_a_running_engine_it_takes_no_container_away(patient: Patient) -> None:
    patient.start()
    before = patient.inspect("web")["State"]
    with patient.spawn("exec", "-i", "web", "sh", "-c", "read x; echo $x") as talking:
        wait_for(lambda: patient.inspect("web")["ExecIDs"], "the exec runs")
        for _ in range(3):
            assert patient.doctor() == (0, [], "")
        assert talking.communicate(b"still here\n", 30)[0] == b"still here\n"
    assert patient.ok("exec", "web", "echo", "as before") == "as before"
    assert patient.inspect("web")["State"] == before
    patient.end()
    assert patient.doctor() == (0, [], "")
    patient.start()
    assert patient.inspect("web")["State"]["Pid"] == before["Pid"]
    patient.end()


def test_a_shim_that_does_not_answer(patient: Patient) -> None:
    patient.start()
    id, shim = patient.inspect("web")["Id"], shim_of(patient, "web")
    os.kill(shim, signal.SIGSTOP)
    try:
        code, found, _ = patient.doctor()
    finally:
        os.kill(shim, signal.SIGCONT)
    assert code == 1
    assert [(f["level"], f["kind"], f["which"], f["mendable"]) for f in found] == [("error", "shim", id, False)]
    assert patient.doctor() == (0, [], "")
    assert patient.ok("exec", "web", "echo", "as before") == "as before"
    patient.end()


def test_the_socket_of_a_known_containers_dead_shim(patient: Patient) -> None:
    patient.start()
    patient.ok("run", "-d", "--name", "dies", "--net", "none", "busybox", "sleep", "600")
    id, shim = patient.inspect("dies")["Id"], shim_of(patient, "dies")
    patient.end()
    os.kill(shim, signal.SIGKILL)
    path = str(patient.exec_root / "shims" / f"{id}.sock")
    wait_for(lambda: patient.doctor()[1], "the shim is dead")
    assert [(f["kind"], f["which"], f["mendable"]) for f in patient.doctor()[1]] == [("socket", path, True)]
    assert patient.doctor("--repair")[:2] == (0, [])
    patient.start()
    assert patient.inspect("dies")["State"]["ExitCode"] == 137
    patient.ok("rm", "dies")
    patient.end()


def test_two_data_roots_do_not_touch_each_other(patient: Patient) -> None:
    other = Patient()
    try:
        other.start().load()
        other.ok("run", "-d", "--name", "neighbour", "-p", "127.0.0.1:0:80", "busybox", "sleep", "600")
        other.end()
        for _, make in ORPHANS:
            make(other)
        healthy = patient.doctor()
        assert healthy == (0, [], ""), json.dumps(healthy)
        assert patient.doctor("--repair") == (0, [], "")
        code, found, _ = other.doctor()
        assert (code, len(found)) == (1, len(ORPHANS))
        assert other.doctor("--repair")[:2] == (0, [])
        assert patient.doctor() == (0, [], "")
        other.start()
        assert other.inspect("neighbour")["State"]["Running"]
    finally:
        other.end()
        other.start("--ephemeral")
        other.close()


def test_what_the_host_does_to_us(patient: Patient) -> None:
    """In namespaces of its own, so that the machine stays as it is: another program's firewall, and memfd_noexec."""
    command = [sys.executable, "-m", "boxwright.cli.main", "doctor", "--json"]
    roots = ["--data-root", str(patient.data_root), "--exec-root", str(patient.exec_root)]
    chain = "add table ip ufw; add chain ip ufw forward { type filter hook forward priority 0; policy drop; }"
    accept = f'add rule ip ufw forward accept comment "boxwright_{patient.instance}"'
    script = 'echo 2 > /proc/sys/vm/memfd_noexec; echo 0 > /proc/sys/net/ipv4/ip_forward; nft "$0" && exec "$@"'

    def warnings(ruleset: str) -> dict[str, str]:
        ran = subprocess.run(
            ["unshare", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", script, ruleset, *command, *roots],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        found = json.loads(ran.stdout)
        return {f["kind"]: f["which"] for f in found if f["level"] == "warning"}

    found = warnings(chain)
    assert found["firewall"] == "ip ufw forward" and found["memfd"] == "vm.memfd_noexec=2"
    assert found["forwarding"] == "net.ipv4.ip_forward"
    assert "firewall" not in warnings(f"{chain}; {accept}")


def test_a_data_root_that_others_can_look_into(patient: Patient) -> None:
    patient.data_root.chmod(0o755)
    try:
        code, found, _ = patient.doctor("--repair")
        assert code == 1
        assert [(f["kind"], f["mendable"]) for f in found] == [("data root", False)]
        assert patient.data_root.stat().st_mode & 0o777 == 0o755
    finally:
        patient.data_root.chmod(0o710)


def test_an_interrupted_operation_is_the_engines(patient: Patient) -> None:
    patient.sql("INSERT INTO intents (kind, key, payload) VALUES ('nothing', 'x', x'7b7d')")
    try:
        assert patient.doctor("--repair") == (0, [], "")
        assert patient.sql("SELECT key FROM intents") == [("x",)]
    finally:
        patient.sql("DELETE FROM intents WHERE key = 'x'")


def test_people_get_a_table(patient: Patient) -> None:
    which = directory("volumes/of-nobody")(patient)
    command = [sys.executable, "-m", "boxwright.cli.main", "doctor"]
    roots = ["--data-root", str(patient.data_root), "--exec-root", str(patient.exec_root)]
    environment = {**os.environ, "COLUMNS": "300"}
    ran = subprocess.run([*command, *roots], capture_output=True, text=True, timeout=60, env=environment)
    assert ran.returncode == 1
    [line] = [line for line in ran.stdout.splitlines() if which in line]
    assert "orphan" in line and "no volume has this name" in line and "--repair" in line
    patient.doctor("--repair")


def test_where_no_engine_has_been(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "boxwright.cli.main", "doctor", "--data-root", str(tmp_path / "none")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert not (tmp_path / "none").exists()
