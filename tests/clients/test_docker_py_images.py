"""docker-py on images: commit, diff, export, save, load, prune, history; and the events that go with them."""

import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from docker.errors import APIError, ImageNotFound
from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.network]


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[Any]:
    made = docker.DockerClient(base_url=engine.host, version="auto", timeout=60)
    yield made
    made.close()


@pytest.fixture
def changed(client: Any) -> Iterator[Any]:
    container = client.containers.run("busybox", ["sh", "-c", "echo 1 > /one; rm /data/seed"], detach=True)
    container.wait()
    yield container
    container.remove()


def test_diff(changed: Any) -> None:
    found = {(change["Path"], change["Kind"]) for change in changed.diff()}
    assert found == {("/one", 1), ("/data", 0), ("/data/seed", 2)}


def test_diff_of_nothing(client: Any) -> None:
    container = client.containers.create("busybox", "true")
    assert not container.diff()
    container.remove()


def test_commit(client: Any, changed: Any) -> None:
    image = changed.commit("made", "1", message="why", author="who", changes=["ENV A=1", "WORKDIR /tmp"])
    assert image.tags == ["made:1"]
    assert (image.attrs["Comment"], image.attrs["Author"]) == ("why", "who")
    assert client.containers.run(image, ["sh", "-c", "pwd; echo $A; cat /one"], remove=True) == b"/tmp\n1\n1\n"
    assert image.history()[0]["Id"] == image.id
    client.images.remove("made:1")


def test_commit_with_a_configuration_of_its_own(client: Any, changed: Any) -> None:
    image = changed.commit("made", "2", conf={"Cmd": ["cat", "/one"], "Env": ["B=2"], "User": "1"})
    config = image.attrs["Config"]
    assert (config["Cmd"], config["User"]) == (["cat", "/one"], "1")
    assert config["Env"][0] == "B=2" and any(entry.startswith("PATH=") for entry in config["Env"])
    assert client.containers.run(image, remove=True) == b"1\n"
    client.images.remove("made:2")


def test_export(changed: Any) -> None:
    data = b"".join(changed.export())
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
    assert "one" in names and "data/seed" not in names and "bin/busybox" in names


def test_save_and_load(client: Any) -> None:
    image = client.images.get("layers")
    data = b"".join(image.save(named=True))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        listed = json.load(tar.extractfile("manifest.json") or io.BytesIO())
    assert listed[0]["RepoTags"] == ["layers:latest"]
    unnamed = b"".join(image.save())
    with tarfile.open(fileobj=io.BytesIO(unnamed)) as tar:
        assert json.load(tar.extractfile("manifest.json") or io.BytesIO())[0]["RepoTags"] is None
    client.images.remove("layers")
    with pytest.raises(ImageNotFound):
        client.images.get("layers")
    (again,) = client.images.load(data)
    assert (again.id, again.tags) == (image.id, ["layers:latest"])


def test_prune(client: Any, changed: Any) -> None:
    image = changed.commit()
    assert image.tags == []
    assert client.images.prune({"dangling": False, "label": ["none=such"]}) == {
        "ImagesDeleted": None, "SpaceReclaimed": 0
    }  # fmt: skip
    answer = client.images.prune({"dangling": True})
    assert {"Deleted": image.id} in answer["ImagesDeleted"]
    assert answer["SpaceReclaimed"] == 2
    with pytest.raises(APIError) as caught:
        client.images.prune({"colour": "blue"})
    assert caught.value.status_code == 400


def test_events_of_images(client: Any, changed: Any) -> None:
    events = client.events(decode=True, filters={"type": ["image", "container"]})
    try:
        image = changed.commit("evented", "1", message="m")
        b"".join(image.save())
        b"".join(changed.export())
        client.images.remove("evented:1")
        client.images.prune()
        seen = []
        for event in events:
            seen.append((event["Type"], event["Action"], event["Actor"]["Attributes"]))
            if event["Action"] == "prune":
                break
    finally:
        events.close()
    assert [(kind, action) for kind, action, _ in seen] == [
        ("image", "create"), ("image", "tag"), ("container", "commit"), ("image", "save"), ("container", "export"),
        ("image", "untag"), ("image", "delete"), ("image", "prune"),
    ]  # fmt: skip
    committed = seen[2][2]
    assert (committed["comment"], committed["imageID"], committed["imageRef"]) == ("m", image.id, "evented:1")
    assert seen[-1][2] == {"reclaimed": "0"}
