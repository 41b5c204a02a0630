"""Authorization plugins: a real plugin process decides, and nothing reaches a route that it has not seen whole."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api.conftest import ServedFake
from api.raw import Reply

from boxwright import plugins
from boxwright.api import call, server
from boxwright.api.authorization import Authorization

PROGRAM = Path(__file__).parents[1] / "support" / "authz_plugin.py"
CREATE = "/v1.51/containers/create"


class Guarded(ServedFake):
    """The API before which a plugin stands."""

    def __init__(self, directory: Path, names: list[str]) -> None:
        self.mode, self.log = directory / "mode", directory / "log"
        self.mode.write_text("allow")
        self.log.touch()
        self.processes = []
        for name in names:
            process = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(directory / f"{name}.sock"), str(self.mode), str(self.log)],
                stdout=subprocess.PIPE,
            )
            self.processes.append(process)
            assert process.stdout and process.stdout.readline() == b"ready\n"
        super().__init__(str(directory / "b.sock"), server.loop_factory(), Authorization(names or ["absent"]))

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        with self.client() as client:
            return client.request(method, path, body, **headers)

    @property
    def questions(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def end(self) -> None:
        self.close()
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdout
            process.stdout.close()


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    monkeypatch.setattr(plugins, "SOCKETS", str(tmp_path))
    made = Guarded(tmp_path, ["guard"])
    yield made
    made.end()


def test_what_a_plugin_is_told(guarded: Guarded) -> None:
    body = json.dumps({"Image": "busybox", "HostConfig": {}}).encode()
    assert guarded.ask("POST", CREATE + "?name=x", body, X_Registry_Auth="secret").status == 201
    asked, answered = guarded.questions
    assert asked["Method"] == "/AuthZPlugin.AuthZReq" and answered["Method"] == "/AuthZPlugin.AuthZRes"
    assert (asked["RequestMethod"], asked["RequestUri"]) == ("POST", CREATE + "?name=x")
    assert base64.b64decode(asked["RequestBody"]) == body
    assert asked["RequestHeaders"]["Content-Type"] == "application/json"
    assert "secret" not in json.dumps(asked)
    assert answered["ResponseStatusCode"] == 201 and "Id" in json.loads(base64.b64decode(answered["ResponseBody"]))


def test_a_refusal_is_dockerds(guarded: Guarded) -> None:
    guarded.mode.write_text("no-privileged")
    plain = json.dumps({"Image": "busybox", "HostConfig": {"Privileged": False}}).encode()
    assert guarded.ask("POST", CREATE, plain).status == 201
    privileged = json.dumps({"Image": "busybox", "HostConfig": {"Privileged": True}}).encode()
    reply = guarded.ask("POST", CREATE, privileged)
    assert reply.status == 403
    assert reply.message == "authorization denied by plugin guard: privileged containers are not for you"


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-tar"},
        {"Content_Type": "application/json-seq"},
        {"Content_Type": " "},
        {"Content_Type": "Application/JSON; charset=utf-8"},
    ],
)
def test_no_body_hides_from_a_plugin(guarded: Guarded, headers: dict[str, str]) -> None:
    """CVE-2024-41110: a request whose body the plugin is not shown must not be carried out with that body."""
    guarded.mode.write_text("no-privileged")
    body = json.dumps({"Image": "busybox", "HostConfig": {"Privileged": True}}).encode()
    assert guarded.ask("POST", CREATE, body, **headers).status in (400, 403)
    assert not guarded.backend.seen


def test_a_route_gets_no_body_that_was_not_shown(guarded: Guarded) -> None:
    """Attach takes a body of any type; behind a plugin it does not."""
    path = "/containers/box/attach?stream=1&stdout=1"
    reply = guarded.ask("POST", path, b"x", Content_Type="text/plain")
    assert (reply.status, reply.message) == (
        400, "unsupported Content-Type header (text/plain): must be 'application/json'",
    )  # fmt: skip


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
    ],
)
def test_a_length_that_lies(guarded: Guarded, head: bytes) -> None:
    guarded.mode.write_text("no-privileged")
    body = json.dumps({"Image": "busybox", "HostConfig": {"Privileged": True}}).encode()
    if b"chunked" in head:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with guarded.client() as client:
        client.send(b"POST " + CREATE.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + head)
        client.send(b"Connection: close\r\n\r\n" + body)
        assert client.reply().status in (400, 403)
    assert not guarded.backend.seen


@pytest.mark.parametrize("size", [1024 * 1024 - 100, 1024 * 1024 + 1, 3 * 1024 * 1024])
def test_a_big_body_is_shown_whole(guarded: Guarded, size: int) -> None:
    """CVE-2026-34040: dockerd showed no body from 1 MiB on."""
    guarded.mode.write_text("no-privileged")
    padding = "x" * size
    body = json.dumps({"Image": "busybox", "Labels": {"a": padding}, "HostConfig": {"Privileged": True}}).encode()
    assert guarded.ask("POST", CREATE, body).status == 403
    [asked] = guarded.questions
    assert base64.b64decode(asked["RequestBody"]) == body


def test_a_body_past_the_limit_reaches_nobody(guarded: Guarded) -> None:
    with guarded.client() as client:
        client.send(
            f"POST {CREATE} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {call.MAX_BODY + 1}\r\n\r\n".encode()
        )
        assert client.reply().status == 413
    assert not guarded.questions


def test_the_path_is_the_one_that_is_routed(guarded: Guarded) -> None:
    guarded.mode.write_text("no-privileged")
    body = json.dumps({"Image": "busybox", "HostConfig": {"Privileged": True}}).encode()
    assert guarded.ask("POST", "/v1.51/%63ontainers/cr%65ate", body).status == 403
    assert guarded.questions[0]["RequestUri"] == CREATE


@pytest.mark.parametrize("mode", ["err", "garbage", "huge", "status", "die", "no-verdict", "truthy", "silent"])
def test_a_plugin_that_fails_has_denied(guarded: Guarded, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr(plugins, "DEADLINE", 1.0)
    guarded.mode.write_text(mode)
    reply = guarded.ask("POST", CREATE, b'{"Image": "busybox"}')
    assert reply.status in (403, 500)
    assert reply.message.startswith(("plugin guard failed with error: ", "authorization denied by plugin guard: "))


def test_an_answer_can_be_kept_back(guarded: Guarded) -> None:
    guarded.mode.write_text("deny-answers")
    for method, path in (("GET", "/info"), ("GET", "/events"), ("POST", "/containers/box/wait")):
        reply = guarded.ask(method, path)
        assert (reply.status, reply.message) == (403, "authorization denied by plugin guard: no")
    reply = guarded.ask("POST", "/containers/box/attach?stream=1&stdout=1", Connection="Upgrade", Upgrade="tcp")
    assert reply.status == 403


def test_archives_are_not_shown_and_go_through(guarded: Guarded) -> None:
    reply = guarded.ask("POST", "/images/load", b"archive", Content_Type="application/x-tar")
    assert reply.status == 200
    assert "RequestBody" not in guarded.questions[0]


def test_a_plugin_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "SOCKETS", str(tmp_path))
    made = Guarded(tmp_path, [])
    try:
        reply = made.ask("GET", "/_ping")
        assert (reply.status, reply.message) == (500, 'plugin absent failed with error: plugin "absent" not found')
    finally:
        made.end()


def test_every_plugin_has_to_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "SOCKETS", str(tmp_path))
    made = Guarded(tmp_path, ["one", "two"])
    try:
        assert made.ask("GET", "/_ping").status == 200
        assert [q["Method"][-3:] for q in made.questions] == ["Req", "Req", "Res", "Res"]
        made.processes[1].kill()
        made.processes[1].wait()
        assert made.ask("GET", "/_ping").status == 500
        made.run(_replaced(made, ["one"]))
        assert made.ask("GET", "/_ping").status == 200
    finally:
        made.end()


async def _replaced(made: Guarded, names: list[str]) -> None:
    assert made.authorization
    made.authorization.replace(names)
