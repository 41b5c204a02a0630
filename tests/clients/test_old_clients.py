"""A HostConfig in the body of a start, as clients of API 1.21 and older send it (dockerode sends an empty object)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import images
from support.engine import Engine, Response

pytestmark = [pytest.mark.root, pytest.mark.network]


def start(engine: Engine, name: str, body: Any) -> Response:
    return engine.api("POST", f"/v1.24/containers/{name}/start", body)


@pytest.fixture
def old(engine: Engine) -> Iterator[str]:
    """A container as an old client creates it: without a HostConfig."""
    made = engine.api("POST", "/containers/create?name=old", {"Image": "busybox", "Cmd": ["sleep", "600"]})
    assert made.status == 201, made.raw
    yield "old"
    engine.docker("rm", "-fv", "old")


@pytest.mark.parametrize("body", [b"{}", b"null", b'{"Memory":0,"Binds":null}', b'{"binds":[]}'])
def test_an_empty_object_changes_nothing(engine: Engine, body: bytes) -> None:
    engine.ok("create", "--name", "kept", "-m", "64m", "--cap-drop", "ALL", "-v", "/anon", "-p", "127.0.0.1::80",
              "--read-only", "busybox", "sleep", "600")  # fmt: skip
    try:
        before = engine.inspect("kept")
        assert start(engine, "kept", body).status == 204
        after = engine.inspect("kept")
        assert after["HostConfig"] == before["HostConfig"]
        assert [m["Name"] for m in after["Mounts"]] == [m["Name"] for m in before["Mounts"]]
    finally:
        engine.ok("rm", "-fv", "kept")


def test_what_a_start_names(engine: Engine, old: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("bound")
    engine.ok("run", "-d", "--name", "db", "-e", "KEY=value", "-v", "/shared", "busybox", "sleep", "600")
    body = {
        "Binds": [f"{tmp_path}:/b:ro", "old-volume:/etc"], "VolumesFrom": ["db"], "Links": ["db:alias"],
        "Dns": ["192.0.2.1"], "CapDrop": ["CHOWN"], "Memory": 64 << 20, "PortBindings": {"80/tcp": [{"HostPort": ""}]},
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}, "UTSMode": "",
    }  # fmt: skip
    try:
        shown = []
        for _ in range(2):  # old clients send it with every start
            assert start(engine, old, body).status == 204
            found = engine.inspect(old)
            shown.append({m["Destination"]: (m["Type"], m["Source"], m["RW"]) for m in found["Mounts"]})
            assert engine.ok("exec", old, "cat", "/b/file") == "bound"
            assert engine.docker("exec", old, "touch", "/b/x").code == 1
            assert engine.ok("exec", old, "ls", "/etc/passwd", "/shared") == "/etc/passwd\n\n/shared:"  # copy-up
            assert engine.ok("exec", old, "sh", "-c", "echo $ALIAS_ENV_KEY; grep -c alias /etc/hosts") == "value\n1"
            assert engine.ok("exec", old, "cat", "/etc/resolv.conf") == "nameserver 192.0.2.1"
            assert engine.ok("port", old, "80/tcp")
            assert engine.ok("exec", old, "grep", "CapBnd", "/proc/1/status") == "CapBnd:\t00000000a80425fa"
            kept = found["HostConfig"]
            assert kept["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
            assert (kept["Memory"], kept["Links"], kept["Binds"]) == (64 << 20, ["/db:/old/alias"], body["Binds"])
            engine.ok("stop", "-t", "0", old)
        assert shown[0] == shown[1] and set(shown[0]) == {"/b", "/etc", "/shared"}
    finally:
        engine.ok("rm", "-fv", old, "db")
        engine.ok("volume", "rm", "old-volume")
    assert engine.ok("volume", "ls", "-q") == ""


def test_it_is_as_closed_as_any_other(engine: Engine, old: str) -> None:
    """Masked and read-only paths are Docker's, though no old client knows of them."""
    usual = engine.inspect(old)["HostConfig"]
    assert start(engine, old, {"Memory": 64 << 20}).status == 204
    found = engine.inspect(old)["HostConfig"]
    assert (found["MaskedPaths"], found["ReadonlyPaths"]) == (usual["MaskedPaths"], usual["ReadonlyPaths"])
    assert usual["MaskedPaths"] and usual["ReadonlyPaths"]
    assert engine.docker("exec", old, "sh", "-c", "echo 1 > /proc/sys/kernel/domainname").code == 1
    assert engine.ok("exec", old, "sh", "-c", "cat /proc/kcore | wc -c") == "0"


def test_a_bind_takes_the_place_of_the_images_volume(engine: Engine, tmp_path: Path) -> None:
    archive = images.archive(
        tmp_path / "i.tar",
        [("with-volume:1", [images.busybox_layer()], {**images.BUSYBOX, "Volumes": {"/data": {}, "/more": {}}})],
    )
    engine.load(archive)
    engine.ok("create", "--name", "old", "with-volume:1", "sleep", "600")
    try:
        before = {m["Destination"]: m["Name"] for m in engine.inspect("old")["Mounts"]}
        assert start(engine, "old", {"Binds": [f"{tmp_path}:/data"]}).status == 204
        after = {m["Destination"]: (m["Type"], m.get("Name", "")) for m in engine.inspect("old")["Mounts"]}
        assert after == {"/data": ("bind", ""), "/more": ("volume", before["/more"])}
        assert engine.ok("volume", "ls", "-q") == before["/more"]  # nobody could reach the other one
    finally:
        engine.ok("rm", "-fv", "old")
        engine.ok("rmi", "with-volume:1")
    assert engine.ok("volume", "ls", "-q") == ""


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"Mounts": [{"Type": "tmpfs", "Target": "/t"}]}, 501, "HostConfig.Mounts with a start is not supported"),
    ({"Memory": 1 << 20}, 400, "Minimum memory limit allowed is 6MB"),
    ({"Links": ["nobody:x"]}, 400, "could not get container for nobody"),
    ({"Binds": ["relative/path:/x"]}, 400, "relative/path"),
    ({"Binds": ["volume-of-nobody:/x"], "VolumesFrom": ["nobody"]}, 400, "No such container: nobody"),
    ({"Binds": "x"}, 400, "Binds"),
]


@pytest.mark.parametrize(("body", "status", "said"), REFUSED, ids=[row[2] for row in REFUSED])
def test_what_is_refused_changes_nothing(
    engine: Engine, old: str, body: dict[str, Any], status: int, said: str
) -> None:
    before = engine.inspect(old)
    answer = start(engine, old, body)
    assert (answer.status, said in answer.message) == (status, True), answer.raw
    assert engine.inspect(old) == before
    assert engine.ok("volume", "ls", "-q") == ""
    assert start(engine, old, None).status == 204
