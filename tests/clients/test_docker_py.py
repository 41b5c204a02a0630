"""docker-py: what the CLI hides (objects, generators, sockets, errors by class)."""

import contextlib
import io
import socket
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network]


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[Any]:
    made = docker.DockerClient(base_url=engine.host, version="auto", timeout=60)
    yield made
    made.close()


@pytest.fixture
def sleeper(client: Any) -> Iterator[Any]:
    container = client.containers.run("busybox", ["sleep", "600"], detach=True)
    yield container
    with contextlib.suppress(NotFound):
        container.remove(force=True)


def test_run_gives_the_output(client: Any) -> None:
    assert client.containers.run("busybox", "echo hello", remove=True) == b"hello\n"
    assert client.containers.run("busybox", ["sh", "-c", "echo e >&2"], remove=True, stderr=True) == b"e\n"


def test_run_raises_what_failed(client: Any) -> None:
    with pytest.raises(ContainerError) as caught:
        client.containers.run("busybox", ["sh", "-c", "echo why >&2; exit 3"], remove=True)
    assert caught.value.exit_status == 3
    with pytest.raises(APIError) as refused:
        client.containers.run("busybox", ["no-such-program"], remove=True)
    assert refused.value.status_code == 400
    assert "executable file not found" in refused.value.explanation


def test_lookups_raise_by_class(client: Any) -> None:
    with pytest.raises(NotFound):
        client.containers.get("nobody")
    with pytest.raises(ImageNotFound):
        client.images.get("nothing")
    with pytest.raises(NotFound):
        client.volumes.get("nowhere")


def test_attributes_and_reload(client: Any, sleeper: Any) -> None:
    sleeper.reload()
    assert sleeper.status == "running"
    assert sleeper.image.tags == ["busybox:latest"]
    assert client.containers.get(sleeper.short_id).id == sleeper.id
    sleeper.rename("renamed")
    sleeper.reload()
    assert sleeper.name == "renamed"
    sleeper.pause()
    sleeper.reload()
    assert sleeper.status == "paused"
    sleeper.unpause()
    sleeper.kill("SIGKILL")
    assert sleeper.wait(timeout=20)["StatusCode"] == 137


def test_wait_conditions(client: Any) -> None:
    container = client.containers.create("busybox", ["sh", "-c", "exit 5"])
    assert container.wait(condition="not-running", timeout=10)["StatusCode"] == 0  # it has never run
    container.start()
    assert container.wait(timeout=20)["StatusCode"] == 5
    container.remove()
    removed = client.containers.run("busybox", ["sh", "-c", "exit 6"], detach=True, auto_remove=True)
    with contextlib.suppress(NotFound):  # it may be gone before the request arrives
        assert removed.wait(condition="removed", timeout=20)["StatusCode"] == 6


def test_exec_run(sleeper: Any) -> None:
    code, out = sleeper.exec_run(["sh", "-c", "echo in; exit 4"])
    assert (code, out) == (4, b"in\n")
    code, (out, err) = sleeper.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True)
    assert (code, out, err) == (0, b"o\n", b"e\n")
    code, stream = sleeper.exec_run(["sh", "-c", "for i in 1 2 3; do echo $i; done"], stream=True)
    assert b"".join(stream) == b"1\n2\n3\n"
    assert sleeper.exec_run("env", environment={"K": "v"}).output.decode().count("K=v") == 1


def test_exec_socket_with_half_close(client: Any, sleeper: Any) -> None:
    made = client.api.exec_create(sleeper.id, ["cat"], stdin=True)
    wrapped = client.api.exec_start(made["Id"], socket=True)
    raw: socket.socket = wrapped._sock
    raw.sendall(b"through and back")
    raw.shutdown(socket.SHUT_WR)
    received = b""
    while data := raw.recv(4096):
        received += data
    wrapped.close()
    assert received[8:] == b"through and back"
    assert client.api.exec_inspect(made["Id"])["ExitCode"] == 0


def test_attach_socket(client: Any) -> None:
    container = client.containers.create("busybox", ["sh", "-c", "read x; echo got $x"], stdin_open=True)
    wrapped = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    container.start()
    raw: socket.socket = wrapped._sock
    raw.sendall(b"words\n")
    received = b""
    while data := raw.recv(4096):
        received += data
    wrapped.close()
    assert received[8:] == b"got words\n"
    container.remove(force=True)


def test_logs_as_a_generator(client: Any) -> None:
    container = client.containers.run(
        "busybox", ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.05; done"], detach=True
    )
    assert b"".join(container.logs(stream=True, follow=True)) == b"1\n2\n3\n"
    assert container.logs(tail=1) == b"3\n"
    assert container.logs(stdout=False, stderr=True) == b""
    container.remove(force=True)


def test_top_and_stats_of_names(sleeper: Any) -> None:
    found = sleeper.top()
    assert found["Titles"][:2] == ["UID", "PID"]
    assert found["Processes"][0][-1] == "sleep 600"


def test_events_with_filters(client: Any, sleeper: Any) -> None:
    now = int(time.time())
    filters = {"container": sleeper.id}
    heard = list(client.events(since=now - 30, until=now + 1, decode=True, filters=filters))
    assert [event["Action"] for event in heard][:2] == ["create", "start"]
    assert heard[0]["Actor"]["Attributes"]["image"] == "busybox"


def test_images(client: Any) -> None:
    image = client.images.get("layers")
    assert len(image.attrs["RootFS"]["Layers"]) == 13
    assert image.tag("other/name", "2")
    assert "other/name:2" in client.images.get("layers").tags
    client.images.remove("other/name:2")
    assert {"busybox:latest"} <= {tag for found in client.images.list() for tag in found.tags}
    assert len(image.history()) == 13


def test_import_and_load(client: Any, engine: Engine) -> None:
    tree = io.BytesIO()
    with tarfile.open(fileobj=tree, mode="w") as tar:
        info = tarfile.TarInfo("hello")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"hi\n"))
    client.api.import_image_from_data(tree.getvalue(), repository="made/by", tag="hand")
    assert client.images.get("made/by:hand").tags == ["made/by:hand"]
    client.images.remove("made/by:hand")


def test_volumes(client: Any) -> None:
    volume = client.volumes.create("pyvol", labels={"x": "y"})
    assert client.volumes.get("pyvol").attrs["Labels"] == {"x": "y"}
    assert (
        client.containers.run(
            "busybox", ["sh", "-c", "echo 1 > /v/f; cat /v/f"], volumes={"pyvol": {"bind": "/v"}}, remove=True
        )
        == b"1\n"
    )
    assert [v.name for v in client.volumes.list(filters={"label": "x=y"})] == ["pyvol"]
    volume.remove()


def test_host_config_comes_back(client: Any) -> None:
    container = client.containers.create(
        "busybox", "true", mem_limit="64m", cpu_shares=300, pids_limit=50, cap_add=["NET_ADMIN"], dns=["9.9.9.9"],
        environment={"A": "b"}, labels={"l": "m"}, restart_policy={"Name": "on-failure", "MaximumRetryCount": 4},
        tmpfs={"/t": "size=1m"}, ulimits=[docker.types.Ulimit(name="nofile", soft=100, hard=200)], ports={"80/tcp": None},
    )  # fmt: skip
    found = container.attrs["HostConfig"]
    assert (found["Memory"], found["CpuShares"], found["PidsLimit"]) == (64 << 20, 300, 50)
    assert found["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 4}
    assert (found["CapAdd"], found["Dns"], found["Tmpfs"]) in (
        (["NET_ADMIN"], ["9.9.9.9"], {"/t": "size=1m"}),
        (["CAP_NET_ADMIN"], ["9.9.9.9"], {"/t": "size=1m"}),
    )
    assert found["Ulimits"] == [{"Name": "nofile", "Soft": 100, "Hard": 200}]
    assert container.attrs["Config"]["Labels"]["l"] == "m"
    container.remove()


def test_networks(client: Any) -> None:
    assert {"bridge", "host", "none"} <= {network.name for network in client.networks.list()}
    assert client.networks.get("bridge").attrs["Driver"] == "bridge"


def test_info_version_ping(client: Any) -> None:
    assert client.ping() is True
    assert client.info()["OSType"] == "linux"
    assert client.version()["ApiVersion"]


def test_many_at_once(client: Any, engine: Engine) -> None:
    made = [client.containers.run("busybox", ["sh", "-c", f"echo {i}; exit {i}"], detach=True) for i in range(10)]
    assert [c.wait(timeout=30)["StatusCode"] for c in made] == list(range(10))
    assert [c.logs() for c in made] == [f"{i}\n".encode() for i in range(10)]
    for container in made:
        container.remove()
    ids = {container.id for container in made}
    wait_for(lambda: not [c for c in client.api.containers(all=True) if c["Id"] in ids], "all are removed")
