"""Routes: what reaches the engine, what comes back, and that every endpoint of the API's definition is answered."""

import base64
import http.client
import json
from typing import Any
from urllib.parse import quote

import pytest
from api.conftest import ServedFake

from boxwright import types


@pytest.fixture
def api(fake: ServedFake) -> Any:
    with fake.client() as client:
        yield client.request


def test_create(fake: ServedFake, api: Any) -> None:
    body = b'{"Image":"busybox","Cmd":"true","HostConfig":{"Memory":5,"Binds":null},"NetworkingConfig":null}'
    reply = api("POST", "/v1.51/containers/create?name=n&platform=linux/amd64", body)
    assert (reply.status, reply.json) == (201, {"Id": "0" * 64, "Warnings": []})
    [(verb, name, config, host, networking, platform)] = fake.backend.seen
    assert (verb, name, platform) == ("create", "n", "linux/amd64")
    assert config == types.ContainerConfig(image="busybox", cmd=["true"])
    assert type(config) is types.ContainerConfig
    assert host == types.HostConfig(memory=5, network_mode="default")
    assert networking == types.NetworkingConfig(endpoints_config={})


def test_create_of_old_clients(fake: ServedFake, api: Any) -> None:
    body = (
        b'{"Image":"b","HostConfig":{"AutoRemove":true,"PidsLimit":-1,"Annotations":{"a":"b"},"KernelMemoryTCP":5,'
        b'"Mounts":[{"Type":"bind","ReadOnly":true,"VolumeOptions":{},"BindOptions":{"NonRecursive":true}}]}}'
    )
    assert api("POST", "/v1.24/containers/create?platform=x", body).status == 201
    _, _, _, host, _, platform = fake.backend.seen[0]
    assert (platform, host.auto_remove, host.pids_limit, host.annotations) == ("", False, None, None)
    assert (host.ipc_mode, host.cgroupns_mode, host.kernel_memory_tcp) == ("shareable", "host", 0)
    bind = types.BindOptions(read_only_non_recursive=True)
    assert host.mounts == [types.Mount(type="bind", read_only=True, bind_options=bind)]


def test_start_takes_a_host_config(fake: ServedFake, api: Any) -> None:
    assert api("POST", "/containers/box/start").status == 204
    assert api("POST", "/containers/box/start", b"").status == 204
    assert api("POST", "/containers/box/start", b'{"Binds":["/a:/b"]}').status == 204
    assert api("POST", "/v1.24/containers/box/start", b'{"Privileged":true}').status == 204
    for empty in (b"{}", b"null", b'{"Memory":0,"binds":[]}'):
        assert api("POST", "/containers/box/start", empty).status == 204
    assert api("POST", "/containers/box/start", b"x", Content_Type="text/plain").status == 400
    old = types.HostConfig(privileged=True, network_mode="default", ipc_mode="shareable", cgroupns_mode="host")
    new = types.HostConfig(binds=["/a:/b"], network_mode="default")
    assert [call[2] for call in fake.backend.seen] == [None, None, new, old, None, None, None]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", False), ("0", False), ("no", False), ("False", False), (" none ", False), ("1", True), ("x", True)],
)
def test_booleans(api: Any, value: str, expected: bool) -> None:
    assert api("GET", f"/containers/json?all={value.replace(' ', '+')}").json[0]["all"] is expected


def test_lists(api: Any) -> None:
    found = api(
        "GET", '/containers/json?limit=3&size=1&filters={"status":["running"],"label":{"a":true,"b":true}}'
    ).json
    assert found == [
        {"Id": "box", "all": True, "limit": 3, "size": True, "filters": {"status": ["running"], "label": ["a", "b"]}}
    ]
    assert api("GET", "/v1.43/images/json").json[0]["VirtualSize"] == 7
    assert "VirtualSize" not in api("GET", "/v1.44/images/json").json[0]
    assert api("GET", "/v1.24/images/json?filter=b").json[0]["filters"] == {"reference": ["b"]}


def test_verbs(fake: ServedFake, api: Any) -> None:
    for method, target, status in [
        ("POST", "/containers/box/stop?t=5&signal=SIGINT", 204),
        ("POST", "/v1.41/containers/box/stop?signal=SIGINT", 204),
        ("POST", "/containers/box/stop?signal=SIGSTOPPED", 304),
        ("POST", "/containers/box/pause", 204),
        ("POST", "/containers/box/unpause", 204),
        ("POST", "/containers/box/rename?name=new", 204),
        ("POST", "/containers/box/resize?h=24&w=80", 200),
        ("DELETE", "/containers/box?force=1&v=1", 204),
        ("POST", "/exec/abc/resize?h=1&w=2", 200),
        ("POST", "/exec/abc/kill", 204),
        ("POST", "/exec/abc/kill?signal=INT", 204),
        ("POST", "/images/a/b:c/tag?repo=r&tag=t", 201),
        ("DELETE", "/images/reg:5000/a%2Fb?noprune=1", 200),
        ("DELETE", "/volumes/v?force=true", 204),
    ]:
        assert api(method, target).status == status, target
    assert fake.backend.seen == [
        ("stop", "box", "SIGINT", 5),
        ("stop", "box", None, None),
        ("pause", "box"),
        ("unpause", "box"),
        ("rename", "box", "new"),
        ("resize", "box", 24, 80),
        ("remove", "box", True, True, False),
        ("exec_resize", "abc", 1, 2),
        ("exec_kill", "abc", None),
        ("exec_kill", "abc", "INT"),
        ("tag", "a/b:c", "r", "t"),
        ("rmi", "reg:5000/a/b", False, True),
        ("volume_remove", "v", True),
    ]


def test_exec_and_volume_bodies(fake: ServedFake, api: Any) -> None:
    assert api("POST", "/v1.41/containers/box/exec", b'{"Cmd":["a"],"ConsoleSize":[1,2]}').status == 201
    assert api("POST", "/volumes/create", b'{"Name":"v","DriverOpts":null}').json == {"Name": "v"}
    assert fake.backend.seen == [
        ("exec_create", "box", types.ExecConfig(cmd=["a"])),
        ("volume_create", types.VolumeCreateRequest(name="v")),
    ]
    assert api("POST", "/v1.41/volumes/prune").json["filters"] == {"all": ["true"]}
    assert api("POST", "/volumes/prune").json["filters"] == {}


def test_logs(api: Any) -> None:
    target = "/containers/box/logs?stdout=1&stderr=1&since=12.5&until=0&timestamps=1&details=0&tail={}&follow=0"
    reply = api("GET", target.format(20))
    assert reply.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
    assert reply.body.startswith(b"\x01\0\0\0\0\0\0\x04one\n\x02\0\0\0")
    assert b"(True, True, 12500000000, 0, True, False, 20, False)" in reply.body
    assert b", -1, False)" in api("GET", target.format("all")).body
    assert api("GET", "/v1.41" + target).headers["content-type"] == "application/vnd.docker.raw-stream"
    assert (api("GET", target.format(13)).status, api("GET", target.format(13)).message) == (400, "unlucky")


def test_stats(fake: ServedFake, api: Any) -> None:
    assert api("GET", "/containers/box/stats?stream=0&one-shot=1").json == {"name": "box", "one_shot": True}
    # The parameter came with API 1.41.
    assert api("GET", "/v1.40/containers/box/stats?stream=0&one-shot=1").json == {"name": "box", "one_shot": False}
    fake.call(fake.backend.exited.set)
    lines = api("GET", "/containers/box/stats").body.split()
    assert lines == [b'{"name":"box","one_shot":false}', b'{"name":"box","last":true}']
    fake.backend.names.add("vanishing")
    assert (api("GET", "/containers/vanishing/stats").status, api("GET", "/containers/nobody/stats").status) == (
        200,
        404,
    )


def test_update(fake: ServedFake, api: Any) -> None:
    body = b'{"Memory":8388608,"PidsLimit":-1,"KernelMemory":5,"RestartPolicy":{"Name":"always"}}'
    for version in ("1.51", "1.41", "1.39"):
        assert api("POST", f"/v{version}/containers/box/update", body).json == {"Warnings": None}
    new, middle, old = (wanted for _, _, wanted in fake.backend.seen)
    assert (new.memory, new.pids_limit, new.kernel_memory, new.restart_policy.name) == (8388608, -1, 0, "always")
    assert (middle.pids_limit, middle.kernel_memory) == (-1, 5)
    assert (old.pids_limit, old.kernel_memory) == (None, 5)


def test_errors(api: Any) -> None:
    assert api("POST", "/containers/box/kill").status == 409
    bug = api("POST", "/containers/box/kill?signal=BUG")
    assert (bug.status, bug.message) == (500, "internal error: KeyError: 'nobody foresaw this'")
    failed = api("POST", "/containers/box/kill?signal=EXEC")
    assert (failed.status, failed.message) == (400, "exec: not found")
    assert api("GET", "/nope").message == "page not found"
    assert api("PUT", "/info").status == 405


def test_progress(api: Any) -> None:
    assert api("POST", "/images/load", b"0123456").body == b'{"status":"reading"}\r\n{"stream":"7 bytes\\n"}\r\n'
    assert api("POST", "/images/load", b"not a tar").message == "not an archive"
    late = api("POST", "/images/load", b"01234")
    assert late.status == 200
    assert late.body.endswith(b'{"errorDetail":{"message":"disk full"},"error":"disk full"}\r\n')
    reply = api("POST", "/images/create?fromSrc=-&repo=r&tag=t&changes=CMD+x&changes=USER+y", b"tar")
    assert reply.body == b"{\"status\":\"r:t ['CMD x', 'USER y'] 3\"}\r\n"
    reply = api("POST", "/images/create?fromSrc=http://x/y&repo=r")
    assert reply.body == b'{"status":"r: [] http://x/y"}\r\n'
    assert api("POST", "/images/create").status == 400


def credentials(**fields: str) -> dict[str, str]:
    return {"X_Registry_Auth": base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()}


def test_registries(api: Any) -> None:
    who = credentials(username="me", password="p\u00e4ss??>")
    pulled = api("POST", "/images/create?fromImage=busybox&tag=1&platform=linux/arm64", **who)
    assert pulled.body == b'{"status":"busybox 1 linux/arm64 me"}\r\n'
    # As with dockerd, a pull goes on as nobody; a push does not.
    odd = {"X_Registry_Auth": "!"}
    assert api("POST", "/images/create?fromImage=busybox&tag=1", **odd).body == b'{"status":"busybox 1  "}\r\n'
    refused = api("POST", "/images/x/push", **odd)
    assert (refused.status, refused.message[:31]) == (400, "invalid X-Registry-Auth header:")
    assert api("POST", "/images/create?fromImage=denied").status == 404
    assert "x 1 False me:p\u00e4ss??>" in api("POST", "/images/x/push?tag=1", **who).body.decode()
    assert b"a/b/c  True " in api("POST", "/images/a/b/c/push").body
    wanted = "platform=%7B%22os%22%3A%22linux%22%7D"
    assert b" {'os': 'linux'}" in api("POST", f"/v1.46/images/x/push?tag=1&{wanted}").body
    assert b" None" in api("POST", f"/v1.45/images/x/push?tag=1&{wanted}").body
    assert api("POST", "/v1.46/images/x/push?platform=linux%2Farm").status == 400
    found = api("GET", "/images/search?term=x&limit=7&filters=" + quote('{"stars":["3"]}'))
    assert json.loads(found.body) == [{"name": "x", "limit": 7, "filters": {"stars": ["3"]}}]
    assert (api("GET", "/images/search").status, api("GET", "/images/search?term=x&limit=y").status) == (400, 400)
    assert json.loads(api("GET", "/distribution/a/b:1/json").body)["Descriptor"] == {"digest": "a/b:1"}
    body = json.dumps({"username": "me", "password": "good", "serveraddress": "r"}).encode()
    login = api("POST", "/auth", body)
    assert json.loads(login.body) == {"Status": "Login Succeeded", "IdentityToken": "refresh"}
    assert api("POST", "/auth", b'{"username":"me","password":"bad"}').status == 401
    assert api("POST", "/auth", b'{"username":7}').status == 400
    assert api("POST", "/auth", b"not json").status == 400


def test_ping(api: Any) -> None:
    for method, body in (("GET", b"OK"), ("HEAD", b"")):
        reply = api(method, "/_ping")
        assert (reply.status, reply.body) == (200, body)
        expected = {
            "api-version": "1.51",
            "docker-experimental": "false",
            "ostype": "linux",
            "builder-version": "1",
            "swarm": "inactive",
            "cache-control": "no-cache, no-store, must-revalidate",
        }
        assert {name: reply.headers[name] for name in expected} == expected
        assert reply.headers["server"].startswith("Docker/")


@pytest.mark.parametrize(
    ("version", "status", "text"),
    [
        ("1.24", 200, ""),
        ("1.51", 200, ""),
        ("1.10", 400, "client version 1.10 is too old. Minimum supported API version is 1.24"),
        ("1.99", 400, "client version 1.99 is too new. Maximum supported API version is 1.51"),
        ("2.0", 400, "is too new"),
        ("1", 400, "is too old"),
        ("...", 400, "is too old"),
        ("1.999999999999", 400, "is too old"),
    ],
)
def test_versions(api: Any, version: str, status: int, text: str) -> None:
    reply = api("GET", f"/v{version}/info")
    assert reply.status == status
    assert not text or text in reply.message


# Every endpoint of the API's definition (paths and methods are facts of the protocol), with the answer for names
# that the fake does not know.  Streams and hijacks are tested on their own.
ENDPOINTS = """
404 GET /containers/x/json
404 GET /containers/x/top
404 GET /containers/x/logs?stdout=1
200 GET /containers/x/changes
200 GET /containers/x/export
404 GET /containers/x/stats
404 POST /containers/x/resize?h=1&w=1
404 POST /containers/x/start
404 POST /containers/x/stop
404 POST /containers/x/restart
404 POST /containers/x/kill
400 POST /containers/x/update
404 POST /containers/x/rename?name=y
404 POST /containers/x/pause
404 POST /containers/x/unpause
404 POST /containers/x/attach
404 GET /containers/x/attach/ws
404 POST /containers/x/wait
404 DELETE /containers/x
400 GET /containers/x/archive
400 HEAD /containers/x/archive
400 PUT /containers/x/archive
200 GET /containers/x/archive?path=/x
200 HEAD /containers/x/archive?path=/x
200 PUT /containers/x/archive?path=/x
501 POST /containers/x/copy
200 POST /containers/prune
200 GET /images/json
200 POST /build
200 POST /build/prune
200 POST /images/create?fromImage=x
404 GET /images/missing/json
501 GET /images/x/attestations
200 GET /images/x/history
200 POST /images/x/push
201 POST /images/x/tag
200 DELETE /images/x
200 GET /images/search?term=x
200 POST /images/prune
401 POST /auth
200 GET /info
200 GET /version
200 GET /_ping
200 HEAD /_ping
201 POST /commit?container=x
200 GET /system/df
400 GET /system/df?type=moon
200 GET /images/x/get
200 GET /images/get?names=x
200 GET /exec/x/json
200 GET /volumes
400 POST /volumes/create
404 GET /volumes/x
503 PUT /volumes/x
204 DELETE /volumes/x
200 POST /volumes/prune
200 GET /networks
200 GET /networks/x
403 DELETE /networks/x
400 POST /networks/create
400 POST /networks/x/connect
400 POST /networks/x/disconnect
200 POST /networks/prune
200 GET /plugins
501 GET /plugins/privileges
501 POST /plugins/pull
404 GET /plugins/x/json
404 DELETE /plugins/x
404 POST /plugins/x/enable
404 POST /plugins/x/disable
404 POST /plugins/x/upgrade
501 POST /plugins/create
404 POST /plugins/x/push
404 POST /plugins/x/set
503 GET /nodes
503 GET /nodes/x
503 DELETE /nodes/x
503 POST /nodes/x/update
503 GET /swarm
503 POST /swarm/init
503 POST /swarm/join
503 POST /swarm/leave
503 POST /swarm/update
503 GET /swarm/unlockkey
503 POST /swarm/unlock
503 GET /services
503 POST /services/create
503 GET /services/x
503 DELETE /services/x
503 POST /services/x/update
503 GET /services/x/logs
503 GET /tasks
503 GET /tasks/x
503 GET /tasks/x/logs
503 GET /secrets
503 POST /secrets/create
503 GET /secrets/x
503 DELETE /secrets/x
503 POST /secrets/x/update
503 GET /configs
503 POST /configs/create
503 GET /configs/x
503 DELETE /configs/x
503 POST /configs/x/update
200 GET /distribution/x/json
501 POST /session
501 POST /grpc
"""


def test_every_endpoint_is_answered(api: Any) -> None:
    for line in ENDPOINTS.strip().splitlines():
        status, method, target = line.split(" ")
        reply = api(method, target)
        assert reply.status == int(status), line
        if reply.status == 501 and method != "HEAD":
            assert reply.message.endswith("is not implemented yet by boxwright"), line
        if reply.status == 503:
            assert "swarm" in reply.message, line


def test_archives_begin_with_their_first_piece(api: Any) -> None:
    whole = api("GET", "/containers/x/export")
    assert (whole.status, whole.headers["content-type"], whole.body) == (200, "application/x-tar", b"firstsecond")
    missing = api("GET", "/containers/missing/export")
    assert (missing.status, missing.message) == (404, "No such container: missing")
    assert api("GET", "/images/get?names=a&names=b:1").body == b"['a', 'b:1'] None"
    platform = '{"os":"linux","architecture":"amd64"}'
    assert b"'architecture': 'amd64'" in api("GET", f"/images/get?names=a&platform={quote(platform)}").body
    assert api("GET", "/images/get?names=a&platform=linux").status == 400


def test_an_archive_that_breaks_off_has_no_end(api: Any) -> None:
    with pytest.raises((OSError, http.client.HTTPException)):
        api("GET", "/containers/broken/export")


@pytest.mark.parametrize(
    ("query", "body", "changes", "pause", "configured"),
    [
        ("container=c", None, [], True, False),
        ("container=c", b"null", [], True, False),
        ("container=c&pause=0&changes=ENV%20a%3Db&changes=USER%20x", b"{}", ["ENV a=b", "USER x"], False, False),
        ("container=c&pause=1&author=me", b'{"Cmd":["x"]}', [], True, True),
    ],
)
def test_commit(
    fake: ServedFake, api: Any, query: str, body: bytes | None, changes: list[str], pause: bool, configured: bool
) -> None:
    reply = api("POST", f"/commit?{query}", body, Content_Type="application/json")
    assert (reply.status, reply.json) == (201, {"Id": "sha256:1"})
    _, wanted, config = fake.backend.seen[-1]
    assert (wanted.container, wanted.changes, wanted.pause) == ("c", changes, pause)
    assert (config is not None) == configured
