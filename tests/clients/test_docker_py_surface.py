"""Every public method of docker-py's APIClient: called here, or named with the reason why not.

A new docker-py that brings a method fails `test_every_method_is_accounted_for` until somebody has decided about it.
"""

import contextlib
import inspect
import io
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from docker.errors import APIError
from support import images, web
from support.engine import Engine
from support.registries import PASSWORD, USER, registry

pytestmark = [pytest.mark.root, pytest.mark.network]

SWARM = "swarm: an engine outside a swarm answers 503"
NETWORKS = "networks of one's own come later: 501"
PLUGINS = "there are no managed plugins: 404, 501"

# Methods that are not served: the reason, and how one is called to see it refused (None: it makes no request).
OUT_OF_SCOPE: dict[str, tuple[str, Callable[[Any], Any] | None]] = {
    "reload_config": ("of the client alone: it reads credentials of registries", None),
    "create_network": (NETWORKS, lambda c: c.create_network("mine")),
    "connect_container_to_network": (NETWORKS, lambda c: c.connect_container_to_network("box", "bridge")),
    "disconnect_container_from_network": (NETWORKS, lambda c: c.disconnect_container_from_network("box", "bridge")),
    "remove_network": ("the predefined networks cannot be removed: 403", lambda c: c.remove_network("bridge")),
    "plugin_privileges": (PLUGINS, lambda c: c.plugin_privileges("p")),
    "pull_plugin": (PLUGINS, lambda c: list(c.pull_plugin("p", []))),
    "create_plugin": ("the client's own way needs a directory of a plugin; its endpoint answers 501", None),
    "configure_plugin": (PLUGINS, lambda c: c.configure_plugin("p", {})),
    "disable_plugin": (PLUGINS, lambda c: c.disable_plugin("p")),
    "enable_plugin": (PLUGINS, lambda c: c.enable_plugin("p")),
    "inspect_plugin": (PLUGINS, lambda c: c.inspect_plugin("p")),
    "push_plugin": ("docker-py asks for a path that is not in the API: 405", lambda c: c.push_plugin("p")),
    "remove_plugin": (PLUGINS, lambda c: c.remove_plugin("p")),
    "upgrade_plugin": (PLUGINS, lambda c: list(c.upgrade_plugin("p", "q", []))),
    "create_swarm_spec": ("of the client alone", None),
    "init_swarm": (SWARM, lambda c: c.init_swarm()),
    "join_swarm": (SWARM, lambda c: c.join_swarm(["localhost:1"], "token")),
    "leave_swarm": (SWARM, lambda c: c.leave_swarm()),
    "inspect_swarm": (SWARM, lambda c: c.inspect_swarm()),
    "update_swarm": (SWARM, lambda c: c.update_swarm(1)),
    "get_unlock_key": (SWARM, lambda c: c.get_unlock_key()),
    "unlock_swarm": (SWARM, lambda c: c.unlock_swarm("SWMKEY-1-x")),
    "nodes": (SWARM, lambda c: c.nodes()),
    "inspect_node": (SWARM, lambda c: c.inspect_node("n")),
    "remove_node": (SWARM, lambda c: c.remove_node("n")),
    "update_node": (SWARM, lambda c: c.update_node("n", 1, {})),
    "services": (SWARM, lambda c: c.services()),
    "create_service": (SWARM, lambda c: c.create_service(docker.types.TaskTemplate(docker.types.ContainerSpec("busybox")))),
    "inspect_service": (SWARM, lambda c: c.inspect_service("s")),
    "remove_service": (SWARM, lambda c: c.remove_service("s")),
    "service_logs": (SWARM, lambda c: b"".join(c.service_logs("s"))),
    "update_service": (SWARM, lambda c: c.update_service("s", 1)),
    "tasks": (SWARM, lambda c: c.tasks()),
    "inspect_task": (SWARM, lambda c: c.inspect_task("t")),
    "configs": (SWARM, lambda c: c.configs()),
    "create_config": (SWARM, lambda c: c.create_config("n", b"x")),
    "inspect_config": (SWARM, lambda c: c.inspect_config("x")),
    "remove_config": (SWARM, lambda c: c.remove_config("x")),
    "secrets": (SWARM, lambda c: c.secrets()),
    "create_secret": (SWARM, lambda c: c.create_secret("n", b"x")),
    "inspect_secret": (SWARM, lambda c: c.inspect_secret("x")),
    "remove_secret": (SWARM, lambda c: c.remove_secret("x")),
}  # fmt: skip


def public_methods() -> set[str]:
    """APIClient's own methods, without those of the HTTP session that it is."""
    session = {name for name, _ in inspect.getmembers(requests.Session)}
    found = inspect.getmembers(docker.APIClient, inspect.isfunction)
    return {name for name, _ in found if not name.startswith("_")} - session


def tree(name: str = "hello", content: bytes = b"hi\n") -> bytes:
    """A tar archive with one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def names(archive: bytes) -> list[str]:
    """What a tar archive holds."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return [name.removeprefix("./") for name in tar.getnames()]


class Calls:
    """One method for each of docker-py's; each makes what it needs and looks at what came back."""

    def __init__(self, client: Any, directory: Path) -> None:
        self.c, self.directory = client, directory

    def made(self, command: list[str], start: bool = True, **options: Any) -> str:
        """A container of our own; `sweep` removes it."""
        made: str = self.c.create_container("busybox", command, labels={"surface": "1"}, **options)["Id"]
        if start:
            self.c.start(made)
        return made

    def sweep(self) -> None:
        for found in self.c.containers(all=True, filters={"label": "surface"}):
            self.c.remove_container(found["Id"], force=True, v=True)

    def ended(self, command: list[str], **options: Any) -> str:
        made = self.made(command, **options)
        self.c.wait(made, timeout=30)
        return made

    # --- containers -----------------------------------------------------------------------------------------------

    def attach(self) -> None:
        made = self.ended(["echo", "out"])
        assert self.c.attach(made, logs=True) == b"out\n"

    def attach_socket(self) -> None:
        made = self.made(["sh", "-c", "read x; echo got $x"], start=False, stdin_open=True)
        stream = self.c.attach_socket(made, {"stdin": 1, "stdout": 1, "stream": 1})
        self.c.start(made)
        stream._sock.sendall(b"it\n")
        received = b""
        while data := stream._sock.recv(4096):
            received += data
        stream.close()
        assert received[8:] == b"got it\n"

    def containers(self) -> None:
        made = self.made(["sleep", "600"])
        assert made in {found["Id"] for found in self.c.containers(quiet=True)}
        (found,) = self.c.containers(all=True, size=True, limit=1, filters={"id": made})
        assert found["State"] == "running" and "SizeRw" in found

    def create_container(self) -> None:
        made = self.made(["true"], start=False, name="surface-named", environment={"A": "b"}, working_dir="/tmp")
        assert self.c.inspect_container(made)["Config"]["Env"][0] == "A=b"

    def create_container_config(self) -> None:
        config = self.c.create_container_config("busybox", ["true"], labels={"surface": "1"})
        assert config["Image"] == "busybox"

    def create_container_from_config(self) -> None:
        config = self.c.create_container_config("busybox", ["true"], labels={"surface": "1"})
        assert self.c.create_container_from_config(config, "surface-config")["Id"]

    def create_host_config(self) -> None:
        host = self.c.create_host_config(binds=["/etc/hostname:/h:ro"], mem_limit="64m", network_mode="none")
        made = self.ended(["cat", "/h"], host_config=host)
        assert self.c.logs(made) == Path("/etc/hostname").read_bytes()

    def create_networking_config(self) -> None:
        networking = self.c.create_networking_config({"bridge": self.c.create_endpoint_config()})
        made = self.made(["true"], start=False, networking_config=networking)
        assert list(self.c.inspect_container(made)["NetworkSettings"]["Networks"]) == ["bridge"]

    def create_endpoint_config(self) -> None:
        assert self.c.create_endpoint_config(aliases=["x"]) == {"Aliases": ["x"]}

    def diff(self) -> None:
        made = self.ended(["touch", "/new"])
        assert {"Path": "/new", "Kind": 1} in self.c.diff(made)

    def export(self) -> None:
        made = self.made(["true"], start=False)
        assert "bin/busybox" in names(b"".join(self.c.export(made)))

    def get_archive(self) -> None:
        made = self.made(["true"], start=False)
        stream, status = self.c.get_archive(made, "/etc/passwd")
        assert (status["name"], names(b"".join(stream))) == ("passwd", ["passwd"])

    def put_archive(self) -> None:
        made = self.made(["cat", "/tmp/hello"], start=False)
        assert self.c.put_archive(made, "/tmp", tree()) is True
        self.c.start(made)
        self.c.wait(made, timeout=30)
        assert self.c.logs(made) == b"hi\n"

    def inspect_container(self) -> None:
        assert self.c.inspect_container(self.made(["true"], start=False))["State"]["Status"] == "created"

    def kill(self) -> None:
        made = self.made(["sleep", "600"])
        self.c.kill(made, "SIGKILL")
        assert self.c.wait(made, timeout=30)["StatusCode"] == 137

    def logs(self) -> None:
        made = self.ended(["sh", "-c", "echo e >&2; echo 1; echo 2"])
        assert self.c.logs(made, stderr=False) == b"1\n2\n"
        assert b"".join(self.c.logs(made, stream=True, follow=True, stdout=False)) == b"e\n"
        assert self.c.logs(made, stderr=False, tail=1, timestamps=True)[-3:] == b" 2\n"
        assert self.c.logs(made, since=int(time.time()) + 60) == b""

    def pause(self) -> None:
        made = self.made(["sleep", "600"])
        self.c.pause(made)
        assert self.c.inspect_container(made)["State"]["Paused"]
        self.c.unpause(made)
        assert not self.c.inspect_container(made)["State"]["Paused"]

    unpause = pause

    def port(self) -> None:
        host = self.c.create_host_config(port_bindings={80: ("127.0.0.1", None)})
        made = self.made(["sleep", "600"], ports=[80], host_config=host)
        assert self.c.port(made, 80)[0]["HostIp"] == "127.0.0.1"

    def prune_containers(self) -> None:
        made = self.ended(["true"])
        assert made in self.c.prune_containers({"label": "surface"})["ContainersDeleted"]

    def remove_container(self) -> None:
        made = self.made(["sleep", "600"])
        self.c.remove_container(made, force=True, v=True)
        assert not self.c.containers(all=True, filters={"id": made})

    def rename(self) -> None:
        made = self.made(["true"], start=False)
        self.c.rename(made, "surface-renamed")
        assert self.c.inspect_container("surface-renamed")["Id"] == made

    def resize(self) -> None:
        made = self.made(["sh", "-c", "read x; stty size"], tty=True, stdin_open=True)
        self.c.resize(made, height=31, width=97)
        stream = self.c.attach_socket(made, {"stdin": 1, "stream": 1})
        stream._sock.sendall(b"\n")
        self.c.wait(made, timeout=30)
        stream.close()
        assert b"31 97" in self.c.logs(made)

    def restart(self) -> None:
        made = self.made(["sleep", "600"])
        before = self.c.inspect_container(made)["State"]["StartedAt"]
        self.c.restart(made, timeout=0)
        assert self.c.inspect_container(made)["State"]["StartedAt"] > before

    def start(self) -> None:
        made = self.made(["sleep", "600"], start=False)
        self.c.start(made)
        self.c.start(made)  # 304 is no error
        assert self.c.inspect_container(made)["State"]["Running"]

    def stats(self) -> None:
        made = self.made(["sleep", "600"])
        assert self.c.stats(made, stream=False)["pids_stats"]["current"] == 1
        stream = self.c.stats(made, decode=True)
        assert next(stream)["id"] == made
        stream.close()

    def stop(self) -> None:
        made = self.made(["sh", "-c", "trap 'exit 4' TERM; echo up; while :; do sleep 0.01; done"])
        next(self.c.logs(made, stream=True, follow=True))
        self.c.stop(made, timeout=30)
        assert self.c.inspect_container(made)["State"]["ExitCode"] == 4

    def top(self) -> None:
        made = self.made(["sleep", "600"])
        assert self.c.top(made)["Processes"][0][-1] == "sleep 600"
        assert "RSS" in self.c.top(made, "aux")["Titles"]

    def update_container(self) -> None:
        made = self.made(["sleep", "600"])
        self.c.update_container(
            made, mem_limit="96m", memswap_limit="96m", restart_policy={"Name": "on-failure", "MaximumRetryCount": 2}
        )
        found = self.c.inspect_container(made)["HostConfig"]
        assert (found["Memory"], found["RestartPolicy"]["MaximumRetryCount"]) == (96 << 20, 2)

    def wait(self) -> None:
        assert self.c.wait(self.made(["sh", "-c", "exit 9"]), timeout=30, condition="not-running")["StatusCode"] == 9

    def commit(self) -> None:
        made = self.ended(["touch", "/committed"])
        image = self.c.commit(
            made, "surface/committed", tag="1", author="me", message="m", changes=["CMD ls /committed"]
        )
        assert self.c.inspect_image(image["Id"])["Config"]["Cmd"][-1].endswith("ls /committed")
        self.c.remove_image("surface/committed:1")

    # --- exec -----------------------------------------------------------------------------------------------------

    def exec_create(self) -> None:
        made = self.made(["sleep", "600"])
        exec_id = self.c.exec_create(made, ["sh", "-c", "echo $A $PWD; exit 6"], environment={"A": "b"}, workdir="/tmp")
        assert self.c.exec_start(exec_id) == b"b /tmp\n"
        assert self.c.exec_inspect(exec_id)["ExitCode"] == 6

    exec_start = exec_inspect = exec_create

    def exec_resize(self) -> None:
        made = self.made(["sleep", "600"])
        exec_id = self.c.exec_create(made, ["sh", "-c", "read x; stty size"], tty=True, stdin=True)
        stream = self.c.exec_start(exec_id, tty=True, socket=True)
        self.c.exec_resize(exec_id, height=22, width=66)
        stream._sock.sendall(b"\n")
        received = b""
        while data := stream._sock.recv(4096):
            received += data
        stream.close()
        assert b"22 66" in received

    # --- images ---------------------------------------------------------------------------------------------------

    def get_image(self) -> None:
        assert "manifest.json" in names(b"".join(self.c.get_image("busybox")))

    def history(self) -> None:
        assert len(self.c.history("layers")) == 13

    def images(self) -> None:
        assert any("busybox:latest" in found["RepoTags"] for found in self.c.images())
        assert len(self.c.images("busybox", quiet=True)) == 1

    def pull(self) -> None:
        with registry(password=True) as found:
            name = found.name("surface/pulled")
            who = {"username": USER, "password": PASSWORD}
            assert self.c.login(USER, password=PASSWORD, registry=found.address)["Status"] == "Login Succeeded"
            with pytest.raises(APIError, match="401 Unauthorized"):
                self.c.login(USER, password="no", registry=found.address, reauth=True)
            self.c.tag("busybox", name, "1")
            said = list(self.c.push(name, tag="1", stream=True, decode=True, auth_config=who))
            digest = said[-1]["aux"]["Digest"]
            assert self.c.inspect_distribution(f"{name}:1", auth_config=who)["Descriptor"]["digest"] == digest
            self.c.remove_image(f"{name}:1")
            assert digest in self.c.pull(name, tag="1", auth_config=who)
            self.c.remove_image(f"{name}:1")
            said = list(self.c.pull(f"{name}@{digest}", stream=True, decode=True, auth_config=who))
            assert said[-1]["status"].startswith("Status: ")
            self.c.remove_image(f"{name}@{digest}")
            with pytest.raises(APIError, match="no basic auth credentials"):
                self.c.import_image_from_image(name, tag="1")  # a pull by its old name, and by nobody

    push = login = inspect_distribution = import_image_from_image = pull

    def search(self) -> None:
        with registry() as found, pytest.raises(APIError, match="has no search") as caught:
            self.c.search(f"{found.address}/busybox")
        assert caught.value.status_code == 501

    def import_image(self) -> None:
        (self.directory / "i.tar").write_bytes(tree())
        self.c.import_image(str(self.directory / "i.tar"), repository="surface/i", tag="1")
        self.c.remove_image("surface/i:1")

    def import_image_from_data(self) -> None:
        self.c.import_image_from_data(tree(), repository="surface/d", tag="1", changes=["CMD x"])
        assert self.c.inspect_image("surface/d:1")["Config"]["Cmd"]
        self.c.remove_image("surface/d:1")

    def import_image_from_file(self) -> None:
        (self.directory / "f.tar").write_bytes(tree())
        self.c.import_image_from_file(str(self.directory / "f.tar"), repository="surface/f", tag="1")
        self.c.remove_image("surface/f:1")

    def import_image_from_url(self) -> None:
        (self.directory / "u.tar").write_bytes(tree())
        with web.served(self.directory) as url:
            said = self.c.import_image_from_url(f"{url}/u.tar", repository="surface/u", tag="1", changes=["CMD x"])
        assert f"Downloading from {url}/u.tar" in said and "Importing" in said
        assert self.c.inspect_image("surface/u:1")["Comment"] == f"Imported from {url}/u.tar"
        self.c.remove_image("surface/u:1")

    def import_image_from_stream(self) -> None:
        self.c.import_image_from_stream(iter([tree()]), repository="surface/s", tag="1")
        self.c.remove_image("surface/s:1")

    def inspect_image(self) -> None:
        assert self.c.inspect_image("busybox")["Os"] == "linux"

    def load_image(self) -> None:
        archive = images.archive(self.directory / "l.tar", [("surface/l:1", [images.layer([("f", b"x")])], {})])
        with archive.open("rb") as file:
            said = list(self.c.load_image(file))
        assert "Loaded image: surface/l:1\n" in [line.get("stream") for line in said]
        self.c.remove_image("surface/l:1")

    def prune_images(self) -> None:
        assert self.c.prune_images({"dangling": True})["SpaceReclaimed"] >= 0

    def tag(self) -> None:
        assert self.c.tag("busybox", "surface/t", "2") is True
        assert self.c.remove_image("surface/t:2", noprune=True) == [{"Untagged": "surface/t:2"}]

    remove_image = tag

    # --- volumes --------------------------------------------------------------------------------------------------

    def create_volume(self) -> None:
        self.c.create_volume("surface", labels={"a": "b"})
        assert self.c.inspect_volume("surface")["Labels"] == {"a": "b"}
        assert [v["Name"] for v in self.c.volumes({"label": "a=b"})["Volumes"]] == ["surface"]
        self.c.remove_volume("surface", force=True)

    inspect_volume = volumes = remove_volume = create_volume

    def prune_volumes(self) -> None:
        self.c.create_volume("surface", labels={"surface": "1"})
        assert self.c.prune_volumes({"label": ["surface"], "all": ["true"]})["VolumesDeleted"] == ["surface"]

    # --- networks, the engine -------------------------------------------------------------------------------------

    def networks(self) -> None:
        assert {"bridge", "host", "none"} == {found["Name"] for found in self.c.networks()}
        assert [found["Name"] for found in self.c.networks(names=["bridge"])] == ["bridge"]

    def inspect_network(self) -> None:
        assert self.c.inspect_network("bridge", verbose=True)["Driver"] == "bridge"

    def build(self) -> None:
        said = list(self.c.build(fileobj=io.BytesIO(b"FROM busybox\nENV A=1\n"), tag="surface:built", decode=True))
        assert said[-1] == {"stream": "Successfully tagged surface:built\n"}
        self.c.remove_image("surface:built")

    def prune_builds(self) -> None:
        assert self.c.prune_builds()["SpaceReclaimed"] == 0

    def prune_networks(self) -> None:
        assert not self.c.prune_networks().get("NetworksDeleted")
        assert len(self.c.networks()) == 3

    def plugins(self) -> None:
        assert self.c.plugins() == []

    def df(self) -> None:
        assert self.c.df()["LayersSize"] > 0

    def events(self) -> None:
        heard = self.c.events(decode=True, filters={"event": "create", "label": "surface"})
        threading.Thread(target=self.made, args=(["true"],), kwargs={"start": False}).start()
        assert next(heard)["Action"] == "create"
        heard.close()

    def info(self) -> None:
        assert self.c.info()["OSType"] == "linux"

    def ping(self) -> None:
        assert self.c.ping() is True

    def version(self) -> None:
        assert self.c.version(api_version=False)["Os"] == "linux"


CALLED = {name for name, _ in inspect.getmembers(Calls, inspect.isfunction) if not name.startswith("_")} - {
    "made", "sweep", "ended",
}  # fmt: skip


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[Any]:
    made = docker.APIClient(base_url=engine.host, version="auto", timeout=60)
    yield made
    made.close()


def test_every_method_is_accounted_for() -> None:
    assert CALLED | set(OUT_OF_SCOPE) == public_methods()
    assert not CALLED & set(OUT_OF_SCOPE)


@pytest.mark.parametrize("name", sorted(CALLED))
def test_method(client: Any, tmp_path: Path, name: str) -> None:
    calls = Calls(client, tmp_path)
    try:
        getattr(calls, name)()
    finally:
        calls.sweep()


@pytest.mark.parametrize("name", sorted(name for name, (_, call) in OUT_OF_SCOPE.items() if call))
def test_what_is_out_of_scope_is_refused_and_changes_nothing(client: Any, name: str) -> None:
    reason, call = OUT_OF_SCOPE[name]
    assert call
    before = (client.images(), client.networks(), client.volumes(), client.containers(all=True, quiet=True))
    with pytest.raises(APIError) as caught:
        call(client)
    assert caught.value.status_code in (403, 404, 405, 501, 503), reason
    assert caught.value.explanation
    with contextlib.suppress(KeyError):
        before[2].pop("Warnings")
    after = (client.images(), client.networks(), client.volumes(), client.containers(all=True, quiet=True))
    assert [before[0], before[1], before[3]] == [after[0], after[1], after[3]]
