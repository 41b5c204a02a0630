"""docker-py's objects (client, containers, images, volumes, networks): each of their public members is used, and told so.

A new docker-py that brings a member fails until a story here uses it.  Its objects of swarm and of plugins ask for what
`test_docker_py_surface.py` sees refused.
"""

import inspect
import io
import socket
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError
from docker.models.containers import Container, ContainerCollection
from docker.models.images import Image, ImageCollection, RegistryData
from docker.models.networks import Network, NetworkCollection
from docker.models.volumes import Volume, VolumeCollection
from support.engine import Engine
from support.registries import registry

pytestmark = [pytest.mark.root, pytest.mark.network]

CLASSES = (
    docker.DockerClient, Container, ContainerCollection, Image, ImageCollection, RegistryData, Network,
    NetworkCollection, Volume, VolumeCollection,
)  # fmt: skip
ELSEWHERE = {f"DockerClient.{name}" for name in ("configs", "nodes", "plugins", "secrets", "services", "swarm")} | {
    "DockerClient.from_context",  # reads the client's own files
}


def members(kind: type) -> dict[str, Any]:
    """Public methods and properties, inherited ones too."""
    found = inspect.getmembers(kind, lambda m: isinstance(m, property) or inspect.isroutine(m))
    return {name: member for name, member in found if not name.startswith("_")}


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """ "Class.member" of every member that is used from now on."""
    seen: set[str] = set()

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            seen.add(name)
            return function(*arguments, **options)

        return call

    for kind in CLASSES:
        for name, member in members(kind).items():
            told = f"{kind.__name__}.{name}"
            if isinstance(member, property):
                monkeypatch.setattr(kind, name, property(noted(told, member.fget)))  # type: ignore[arg-type]
            elif inspect.ismethod(member):
                monkeypatch.setattr(kind, name, classmethod(noted(told, member.__func__)))
            else:
                monkeypatch.setattr(kind, name, noted(told, member))
    return seen


@pytest.fixture
def client(engine: Engine, used: set[str]) -> Iterator[Any]:
    made = docker.DockerClient.from_env(environment={"DOCKER_HOST": engine.host}, version="auto", timeout=60)
    yield made
    for container in made.containers.list(all=True, filters={"label": "story"}):
        container.remove(force=True)
    made.close()


def test_every_member_is_used(client: Any, engine: Engine, used: set[str], tmp_path: Path) -> None:
    the_client(client)
    a_container(client)
    what_a_container_holds(client, tmp_path)
    how_a_container_is_found_and_pruned(client)
    images(client, tmp_path)
    images_of_a_registry(client)
    volumes(client)
    networks(client)
    client.close()
    every = {f"{kind.__name__}.{name}" for kind in CLASSES for name in members(kind)}
    assert every - used - ELSEWHERE == set()
    assert used <= every


def the_client(client: Any) -> None:
    assert client.ping() is True
    assert client.info()["Driver"]
    assert client.version()["Os"] == "linux"
    assert client.df()["Images"]
    heard = client.events(decode=True, filters={"label": "story"})
    made = client.containers.create("busybox", "true", labels={"story": "events"})
    assert (next(heard)["Action"], made.status) == ("create", "created")
    heard.close()


def a_container(client: Any) -> None:
    command = ["sh", "-c", "echo ready; trap 'exit 3' TERM; while :; do sleep 0.1; done"]
    box = client.containers.run(
        "busybox",
        command,
        detach=True,
        tty=True,
        name="story",
        labels={"story": "a"},
        ports={"80/tcp": ("127.0.0.1", None)},
    )
    assert next(iter(box.logs(stream=True, follow=True))) == b"ready\r\n"[:1]  # a terminal's bytes come one by one
    box.reload()
    assert (box.name, box.status, box.labels["story"], box.health) == ("story", "running", "a", "unknown")
    assert box.id.startswith(box.short_id)
    assert box.image.tags == ["busybox:latest"]
    assert box.ports["80/tcp"][0]["HostIp"] == "127.0.0.1"
    assert box.top()["Processes"]
    assert box.stats(stream=False)["name"] == "/story"
    assert box.exec_run("echo in").output == b"in\n"
    box.resize(30, 90)
    assert box.exec_run("stty size -F /dev/pts/0").output.strip() in (b"30 90", b"")
    assert not box.update(cpu_shares=77).get("Warnings")
    box.pause()
    box.unpause()
    box.rename("renamed")
    box.restart(timeout=5)
    box.stop(timeout=5)
    assert box.wait(timeout=20)["StatusCode"] == 3
    box.start()
    box.kill()
    assert box.wait(timeout=20)["StatusCode"] == 137
    box.remove()


def what_a_container_holds(client: Any, tmp_path: Path) -> None:
    box = client.containers.create("busybox", "cat", stdin_open=True, labels={"story": "files"})
    sock = box.attach_socket(params={"stdin": 1, "stream": 1})
    output = box.attach(stream=True, stdout=True, logs=False)
    box.start()
    sock._sock.sendall(b"over\n")
    sock._sock.shutdown(socket.SHUT_WR)
    assert b"".join(output) == b"over\n"
    sock.close()
    assert box.wait(timeout=20)["StatusCode"] == 0
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        info = tarfile.TarInfo("new")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"it\n"))
    assert box.put_archive("/root", packed.getvalue()) is True
    pieces, stat = box.get_archive("/root/new")
    assert (stat["name"], stat["size"]) == ("new", 3)
    assert b"it\n" in b"".join(pieces)
    assert {"Path": "/root/new", "Kind": 1} in box.diff()
    (tmp_path / "all.tar").write_bytes(b"".join(box.export()))
    with tarfile.open(tmp_path / "all.tar") as tar:
        assert "root/new" in [name.removeprefix("./") for name in tar.getnames()]
    image = box.commit("story", "1")
    assert client.containers.run("story:1", ["cat", "/root/new"], remove=True) == b"it\n"
    image.remove()
    box.remove()


def how_a_container_is_found_and_pruned(client: Any) -> None:
    box = client.containers.create("busybox", "true", labels={"story": "prune"})
    assert client.containers.get(box.short_id) == box
    assert client.containers.list(all=True, filters={"label": "story=prune"}) == [box]
    assert client.containers.prepare_model(box.attrs) == box
    assert client.containers.prune({"label": ["story=prune"]})["ContainersDeleted"] == [box.id]


def images(client: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nLABEL story=images\nRUN echo built > /built\n")
    image, said = client.images.build(path=str(tmp_path), tag="story:built", rm=True)
    assert any("Successfully built" in line.get("stream", "") for line in said)
    assert image.labels == {"story": "images"}
    assert image.tags == ["story:built"]
    assert image.id.startswith(image.short_id)
    assert image.tag("story", "again")
    image.reload()
    assert sorted(image.tags) == ["story:again", "story:built"]
    assert "LABEL story=images" in [entry["CreatedBy"] for entry in image.history()][1]
    archive = b"".join(image.save(named="story:built"))
    client.images.remove("story:again")
    image.remove()
    assert client.images.list("story") == []
    (loaded,) = client.images.load(archive)
    assert loaded.id == client.images.get("story:built").id == client.images.prepare_model(loaded.attrs).id
    client.images.remove("story:built")
    client.images.build(path=str(tmp_path), rm=True)
    assert client.images.prune({"label": ["story=images"], "dangling": True})["ImagesDeleted"]
    assert client.images.prune_builds()["SpaceReclaimed"] == 0


def images_of_a_registry(client: Any) -> None:
    with registry() as found:
        assert client.login("me", "secret", registry=f"http://{found.address}")["Status"] == "Login Succeeded"
        name = f"{found.address}/story"
        client.images.get("busybox").tag(name, "1")
        assert "digest: sha256:" in client.images.push(name, tag="1")
        client.images.remove(f"{name}:1")
        there = client.images.get_registry_data(f"{name}:1")
        there.reload()
        assert there.id.startswith(there.short_id)
        assert there.has_platform("linux/amd64")
        assert f"{name}@{there.id}" in there.pull().attrs["RepoDigests"]
        client.images.remove(f"{name}@{there.id}")
        assert f"{name}:1" in client.images.pull(name, tag="1").tags
        client.images.remove(f"{name}:1")
        with pytest.raises(NotImplementedError):  # docker-py's own: there is `pull`
            client.images.create()
        with pytest.raises(APIError, match="has no search"):
            client.images.search(f"{found.address}/busybox")


def volumes(client: Any) -> None:
    volume = client.volumes.create("story", labels={"story": "volumes"})
    assert (volume.name, volume.id, volume.short_id) == ("story", "story", "story")
    volume.reload()
    assert client.volumes.get("story").attrs["Labels"] == {"story": "volumes"}
    assert client.volumes.list(filters={"label": "story"}) == [client.volumes.prepare_model(volume.attrs)]
    volume.remove()
    client.volumes.create("story", labels={"story": "volumes"})
    assert client.volumes.prune({"label": ["story"], "all": True})["VolumesDeleted"] == ["story"]


def networks(client: Any) -> None:
    bridge = client.networks.get("bridge")
    assert (bridge.name, bridge.id.startswith(bridge.short_id)) == ("bridge", True)
    box = client.containers.run("busybox", ["sleep", "600"], detach=True, labels={"story": "net"})
    bridge.reload()
    assert bridge.containers == [box]
    assert bridge in client.networks.list(names=["bridge"])
    assert client.networks.prepare_model(bridge.attrs) == bridge
    assert not client.networks.prune().get("NetworksDeleted")
    for refused in (
        lambda: client.networks.create("mine"),
        lambda: bridge.connect(box),
        lambda: bridge.disconnect(box),
        lambda: bridge.remove(),
    ):
        with pytest.raises(APIError) as caught:
            refused()
        assert caught.value.status_code in (403, 501)
