"""Rules of the kernel and of Python that the design rests on, where no other test shows them; and where the others are.

`RULES` names for each rule the tests that fail without it; `test_the_tests_of_each_rule_are_there` keeps the list true.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.engine import DEADLINE, Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network]
TESTS = Path(__file__).parents[1]

RULES: dict[int, list[str]] = {
    1: ["kernel/test_rules.py::test_a_raw_clone_runs_pythons_fork_hooks"],
    2: [
        "kernel/test_security_process.py::test_an_import_inside_finds_nothing",
        "kernel/test_confinement.py::test_nothing_is_imported_from_the_root",
    ],
    3: [
        "kernel/test_shim_deaths.py::test_a_shim_holds_no_descriptor_of_a_sibling_or_of_the_engine",
        "kernel/test_shim_deaths.py::test_the_program_inherits_nothing",
        "kernel/test_init.py::test_inherits_no_ignored_or_blocked_signal",
        "kernel/test_namespaces.py::test_signals_of_a_parent_are_not_the_childs",
    ],
    4: [
        "kernel/test_overlay.py::test_five_hundred_layers",
        "kernel/test_overlay.py::test_a_data_root_longer_than_an_option",
        "kernel/test_overlay.py::test_deleted_files_stay_deleted",
        "kernel/test_overlay.py::test_the_mount_table_stays_empty",
        "testsuite/snapshotters/test_conformance.py::test_more_layers_than_an_overlay_takes_are_refused",
    ],
    5: [
        "testsuite/snapshotters/test_conformance.py::test_the_lock_of_a_snapshot_is_exclusive",
        "testsuite/snapshotters/test_conformance.py::test_mounting_waits_for_the_lock",
        "kernel/test_shim_deaths.py::test_an_upper_serves_one_mount_at_a_time",
    ],
    6: ["kernel/test_overlay.py::test_a_volatile_mount_can_be_mounted_again"],
    7: [
        "kernel/test_rootfs.py::test_modes",
        "kernel/test_volumes.py::test_a_file_system_of_its_own",
        "kernel/test_namespaces.py::test_dev_shm_comes_along",
    ],
    8: [
        "kernel/test_network.py::test_addresses_stay_in_quarantine_until_the_link_is_gone",
        "kernel/test_netlink.py::test_the_monitor_reports_ends_of_interfaces_and_nothing_else",
        "kernel/test_rules.py::test_each_start_has_an_interface_with_a_fresh_name",
    ],
    9: [
        "unit/test_network_worker.py::test_jobs_run_in_order_on_one_other_thread",
        "kernel/test_netlink.py::test_a_veth_is_a_port_of_its_bridge_and_its_peer_is_inside",
    ],
    10: [
        "kernel/test_network_ports.py::test_published_ports_are_reached_from_everywhere",
        "kernel/test_network.py::test_a_host_whose_forward_chain_drops",
    ],
    11: [
        "kernel/test_namespaces.py::test_joined_and_hidden",
        "kernel/test_namespaces.py::test_born_in_a_v2_group",
        "testsuite/cgroups/test_life.py::test_kill_ends_a_frozen_group",
    ],
    12: [
        "kernel/test_shim_deaths.py::test_the_death_of_a_shim_is_the_death_of_its_container",
        "faults/test_verbs_go_on.py::test_a_dead_shim_is_its_containers_death",
    ],
    13: [
        "kernel/test_setns.py::test_racing_the_containers_end",
        "kernel/test_security_process.py::test_init_that_joins_another_pid_namespace_is_final_too",
        "kernel/test_rules.py::test_what_shares_a_pid_namespace_leaves_no_orphans",
    ],
    14: [
        "kernel/test_shim_deaths.py::test_a_full_disk_stops_neither_the_program_nor_its_exit_record",
        "kernel/test_shim_deaths.py::test_a_start_without_room_for_its_exit_record_fails",
    ],
    15: [
        "kernel/test_security_process.py::test_sealing_helpers",
        "kernel/test_shim_deaths.py::test_ours_run_from_a_sealed_file_and_cannot_be_traced",
    ],
    16: ["kernel/test_rules.py::test_the_launcher_does_not_grow_with_what_it_hands_on"],
    17: [
        "api/test_connection.py::test_half_close_after_the_request",
        "api/test_connection.py::test_half_close_while_it_waits",
        "api/test_connection.py::test_a_waiter_leaves_with_its_client",
        "api/test_connection.py::test_a_head_has_a_deadline",
        "api/test_hijack.py::test_the_head_is_read_before_the_output",
    ],
    18: ["unit/test_types_lenient.py::test_*"],
    19: ["unit/db/test_connection.py::test_checkpoints_run_in_a_thread_of_their_own"],
    20: ["unit/test_contrib.py::test_*"],
}


def functions(path: Path) -> set[str]:
    """Names of the test functions of a file, those in classes too."""
    tree = ast.walk(ast.parse(path.read_bytes()))
    return {node.name for node in tree if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_the_tests_of_each_rule_are_there() -> None:
    assert set(RULES) == set(range(1, 21))
    missing = []
    for rule, names in RULES.items():
        for name in names:
            file, _, function = name.partition("::")
            found = functions(TESTS / file) if (TESTS / file).exists() else set()
            if not (found if function == "test_*" else function in found):
                missing.append(f"rule {rule}: {name}")
    assert missing == []


CLONE = """
import os, sys, threading
from boxwright.linux import namespaces, pidfd
said = []
os.register_at_fork(before=lambda: said.append("before"), after_in_parent=lambda: said.append("parent"),
                    after_in_child=lambda: said.append("child"))
threading.Thread(target=lambda: None).start()
for legacy in (False, True):
    said.clear()
    pid, fd = namespaces.clone_process(0x20000000, legacy=legacy)  # CLONE_NEWPID
    if pid == 0:
        # What the interpreter keeps for threads works in the child: locks, allocation, its own idea of the thread.
        threading.Lock().acquire()
        good = said == ["before", "child"] and threading.get_ident() and sum(range(1000)) and os.getpid() == 1
        os._exit(0 if good else 1)
    assert said == ["before", "parent"], said
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def test_a_raw_clone_runs_pythons_fork_hooks() -> None:
    """Rule 1: without them every child dies on Python 3.13, and locks stay held on any."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", CLONE], env=environment, capture_output=True, text=True, timeout=DEADLINE
    )
    assert ran.returncode == 0, ran.stderr


def bridge_ports(bridge: str) -> set[str]:
    """Interfaces that are ports of `bridge`."""
    return set(os.listdir(f"/sys/class/net/{bridge}/brif"))


def test_each_start_has_an_interface_with_a_fresh_name(engine: Engine) -> None:
    """Rule 8: the old one goes with its namespace, when the kernel gets to it; the next start does not meet it."""
    engine.ok("run", "-d", "--name", "ports", "busybox", "sleep", "600")
    try:
        seen: set[str] = set()
        for _ in range(5):
            now = bridge_ports(engine.bridge)
            assert now - seen, "a restarted container got the name of an interface that it had before"
            seen |= now
            engine.ok("restart", "-t", "0", "ports")
        assert len(seen) >= 5
        wait_for(lambda: len(bridge_ports(engine.bridge)) == 1, "the kernel has removed the others")
    finally:
        engine.docker("rm", "-f", "ports")


def test_what_shares_a_pid_namespace_leaves_no_orphans(engine: Engine) -> None:
    """Rule 13: without a pid namespace of its own nobody but us ends what a container has started."""
    engine.ok("run", "-d", "--name", "host", "busybox", "sleep", "600")
    try:
        leave = (
            "setsid sleep 4711 >/dev/null 2>&1 & setsid sh -c 'trap \"\" TERM HUP; sleep 4712' >/dev/null 2>&1 & exit 5"
        )
        ran = engine.docker("run", "--rm", "--pid", "container:host", "busybox", "sh", "-c", leave)
        assert ran.code == 5, ran
        assert not re.search(r"sleep 471[12]", engine.ok("exec", "host", "ps", "-o", "args"))
        assert engine.inspect("host")["State"]["Running"]
    finally:
        engine.docker("rm", "-f", "host")


def private_kib(pid: int) -> int:
    """Memory that the process shares with nobody, in KiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kib) for kib in re.findall(r"^Private_\w+:\s+(\d+)", text, re.M))


def anonymous_kib(pid: int) -> int:
    """Memory that the process has written to, shared with its children or not, in KiB."""
    found = re.search(r"^Anonymous:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    assert found
    return int(found[1])


def processes_of(engine: Engine) -> list[int]:
    """What was forked or executed from this engine's launchers and has not become a program."""
    found = subprocess.run(["pgrep", "-f", str(engine.exec_root)], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split()]


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # it has ended since
        return ""


def test_the_launcher_does_not_grow_with_what_it_hands_on(engine: Engine) -> None:
    """Rule 16: it decodes no request, so a thousand bytes or a hundred thousand are one to it, and to later shims."""

    def launchers() -> list[int]:  # it is executed beside the engine, and named when it is ready
        return [pid for pid in processes_of(engine) if name_of(pid) == "bw-launch-shim"]

    (launcher,) = wait_for(launchers, "the launcher is there")

    def shim_of_a_sleeper() -> int:
        made = engine.ok("run", "-d", "busybox", "sleep", "600")
        init = engine.inspect(made)["State"]["Pid"]
        parent = re.search(r"^PPid:\s+(\d+)", Path(f"/proc/{init}/status").read_text(), re.M)
        assert parent
        weight = private_kib(int(parent[1]))
        engine.ok("rm", "-f", made)
        return weight

    for _ in range(5):  # what is written once is written
        shim_of_a_sleeper()
    before, weight = anonymous_kib(launcher), shim_of_a_sleeper()
    body = {"Image": "busybox", "Cmd": ["true"], "Env": [f"V{i}={'x' * 1000}" for i in range(100)]}
    for _ in range(50):
        made = engine.api("POST", "/containers/create", body).json["Id"]
        assert engine.api("POST", f"/containers/{made}/start").status == 204
        assert engine.api("POST", f"/containers/{made}/wait").json["StatusCode"] == 0
        assert engine.api("DELETE", f"/containers/{made}").status == 204
    assert anonymous_kib(launcher) - before <= 256
    assert shim_of_a_sleeper() - weight <= 256
