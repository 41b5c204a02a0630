"""Volumes through the docker CLI and docker-py: subpaths, file systems of their own, and drivers that are plugins."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network]

PROGRAM = Path(__file__).parents[1] / "support" / "volume_plugin.py"
SOCKETS = Path("/run/docker/plugins")


def mounted(engine: Engine) -> list[str]:
    """Mount points of the host below the engine's volumes."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if f"{engine.data_root}/volumes/" in line]


def tmpfs(engine: Engine, name: str, options: str = "size=1m") -> str:
    flags = ("--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", f"o={options}")
    return engine.ok("volume", "create", "--driver", "local", *flags, name)


def removed(engine: Engine, *containers: str, volume: str = "") -> None:
    engine.ok("rm", "-f", *containers)
    if volume:
        engine.ok("volume", "rm", volume)


# -- subpaths ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(engine: Engine) -> Iterator[Path]:
    """The directory of volume `filled`, which has directories, a file and links in it."""
    engine.ok("volume", "create", "filled")
    script = """mkdir -p /v/a/b /v/d; echo deep > /v/a/b/f; echo file > /v/plain
        ln -s a/b /v/inner; ln -s /etc /v/absolute; ln -s ../../../../etc /v/up; ln -s up /v/chain; ln -s loop /v/loop
        ln -s /proc/self/root /v/magic"""
    engine.ok("run", "--rm", "-v", "filled:/v", "busybox", "sh", "-c", script)
    yield engine.data_root / "volumes" / "filled" / "_data"
    engine.ok("volume", "rm", "filled")


def below(path: str, more: str = "") -> tuple[str, str]:
    return "--mount", f"type=volume,src=filled,dst=/m,volume-subpath={path}{more}"


@pytest.mark.parametrize("path", ["a/b", "a/../a/b/", "./a//b", "inner"])
def test_a_directory_of_a_volume(engine: Engine, filled: Path, path: str) -> None:
    assert engine.ok("run", "--rm", *below(path), "busybox", "sh", "-c", "cat /m/f; ls /m") == "deep\nf"


def test_a_file_of_a_volume_and_read_only(engine: Engine, filled: Path) -> None:
    assert engine.ok("run", "--rm", *below("plain"), "busybox", "cat", "/m") == "file"
    ran = engine.docker("run", "--rm", *below("d", ",readonly"), "busybox", "touch", "/m/x")
    assert ran.code == 1 and "Read-only file system" in ran.err
    engine.ok("run", "--rm", *below("d"), "busybox", "touch", "/m/made")
    assert "made" in os.listdir(filled / "d")
    os.unlink(filled / "d" / "made")


@pytest.mark.parametrize("path", ["absolute", "up", "chain", "magic", "magic/etc"])
def test_a_link_does_not_lead_out(engine: Engine, filled: Path, path: str) -> None:
    ran = engine.docker("run", "--rm", *below(path, ",volume-nocopy"), "busybox", "ls", "/m")
    assert ran.code == 125 and "path concatenation escapes the base directory" in ran.err
    assert engine.ok("ps", "-aq", "--filter", "volume=filled", "--filter", "status=created") == ""


def test_a_subpath_that_is_not_there(engine: Engine, filled: Path) -> None:
    ran = engine.docker("run", "--name", "missing", *below("a/nothing"), "busybox", "ls", "/m")
    path = f"{filled}/a/nothing"
    assert ran.code == 127 and f"cannot access path {path}: lstat {path}: no such file or directory" in ran.err
    assert engine.api("POST", "/containers/missing/start").status == 404
    os.mkdir(path)  # it is looked up at each start
    assert engine.ok("start", "-a", "missing") == ""
    engine.ok("rm", "missing")
    os.rmdir(path)
    assert engine.docker("run", "--rm", *below("loop"), "busybox", "ls").code != 0


@pytest.mark.parametrize("path", ["/etc", "..", "a/../../x"])
def test_a_subpath_that_cannot_be(engine: Engine, filled: Path, path: str) -> None:
    ran = engine.docker("create", *below(path), "busybox")
    assert ran.code == 1 and "subpath must be a relative path within the volume" in ran.err


def test_subpaths_are_shown_copied_and_filled(engine: Engine, filled: Path, tmp_path: Path) -> None:
    mount = "type=volume,src=filled,dst=/etc,volume-subpath=d"
    engine.ok("create", "--name", "sub", "--mount", mount, "busybox", "ls", "/etc")
    assert (filled / "d" / "passwd").exists()  # what the image has there, as in a volume of its own
    shown = engine.inspect("sub")
    assert shown["HostConfig"]["Mounts"][0]["VolumeOptions"]["Subpath"] == "d"
    assert shown["Mounts"][0]["Source"] == str(filled)
    (filled / "d" / "mark").write_text("mine")
    engine.ok("cp", "sub:/etc/mark", str(tmp_path / "mark"))
    assert (tmp_path / "mark").read_text() == "mine"
    assert "mark" in engine.ok("start", "-a", "sub").split()
    heir = engine.ok("run", "--rm", "--volumes-from", "sub", "busybox", "ls", "/etc").split()
    assert "mark" in heir
    engine.ok("rm", "sub")
    for entry in (filled / "d").iterdir():
        if entry.is_file():
            entry.unlink()


# -- file systems of their own -----------------------------------------------------------------------------------------


def test_a_tmpfs_is_shared_limited_and_kept_while_used(engine: Engine) -> None:
    tmpfs(engine, "ram", "size=1m,uid=7,nodev")
    assert mounted(engine) == []
    for name in ("one", "two"):
        engine.ok("run", "-d", "--name", name, "-v", "ram:/v", "busybox", "sleep", "600")
    assert len(mounted(engine)) == 1
    engine.ok("exec", "one", "sh", "-c", "echo shared > /v/f")
    assert engine.ok("exec", "two", "sh", "-c", "cat /v/f; stat -c %u /v") == "shared\n7"
    ran = engine.docker("exec", "two", "sh", "-c", "dd if=/dev/zero of=/v/big bs=64k count=32")
    assert ran.code != 0 and "No space left on device" in ran.err
    assert "volume is in use" in engine.docker("volume", "rm", "ram").err
    assert "volume is in use" in engine.docker("volume", "rm", "-f", "ram").err
    engine.ok("rm", "-f", "one")
    assert len(mounted(engine)) == 1 and engine.ok("exec", "two", "cat", "/v/f") == "shared"
    engine.ok("rm", "-f", "two")
    assert mounted(engine) == []
    assert engine.ok("run", "--rm", "-v", "ram:/v", "busybox", "ls", "/v") == ""
    engine.ok("volume", "rm", "ram")


def test_an_engine_that_was_killed(engine: Engine) -> None:
    """A mount in use outlives the engine; one whose last user ended meanwhile goes when it is back."""
    for name in ("held", "left"):
        tmpfs(engine, name)
        engine.ok("run", "-d", "--name", f"in-{name}", "-v", f"{name}:/v", "busybox", "sleep", "600")
        engine.ok("exec", f"in-{name}", "sh", "-c", "echo 1 > /v/f")
    pid = engine.inspect("in-left")["State"]["Pid"]
    engine.kill()
    os.kill(pid, 9)
    engine.start()
    wait_for(lambda: engine.ok("inspect", "-f", "{{.State.Running}}", "in-left") == "false", "the exit is known")
    assert mounted(engine) == [str(engine.data_root / "volumes" / "held" / "_data")]
    assert engine.ok("exec", "in-held", "cat", "/v/f") == "1"
    removed(engine, "in-held", volume="held")
    removed(engine, "in-left", volume="left")
    assert mounted(engine) == []


def test_a_bind_by_options(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("host")
    flags = ("--opt", "type=none", "--opt", f"device={tmp_path}", "--opt", "o=bind,ro")
    engine.ok("volume", "create", *flags, "bound")
    assert engine.ok("run", "--rm", "-v", "bound:/v", "busybox", "cat", "/v/f") == "host"
    assert engine.docker("run", "--rm", "-v", "bound:/v", "busybox", "touch", "/v/g").code == 1
    engine.ok("volume", "rm", "bound")
    assert os.listdir(tmp_path) == ["f"] and mounted(engine) == []


def test_an_empty_directory_that_is_bound_takes_the_images_files(engine: Engine, tmp_path: Path) -> None:
    mount = f'type=volume,src=fill,dst=/etc,volume-opt=type=none,volume-opt=o=bind,"volume-opt=device={tmp_path}"'
    engine.ok("create", "--name", "fills", "--mount", mount, "busybox")
    assert (tmp_path / "passwd").exists() and mounted(engine) == []
    removed(engine, "fills", volume="fill")
    assert (tmp_path / "passwd").exists()


@pytest.mark.parametrize(
    ("options", "device", "kind", "text"),
    [
        ("addr=127.0.0.1,vers=4.2,ro,hard,timeo=50", ":/export", "nfs", "data: addr=127.0.0.1,vers=4.2,hard,timeo=50"),
        ("addr=localhost,nolock", ":/export", "nfs", "data: addr=127.0.0.1,nolock"),
        ("username=u,password=secret,ip=127.0.0.1", "//127.0.0.1/x", "cifs", "username=u,password=********,ip=127.0.0.1"),
        ("addr=no.such.host.invalid", ":/export", "nfs", "error resolving passed in network volume address: lookup"),
        ("size=nonsense", "tmpfs", "tmpfs", "data: size=nonsense: invalid argument"),
    ],
)  # fmt: skip
def test_options_reach_the_kernel_unchanged(engine: Engine, options: str, device: str, kind: str, text: str) -> None:
    """Here no server answers and these options are no good: the error names what mount(2) was given."""
    flags = ("--opt", f"type={kind}", "--opt", f"device={device}", "--opt", f"o={options}")
    engine.ok("volume", "create", *flags, "share")
    ran = engine.docker("run", "--rm", "-v", "share:/v:nocopy", "busybox", "true")
    where = engine.data_root / "volumes" / "share" / "_data"
    assert ran.code == 125 and f"error while mounting volume '{where}': " in ran.err and text in ran.err
    assert "secret" not in ran.err and mounted(engine) == []
    engine.ok("volume", "rm", "share")


# -- names, events, filters --------------------------------------------------------------------------------------------


def test_a_name_that_exists(engine: Engine) -> None:
    made = engine.api("POST", "/volumes/create", {"Name": "twice", "Labels": {"a": "1"}})
    again = engine.api("POST", "/volumes/create", {"Name": "twice", "Driver": "local", "DriverOpts": {"x": "y"}})
    assert made.status == again.status == 201 and made.json == again.json
    update = engine.api("PUT", "/volumes/twice?version=1", {"Spec": {}})
    assert update.status == 503 and "volume update only valid for cluster volumes" in update.message
    cluster = engine.api("POST", "/volumes/create", {"Name": "far", "ClusterVolumeSpec": {"Group": "x"}})
    assert cluster.status == 503
    assert engine.ok("volume", "ls", "-q", "-f", "label=a=1", "-f", "name=twi") == "twice"
    engine.ok("volume", "rm", "twice")


def test_docker_py(engine: Engine) -> None:
    with contextlib.closing(docker.DockerClient(base_url=engine.host, version="auto", timeout=60)) as client:
        volume = client.volumes.create(
            "py", driver="local", driver_opts={"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}, labels={"a": "b"}
        )
        assert volume.id == volume.name == "py" and volume.attrs["Options"]["o"] == "size=1m"
        mount = docker.types.Mount("/v", "py", type="volume", read_only=True)
        assert b"rw" not in client.containers.run("busybox", "grep ' /v tmpfs ro' /proc/mounts", mounts=[mount])
        volume.reload()
        assert "py" in [volume.name for volume in client.volumes.list(filters={"dangling": False})]
        for container in client.containers.list(all=True, filters={"volume": "py"}):
            container.remove()
        volume.remove(force=True)
        with pytest.raises(docker.errors.NotFound):
            volume.reload()
        nameless = client.volumes.create()
        assert nameless.name in client.volumes.prune()["VolumesDeleted"]


# -- plugins -----------------------------------------------------------------------------------------------------------


class Plugin:
    """The plugin process; its name is one that nobody else on this machine has."""

    def __init__(self, engine: Engine) -> None:
        self.name = f"{engine.home.name}-volumes"
        self.home, self.socket = engine.home / "plugin", SOCKETS / f"{self.name}.sock"
        self.home.mkdir()
        self.start()

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        command = [sys.executable, str(PROGRAM), str(self.socket), str(self.home)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout and self.process.stdout.readline() == b"ready\n"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()

    def users(self, volume: str) -> list[str]:
        found: dict[str, Any] = json.loads((self.home / "mounted").read_text())
        return list(found.get(volume) or [])


@pytest.fixture(scope="module")
def plugin(engine: Engine) -> Iterator[Plugin]:
    missing = [directory for directory in (SOCKETS, SOCKETS.parent) if not directory.exists()]
    SOCKETS.mkdir(parents=True, exist_ok=True)
    found = Plugin(engine)
    yield found
    found.stop()
    found.socket.unlink(missing_ok=True)
    for directory in missing:
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def test_a_volume_of_a_plugin(engine: Engine, plugin: Plugin) -> None:
    engine.ok("volume", "create", "-d", plugin.name, "--opt", "size=1", "far")
    assert f"{plugin.name} far" in engine.ok("volume", "ls", "--format", "{{.Driver}} {{.Name}}")
    assert engine.ok("volume", "inspect", "-f", "{{.Scope}} {{.Status.files}}", "far") == "global 0"
    assert plugin.name in engine.ok("info", "-f", "{{.Plugins.Volume}}")
    engine.ok("run", "--rm", "-v", "far:/v", "busybox", "sh", "-c", "echo far > /v/f")
    assert (plugin.home / "volumes" / "far" / "f").read_text() == "far\n" and plugin.users("far") == []
    engine.ok("run", "-d", "--name", "user", "-v", "far:/v", "busybox", "sleep", "600")
    assert len(plugin.users("far")) == 1
    assert "volume is in use" in engine.docker("volume", "rm", "far").err
    clash = engine.docker("volume", "create", "-d", "local", "far")
    assert f"driver '{plugin.name}' already has volume 'far': volume name must be unique" in clash.err
    assert engine.api("POST", "/volumes/create", {"Name": "far", "Driver": "local"}).status == 409
    engine.ok("stop", "-t", "0", "user")
    assert plugin.users("far") == []
    engine.ok("cp", "user:/v/f", "-")
    assert plugin.users("far") == []
    removed(engine, "user", volume="far")
    assert os.listdir(plugin.home / "volumes") == []


def test_volume_driver_of_a_container(engine: Engine, plugin: Plugin) -> None:
    flags = ("--volume-driver", plugin.name, "-v", "named:/n", "-v", "/anonymous")
    engine.ok("run", "--name", "both", *flags, "busybox", "touch", "/n/f", "/anonymous/f")
    drivers = {mount["Destination"]: mount["Driver"] for mount in engine.inspect("both")["Mounts"]}
    assert drivers == {"/n": plugin.name, "/anonymous": plugin.name}
    assert len(os.listdir(plugin.home / "volumes")) == 2
    engine.ok("rm", "-v", "both")
    assert os.listdir(plugin.home / "volumes") == ["named"]
    engine.ok("volume", "rm", "named")
    ran = engine.docker("create", "--pull", "never", "--volume-driver", "nosuch", "-v", "q:/x", "busybox", "true")
    assert 'error looking up volume plugin nosuch: plugin "nosuch" not found' in ran.err
    mount = f"type=volume,src=opted,dst=/v,volume-driver={plugin.name},volume-opt=refuse=1"
    ran = engine.docker("run", "--rm", "--mount", mount, "busybox", "true")
    assert ran.code == 125 and "VolumeDriver.Create: no room for it" in ran.err
    assert os.listdir(plugin.home / "volumes") == []


def test_engine_and_plugin_die(engine: Engine, plugin: Plugin) -> None:
    engine.ok("volume", "create", "-d", plugin.name, "far")
    for name in ("stays", "ends"):
        engine.ok("run", "-d", "--name", name, "-v", "far:/v", "busybox", "sleep", "600")
    pid = engine.inspect("ends")["State"]["Pid"]
    engine.kill()
    plugin.stop()
    os.kill(pid, 9)
    plugin.start()
    engine.start()
    wait_for(lambda: len(plugin.users("far")) == 1, "the lost mount is given back")
    assert engine.ok("exec", "stays", "touch", "/v/f") == ""
    plugin.stop()
    ran = engine.docker("start", "ends")
    assert ran.code == 1 and "error while mounting volume" in ran.err
    engine.ok("rm", "-f", "stays", "ends")  # nobody waits for a plugin that is away
    assert "far" in engine.ok("volume", "ls", "-q").split()
    plugin.start()
    engine.ok("volume", "rm", "far")
    assert plugin.users("far") == [] and os.listdir(plugin.home / "volumes") == []
