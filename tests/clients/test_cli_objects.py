"""Images, volumes, networks, ports, links and the engine itself through the docker CLI."""

import json
import re
import socket
import urllib.request
from pathlib import Path

import pytest
from support import images
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network]


def test_version_info_and_ping(engine: Engine) -> None:
    assert re.fullmatch(r"\d+\.\d+", engine.ok("version", "-f", "{{.Server.APIVersion}}"))
    assert engine.ok("info", "-f", "{{.OSType}}") == "linux"
    assert int(engine.ok("info", "-f", "{{.Images}}")) >= 2
    assert engine.api("GET", "/_ping").raw == b"OK"


def test_images_list_inspect_history(engine: Engine) -> None:
    assert "busybox:latest" in engine.ok("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    lines = engine.ok("images", "busybox").splitlines()
    assert re.match(r"REPOSITORY +TAG +IMAGE ID +CREATED +SIZE", lines[0])
    assert engine.ok("image", "inspect", "-f", "{{.Os}} {{len .RootFS.Layers}}", "layers") == "linux 13"
    assert len(engine.ok("history", "-q", "layers").splitlines()) == 13
    assert engine.ok("images", "-q", "--filter", "label=kind=test") == engine.ok("images", "-q", "configured:1.0")


def test_tag_and_rmi(engine: Engine) -> None:
    engine.ok("tag", "busybox", "registry.example:5000/team/box:v1")
    assert "registry.example:5000/team/box:v1" in engine.ok("images", "--format", "{{.Repository}}:{{.Tag}}")
    assert engine.ok("rmi", "registry.example:5000/team/box:v1") == "Untagged: registry.example:5000/team/box:v1"
    assert engine.docker("rmi", "no-such-image").code == 1
    assert re.search(r"(?i)invalid reference format", engine.docker("tag", "busybox", "not/a/Name").err)


def test_rmi_of_an_image_in_use(engine: Engine) -> None:
    engine.ok("create", "--name", "holds", "configured:1.0")
    ran = engine.docker("rmi", "configured:1.0")
    assert ran.code == 1
    assert re.search(r"(?i)conflict: unable to remove repository reference .configured:1.0. \(must force\)", ran.err), (
        ran
    )
    engine.ok("rm", "-v", "holds")


def test_load_again_and_delete(engine: Engine, tmp_path: Path) -> None:
    archive = images.archive(tmp_path / "own.tar", [("own:1", [images.layer([("file", b"content")])], {"Cmd": ["x"]})])
    assert engine.ok("load", "-i", str(archive)) == "Loaded image: own:1"
    assert engine.ok("load", stdin=archive.read_bytes()) == "Loaded image: own:1"
    deleted = engine.ok("rmi", "own:1").splitlines()
    assert deleted[0] == "Untagged: own:1"
    assert any(line.startswith("Deleted: sha256:") for line in deleted[1:])


def test_import_a_root_filesystem(engine: Engine, tmp_path: Path) -> None:
    tree = tmp_path / "tree.tar"
    tree.write_bytes(images.busybox_layer())
    iid = engine.ok("import", "-c", 'CMD ["echo","imported"]', "-m", "a message", str(tree), "imported:1")
    assert iid.startswith("sha256:")
    assert engine.ok("run", "--rm", "imported:1") == "imported"
    engine.ok("rmi", "imported:1")


def test_volumes(engine: Engine) -> None:
    assert engine.ok("volume", "create", "--label", "a=b", "store") == "store"
    engine.ok("run", "--rm", "-v", "store:/s", "busybox", "sh", "-c", "echo kept > /s/file")
    assert (
        engine.ok("run", "--rm", "--mount", "source=store,target=/elsewhere", "busybox", "cat", "/elsewhere/file")
        == "kept"
    )
    assert engine.ok("volume", "ls", "-q", "--filter", "label=a=b") == "store"
    assert json.loads(engine.ok("volume", "inspect", "store"))[0]["Driver"] == "local"
    engine.ok("create", "--name", "user", "-v", "store:/s", "busybox")
    ran = engine.docker("volume", "rm", "store")
    assert ran.code == 1
    assert "volume is in use" in ran.err
    engine.ok("rm", "user")
    assert engine.ok("volume", "rm", "store") == "store"
    assert engine.docker("volume", "inspect", "store").code == 1


def test_image_volume_is_copied_up_and_anonymous(engine: Engine) -> None:
    before = set(engine.ok("volume", "ls", "-q").split())
    assert engine.ok("run", "--name", "anon", "configured:1.0", "cat", "/data/seed") == "from the image"
    (made,) = set(engine.ok("volume", "ls", "-q").split()) - before
    assert re.fullmatch(r"[0-9a-f]{64}", made)
    engine.ok("rm", "-v", "anon")
    assert set(engine.ok("volume", "ls", "-q").split()) == before


def test_volumes_from(engine: Engine) -> None:
    engine.ok("run", "--name", "source", "-v", "/shared", "busybox", "sh", "-c", "echo x > /shared/f")
    assert engine.ok("run", "--rm", "--volumes-from", "source", "busybox", "cat", "/shared/f") == "x"
    assert engine.docker("run", "--rm", "--volumes-from", "source:ro", "busybox", "touch", "/shared/g").code == 1
    engine.ok("rm", "-v", "source")


def test_binds(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("host\n")
    assert engine.ok("run", "--rm", "-v", f"{tmp_path}:/h", "busybox", "cat", "/h/file") == "host"
    assert engine.docker("run", "--rm", "-v", f"{tmp_path}:/h:ro", "busybox", "touch", "/h/new").code == 1
    engine.ok("run", "--rm", "-v", f"{tmp_path}:/h", "busybox", "touch", "/h/new")
    assert (tmp_path / "new").exists()
    engine.ok("run", "--rm", "-v", f"{tmp_path}/made:/h", "busybox", "true")
    assert (tmp_path / "made").is_dir()
    ran = engine.docker("run", "--rm", "--mount", f"type=bind,source={tmp_path}/missing,target=/h", "busybox", "true")
    assert ran.code == 125
    assert "bind source path does not exist" in ran.err


def test_networks_list_and_inspect(engine: Engine) -> None:
    assert set(engine.ok("network", "ls", "--format", "{{.Name}}").split()) >= {"bridge", "host", "none"}
    (found,) = json.loads(engine.ok("network", "inspect", "bridge"))
    assert found["Driver"] == "bridge"
    engine.ok("run", "-d", "--name", "member", "busybox", "sleep", "600")
    (found,) = json.loads(engine.ok("network", "inspect", "bridge"))
    assert [c["Name"] for c in found["Containers"].values()] == ["member"]
    engine.ok("rm", "-f", "member")
    assert engine.docker("network", "inspect", "nowhere").code == 1


def test_containers_reach_each_other_and_share(engine: Engine) -> None:
    engine.ok(
        "run", "-d", "--name", "web", "busybox", "sh", "-c", "mkdir /w; echo page > /w/index.html; httpd -f -p 80 -h /w"
    )
    address = engine.inspect("web")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    wait_for(lambda: engine.docker("exec", "web", "wget", "-qO-", "http://127.0.0.1/").code == 0, "the server listens")
    assert engine.ok("run", "--rm", "busybox", "wget", "-qO-", f"http://{address}/") == "page"
    assert (
        engine.ok("run", "--rm", "--network", "container:web", "busybox", "wget", "-qO-", "http://127.0.0.1/") == "page"
    )
    assert engine.ok("run", "--rm", "--link", "web:alias", "busybox", "wget", "-qO-", "http://alias/") == "page"
    environment = engine.ok("run", "--rm", "--link", "web:alias", "busybox", "env")
    assert re.search(r"^ALIAS_NAME=/.*/alias$", environment, re.M)
    engine.ok("rm", "-f", "web")


def test_a_linked_container_can_be_restarted_while_it_is_used(engine: Engine) -> None:
    engine.ok("run", "-d", "--name", "target", "--init", "busybox", "sleep", "600")
    try:
        engine.ok("run", "-d", "--name", "user", "--link", "target:alias", "busybox", "sleep", "600")
        engine.ok("stop", "target")
        engine.ok("run", "-d", "--name", "between", "busybox", "sleep", "600")  # takes the next address
        engine.ok("start", "target")
        found = engine.inspect("target")["NetworkSettings"]["IPAddress"]
        assert engine.ok("exec", "user", "grep", "-w", "alias", "/etc/hosts").split()[0] == found
        engine.ok("restart", "target")
    finally:
        engine.docker("rm", "-f", "user", "target", "between")


def test_published_ports(engine: Engine) -> None:
    if "BOXWRIGHT_PEER" in __import__("os").environ:
        pytest.skip("the peer runs in a network namespace of its own")
    engine.ok(
        "run",
        "-d",
        "--name",
        "pub",
        "-p",
        "127.0.0.1:0:80",
        "-p",
        "80",
        "busybox",
        "sh",
        "-c",
        "mkdir /w; echo page > /w/index.html; httpd -f -p 80 -h /w",
    )
    ports = [int(line.rpartition(":")[2]) for line in engine.ok("port", "pub", "80/tcp").splitlines()]
    assert len(ports) >= 2

    def get(port: int) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return bytes(answer.read())

    def up() -> bool:
        try:
            return get(ports[0]) == b"page\n"
        except OSError:
            return False

    wait_for(up, "the published port answers")
    assert all(get(port) == b"page\n" for port in set(ports))
    ran = engine.docker("run", "--rm", "-p", f"{ports[1]}:80", "busybox", "true")
    assert ran.code == 125
    assert "port is already allocated" in ran.err
    engine.ok("rm", "-f", "pub")
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", ports[0]), timeout=2)


def test_what_is_not_there_yet_says_so(engine: Engine) -> None:
    if "BOXWRIGHT_PEER" in __import__("os").environ:
        pytest.skip("the peer has these")
    for arguments in (["network", "create", "n"], ["network", "create", "--internal", "n"]):
        ran = engine.docker(*arguments)
        assert ran.code == 1
        assert re.search(r"(?i)not implemented|No such container", ran.err), ran
    ran = engine.docker("service", "ls")
    assert ran.code == 1
    assert "This node is not a swarm manager" in ran.err
