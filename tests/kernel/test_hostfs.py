"""`hostfs` through the docker CLI: a disposable copy of this machine, without its secrets."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.network]


@pytest.fixture(scope="module")
def machine(nothing_left_behind: None) -> Iterator[Engine]:
    made = Engine("--hostfs")
    try:
        yield made.start()
    finally:
        made.close()


def run(machine: Engine, script: str, *options: str) -> str:
    return machine.ok("run", "--rm", "--network", "none", *options, "hostfs", "sh", "-c", script)


def test_it_is_this_machine_and_stays_as_it_is(machine: Engine) -> None:
    name = f"/etc/boxwright-{uuid.uuid4().hex}"
    shown = run(machine, f"cat /etc/os-release; echo changed > {name}; cat {name}; rm -rf /usr/share; ls /usr")
    assert Path("/etc/os-release").read_text().strip() in shown and "changed" in shown
    assert not os.path.exists(name) and os.path.isdir("/usr/share")


def test_each_start_is_a_fresh_copy(machine: Engine) -> None:
    machine.ok(
        "create", "--name", "again", "--network", "none", "hostfs", "sh", "-c", "cat /root/mark; echo x > /root/mark"
    )
    try:
        for _ in range(2):
            ran = machine.docker("start", "-a", "again")
            assert "No such file" in ran.err, ran
    finally:
        machine.ok("rm", "again")


def test_secrets_and_our_own_directories_are_masked(machine: Engine) -> None:
    data_root = os.path.realpath(machine.home)
    script = f"cat /etc/shadow /etc/gshadow | wc -c; ls -A /tmp /run; ls -A {data_root} 2>/dev/null; find / -xdev -name boxwright.db"
    lines = run(machine, script).split()
    assert lines == ["0", "/run:", "/tmp:"], lines


def test_it_has_room_but_not_all_of_it(machine: Engine) -> None:
    size = int(run(machine, "stat -f -c '%b %S' / | { read b s; echo $((b * s)); }"))
    assert size == 2 << 30


def test_programs_and_users_of_the_machine_work(machine: Engine) -> None:
    assert run(machine, "id -un", "-u", "nobody") == "nobody"
    assert run(machine, "python3 -c 'print(6 * 7)' 2>/dev/null || expr 6 \\* 7") == "42"


def test_it_cannot_be_renamed_or_removed(machine: Engine) -> None:
    for command in (["rmi", "hostfs"], ["tag", "hostfs", "other"]):
        ran = machine.docker(*command)
        assert ran.code == 1 and "built-in image" in ran.err


def test_it_is_off_unless_asked_for(engine: Engine) -> None:
    response = engine.api("POST", "/containers/create", {"Image": "hostfs", "Cmd": ["true"]})
    assert response.status == 404 and response.message == "No such image: hostfs:latest"
