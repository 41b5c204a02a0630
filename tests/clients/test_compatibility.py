"""docs/compatibility.md tells the truth: an engine is asked for every endpoint, the docker CLI for every command."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.compatibility import commands, endpoints
from support.engine import Engine, UnixConnection

pytestmark = [pytest.mark.root, pytest.mark.network]

NOWHERE = "127.0.0.1:1"  # a registry that refuses the connection
# What has to be said for an endpoint to get as far as its own work; others are asked with an empty object, or nothing.
BODIES = {
    "POST /auth": b'{"serveraddress": "%s"}' % NOWHERE.encode(),
    "POST /networks/create": b'{"Name": "mine"}',
    "POST /networks/{id}/connect": b'{"Container": "absent"}',
    "POST /networks/{id}/disconnect": b'{"Container": "absent"}',
}
QUERIES = {
    "GET /images/search": f"?term={NOWHERE}/x",
    "POST /images/create": f"?fromImage={NOWHERE}/x",
    "GET /events": "?until=1",
    "POST /build/cancel": "?id=absent",
}
NAMES = {"/networks": "bridge", "/images": f"{NOWHERE}/absent", "/distribution": f"{NOWHERE}/absent"}
# Where a command that is refused gets so far only with these arguments.
ARGUMENTS = {
    "checkpoint ls": "absent",
    "checkpoint rm": "absent point",
    "checkpoint create": "absent point",
    "network create": "mine",
    "network connect": "bridge absent",
    "network disconnect": "bridge absent",
    "network rm": "bridge",
    "plugin install": f"--grant-all-permissions {NOWHERE}/absent",
    "swarm ca": "",
    "swarm init": "",
    "swarm join": f"--token x {NOWHERE}",
    "swarm join-token": "worker",
    "swarm leave": "",
    "swarm unlock": "",
    "swarm unlock-key": "",
    "swarm update": "--autolock",
    "node ls": "",
    "node update": "--role worker absent",
    "node ps": "absent",
    "service create": "busybox",
    "service ls": "",
    "service scale": "absent=1",
    "stack ls": "",
    "secret ls": "",
    "secret create": "absent -",
    "config ls": "",
    "config create": "absent -",
}


def ask(engine: Engine, endpoint: str) -> tuple[int, bytes]:
    """Status, and the answer when it is a refusal; a stream is left."""
    method, _, path = endpoint.partition(" ")
    name = next((name for prefix, name in NAMES.items() if path.startswith(prefix)), "absent")
    target = engine.version + re.sub(r"\{[^}]*\}", name, path) + QUERIES.get(endpoint, "")
    body = BODIES.get(endpoint, b"{}" if method == "POST" else None)
    connection = UnixConnection(engine.socket)
    try:
        connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read() if answer.status >= 400 else b""
    finally:
        connection.close()


def test_every_endpoint_answers_as_the_table_says(engine: Engine) -> None:
    wrong = []
    for endpoint, state in endpoints().items():
        status, answer = ask(engine, endpoint)
        there = status != 405 and b"page not found" not in answer
        refused = {"not yet": 501, "never": 503}.get(state)
        if not there or (status != refused if refused else status in (501, 503)):
            wrong.append((endpoint, state, status, answer))
    assert wrong == []


def of_the_client(path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command of the docker CLI, read out of its own help; plugins of the client are not its own."""
    shown = subprocess.run(["docker", *path, "--help"], capture_output=True, text=True, check=True).stdout
    found, listed = [], False
    for line in shown.splitlines():
        if line and not line.startswith(" "):
            listed = bool(re.fullmatch(r"(\w+ )*Commands:", line))
        elif listed and (command := re.match(r"  (\w[\w-]*) ", line)):
            found.append(command[1])
    if not found:
        yield " ".join(path)
    for command in found:
        yield from of_the_client((*path, command))


def test_every_command_of_the_client_has_a_row() -> None:
    client = set(of_the_client())
    assert len(client) > 150
    assert client == set(commands())


def context(engine: Engine, command: str, tmp_path: Path) -> tuple[list[str], bytes]:
    """Arguments and standard input of a command that needs files."""
    if command == "volume update":
        engine.api("POST", "/volumes/create", {"Name": "there"})
        return ["--availability", "active", "there"], b""
    if command == "stack deploy":
        return ["-c", "-", "absent"], b"services: {a: {image: busybox}}\n"
    if command == "plugin create":
        (tmp_path / "rootfs").mkdir()
        (tmp_path / "config.json").write_text("{}")
        return ["absent", str(tmp_path)], b""
    return ARGUMENTS.get(command, "absent").split(), b"x"


@pytest.mark.parametrize("command", [c for c, state in commands().items() if state in ("not yet", "never")])
def test_a_command_that_is_not_there_is_refused_by_name(engine: Engine, command: str, tmp_path: Path) -> None:
    arguments, stdin = context(engine, command, tmp_path)
    ran = engine.docker(*command.split(), *arguments, stdin=stdin)
    assert ran.code != 0
    # The client itself refuses a checkpoint on an engine that is not experimental, and a volume that is not swarm's.
    assert re.search("not implemented|swarm|not supported|only supported|only update cluster volumes", ran.err), ran.err
