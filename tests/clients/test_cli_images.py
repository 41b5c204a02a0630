"""commit, diff, export, save and prune through the docker CLI."""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import images, web
from support.engine import Engine, Ran, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network]

CHANGE = (
    "echo new > /root/new; mkdir -p /opt/deep/er; echo x > /opt/deep/er/f; rm /data/seed; echo more >> /etc/passwd;"
    " rm -r /home; ln -s /root/new /root/link; chmod 700 /tmp; touch /var/.x"
)
CHANGES = {
    "C /root", "A /root/new", "A /root/link", "A /opt", "A /opt/deep", "A /opt/deep/er", "A /opt/deep/er/f", "C /data",
    "D /data/seed", "C /etc", "C /etc/passwd", "D /home", "C /tmp", "C /var", "A /var/.x",
}  # fmt: skip


@pytest.fixture(params=["overlay2", "vfs"])
def stored(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine for each storage driver."""
    made = Engine("--storage-driver", request.param)
    try:
        yield made.start().load()
    finally:
        made.close()


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {entry.name: entry for entry in tar.getmembers()}


def content(data: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def export(engine: Engine, name: str) -> bytes:
    answer = engine.api("GET", f"/containers/{name}/export")
    assert answer.status == 200, answer.raw
    return answer.raw


def test_diff_commit_and_export_on_both_drivers(stored: Engine) -> None:
    stored.ok("run", "--name", "worker", "busybox", "sh", "-c", CHANGE)
    assert set(stored.ok("diff", "worker").splitlines()) == CHANGES
    archive = export(stored, "worker")
    found = members(archive)
    assert found["root/link"].linkname == "/root/new"
    assert content(archive, "opt/deep/er/f") == b"x\n"
    assert found["tmp"].mode == 0o700
    assert "data/seed" not in found and "home" not in found and "bin/busybox" in found
    iid = stored.ok("commit", "worker", "made:1")
    assert (
        stored.ok("run", "--rm", "made:1", "sh", "-c", "cat /root/link; ls -a / /data; tail -n 1 /etc/passwd").split(
            "\n"
        )[0]
        == "new"
    )
    assert stored.docker("run", "--rm", "made:1", "ls", "/home").code != 0
    assert stored.docker("run", "--rm", "made:1", "ls", "/data/seed").code != 0
    assert stored.ok("diff", stored.ok("create", "made:1")) == ""
    saved = stored.api("GET", f"/images/{iid}/get").raw
    stored.ok("rm", "-f", *stored.ok("ps", "-aq").split())
    stored.ok("rmi", "made:1")
    assert stored.ok("load", stdin=saved) == f"Loaded image ID: {iid}"
    assert stored.ok("run", "--rm", iid, "cat", "/root/new") == "new"


def test_diff_and_export_of_a_running_container(engine: Engine) -> None:
    engine.ok("run", "-d", "--name", "live", "-v", "/volume", "--tmpfs", "/scratch", "busybox", "sh", "-c",
              "touch /volume/in /scratch/in /root/in; exec sleep 600")  # fmt: skip
    wait_for(lambda: "A /root/in" in engine.ok("diff", "live").splitlines(), "the file shows")
    listed = set(engine.ok("diff", "live").splitlines())
    assert {"C /root", "A /root/in"} <= listed
    assert not any(
        re.search(r" /(volume|scratch)/in|/proc|/sys|/dev|/etc/(hosts|hostname|resolv)", line) for line in listed
    )
    found = members(export(engine, "live"))
    assert "root/in" in found
    assert "volume/in" not in found and "scratch/in" not in found and not any(n.startswith("proc/") for n in found)
    assert engine.ok("exec", "live", "cat", "/etc/hostname") == engine.ok(
        "inspect", "-f", "{{.Config.Hostname}}", "live"
    )
    engine.ok("exec", "live", "rm", "/root/in")
    assert "A /root/in" not in engine.ok("diff", "live").splitlines()
    engine.ok("rm", "-fv", "live")


def test_export_to_a_file_and_import_again(engine: Engine, tmp_path: Path) -> None:
    engine.ok("run", "--name", "exp", "busybox", "sh", "-c", "echo kept > /kept; chown 5:6 /kept; chmod 4755 /kept")
    engine.ok("export", "-o", str(tmp_path / "out.tar"), "exp")
    assert engine.ok("import", str(tmp_path / "out.tar"), "again:1").startswith("sha256:")
    assert engine.ok("run", "--rm", "again:1", "stat", "-c", "%u:%g %a", "/kept") == "5:6 4755"
    engine.ok("rm", "exp")
    engine.ok("rmi", "again:1")
    assert engine.docker("export", "exp").code == 1
    assert "No such container: exp" in engine.docker("export", "-o", str(tmp_path / "x"), "exp").err


def test_import_of_a_url(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "plain.tar").write_bytes(images.layer([("f", b"fetched")]))
    (tmp_path / "none.tar").write_bytes(b"no archive" * 100)
    with web.served(tmp_path) as url:
        assert engine.ok("import", "-m", "mine", f"{url}/plain.tar", "fetched:1").splitlines()[-1].startswith("sha256:")
        assert engine.ok("inspect", "-f", "{{.Comment}}", "fetched:1") == "mine"
        engine.ok("create", "--name", "fetched", "fetched:1", "x")
        engine.ok("cp", "fetched:/f", str(tmp_path / "copied"))
        assert (tmp_path / "copied").read_text() == "fetched"
        for path, problem in (("missing.tar", "with status 404"), ("none.tar", "archive/tar")):
            refused = engine.docker("import", f"{url}/{path}", "refused:1")
            assert refused.code == 1 and problem in refused.err
        # Without a scheme, as for dockerd, it is the web.
        answer = engine.api("POST", f"/images/create?fromSrc={url.removeprefix('http://')}/plain.tar")
        assert f"Downloading from {url}/plain.tar" in answer.raw.decode()
    for source, problem in (
        ("file:///etc/passwd", "unsupported scheme"),
        ("http://127.0.0.1:1/x", "connect: connection refused"),
    ):
        refused = engine.api("POST", f"/images/create?fromSrc={source}")
        assert refused.status in (400, 500) and problem in refused.message
    engine.ok("rm", "fetched")
    engine.ok("rmi", "fetched:1")


COMMITS: dict[str, tuple[list[str], str, Any]] = {
    "cmd": (['CMD ["echo","hi"]'], "Cmd", ["echo", "hi"]),
    "cmd as shell": (["CMD echo hi"], "Cmd", ["/bin/sh", "-c", "echo hi"]),
    "entrypoint takes the command away": (['ENTRYPOINT ["echo"]'], "Cmd", None),
    "entrypoint after command": (['CMD ["x"]', 'ENTRYPOINT ["echo"]'], "Cmd", ["x"]),
    "env is added": (["ENV a=b"], "Env", ["OWN=1", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "a=b"]),
    "env is expanded": (["ENV a=${OWN}2 b=${none:-3}"], "Env", ["OWN=1", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "a=12", "b=3"]),
    "expose": (["EXPOSE 80 53/udp"], "ExposedPorts", {"80/tcp": {}, "53/udp": {}, "99/tcp": {}}),
    "label": (['LABEL x="y z"'], "Labels", {"x": "y z", "own": "label"}),
    "onbuild": (["ONBUILD RUN true"], "OnBuild", ["RUN true"]),
    "user": (["USER 1:2"], "User", "1:2"),
    "volume": (["VOLUME /v"], "Volumes", {"/v": {}}),
    "workdir": (["WORKDIR sub"], "WorkingDir", "/srv/sub"),
    "stopsignal": (["STOPSIGNAL SIGQUIT"], "StopSignal", "SIGQUIT"),
    "healthcheck": (["HEALTHCHECK --retries=2 CMD true"], "Healthcheck", {"Test": ["CMD-SHELL", "true"], "Retries": 2}),
    "nothing": ([], "WorkingDir", "/srv"),
}  # fmt: skip


@pytest.fixture(scope="module")
def container(engine: Engine) -> Iterator[str]:
    engine.ok("run", "--name", "base", "-w", "/srv", "-e", "OWN=1", "-l", "own=label", "--expose", "99", "busybox",
              "touch", "/marker")  # fmt: skip
    yield "base"
    engine.ok("rm", "base")


@pytest.mark.parametrize("case", COMMITS)
def test_commit_with_changes(engine: Engine, container: str, case: str) -> None:
    changes, field, expected = COMMITS[case]
    iid = engine.ok("commit", *[f"--change={change}" for change in changes], container)
    try:
        assert json.loads(engine.ok("image", "inspect", iid))[0]["Config"].get(field) == expected
    finally:
        engine.ok("rmi", iid)


def test_commit_says_who_and_why(engine: Engine, container: str) -> None:
    iid = engine.ok("commit", "-a", "Me <me@example>", "-m", "because", container, "who:1")
    found = json.loads(engine.ok("image", "inspect", "who:1"))[0]
    base = json.loads(engine.ok("image", "inspect", "busybox"))[0]
    assert (found["Id"], found["Author"], found["Comment"], found["Parent"]) == (
        iid, "Me <me@example>", "because", base["Id"]
    )  # fmt: skip
    assert found["RootFS"]["Layers"][:-1] == base["RootFS"]["Layers"]
    rows = [
        json.loads(line) for line in engine.ok("history", "--no-trunc", "--format", "{{json .}}", "who:1").splitlines()
    ]
    assert (rows[0]["ID"], rows[0]["CreatedBy"], rows[0]["Comment"]) == (iid, "touch /marker", "because")
    assert rows[1]["ID"] == base["Id"]
    ran = engine.docker("rmi", "busybox")
    assert ran.code == 1 and "conflict" in ran.err  # its child, and the container
    assert engine.ok("rmi", "who:1").splitlines()[0] == "Untagged: who:1"
    assert engine.docker("image", "inspect", "busybox").code == 0


def test_commit_without_a_difference_has_no_layer(engine: Engine) -> None:
    name = engine.ok("create", "busybox")
    engine.ok("commit", name, "same:1")
    found = json.loads(engine.ok("image", "inspect", "same:1"))[0]
    assert found["RootFS"] == json.loads(engine.ok("image", "inspect", "busybox"))[0]["RootFS"]
    engine.ok("rm", name)
    engine.ok("rmi", "same:1")


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ("container=nobody", 404, "No such container: nobody"),
        (
            "container=base&repo=UPPER",
            400,
            "invalid reference format: repository name (library/UPPER) must be lowercase",
        ),
        ("container=base&repo=a&tag=b/c", 400, "invalid tag format"),
        ("container=base&repo=a@sha256:" + "0" * 64, 400, "cannot import digest reference"),
        ("container=base&changes=RUN%20x", 400, "run is not a valid change command"),
        ("container=base&changes=EXPOSE%20x", 400, "Invalid containerPort: x"),
        ("", 400, 'invalid name or ID supplied: ""'),
    ],
)
def test_commit_refuses(engine: Engine, container: str, arguments: str, status: int, text: str) -> None:
    before = engine.ok("images", "-aq")
    answer = engine.api("POST", f"/commit?{arguments}")
    assert (answer.status, answer.message) == (status, text)
    assert engine.ok("images", "-aq") == before


@pytest.mark.parametrize("pause", [True, False])
def test_commit_pauses_a_running_container(engine: Engine, pause: bool) -> None:
    engine.ok("run", "-d", "--name", "runs", "busybox", "sleep", "600")
    since = engine.ok("info", "-f", "{{.SystemTime}}")
    engine.ok("commit", f"--pause={str(pause).lower()}", "runs", "runs:1")
    assert engine.inspect("runs")["State"]["Status"] == "running"
    until = engine.ok("info", "-f", "{{.SystemTime}}")
    lines = engine.ok("events", "--since", since, "--until", until, "--format", "{{.Type}} {{.Action}}").splitlines()
    expected = ["image create", "image tag", "container commit"]
    assert lines == (["container pause", "container unpause", *expected] if pause else expected)
    engine.ok("rm", "-f", "runs")
    engine.ok("rmi", "runs:1")


def test_commits_above_each_other_go_together(engine: Engine) -> None:
    """The intermediate images have no names, and go with the last one; with --no-prune they stay."""

    def step(image: str, number: int) -> str:
        name = engine.ok("create", image, "touch", f"/step{number}")
        engine.ok("start", "-a", name)
        iid = engine.ok("commit", name)
        engine.ok("rm", name)
        return iid

    first = step("busybox", 1)
    second = step(first, 2)
    third = step(second, 3)
    assert "has dependent child images" in engine.docker("rmi", first).err
    assert first[7:19] not in engine.ok("images", "-q").split()
    assert first[7:19] in engine.ok("images", "-aq").split()
    engine.ok("rmi", "--no-prune", third)
    deleted = engine.ok("rmi", second).splitlines()
    assert {f"Deleted: {second}", f"Deleted: {first}"} <= set(deleted)
    assert engine.docker("image", "inspect", "busybox").code == 0


def digests(data: bytes) -> dict[str, Any]:
    """What is in a saved archive: configs and layers by name, verified against their digests."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        blobs = {}
        for entry in tar.getmembers():
            if entry.isfile() and entry.name.startswith("blobs/sha256/"):
                file = tar.extractfile(entry)
                assert file is not None
                blobs[entry.name[13:]] = file.read()
        listed = json.load(tar.extractfile("manifest.json") or io.BytesIO())
        index = json.load(tar.extractfile("index.json") or io.BytesIO())
        layout = json.load(tar.extractfile("oci-layout") or io.BytesIO())
        names = json.load(tar.extractfile("repositories") or io.BytesIO()) if "repositories" in tar.getnames() else {}
    assert layout == {"imageLayoutVersion": "1.0.0"}
    assert all(hashlib.sha256(blob).hexdigest() == name for name, blob in blobs.items())
    for item in listed:
        config = json.loads(blobs[item["Config"][13:]])
        assert [layer[13:] for layer in item["Layers"]] == [d[7:] for d in config["rootfs"]["diff_ids"]]
    for descriptor in index["manifests"]:
        manifest = json.loads(blobs[descriptor["digest"][7:]])
        assert len(blobs[descriptor["digest"][7:]]) == descriptor["size"]
        for part in (manifest["config"], *manifest["layers"]):
            assert len(blobs[part["digest"][7:]]) == part["size"]
    tags = {tag for item in listed for tag in item["RepoTags"] or []}
    assert {f"{name}:{tag}" for name, known in names.items() for tag in known} == tags
    annotated = {d.get("annotations", {}).get("io.containerd.image.name") for d in index["manifests"]} - {None}
    assert {name.removeprefix("docker.io/library/") for name in annotated} == tags
    return {"tags": tags, "configs": {item["Config"][13:] for item in listed}, "blobs": set(blobs)}


def test_save_several_images(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "saved.tar"
    engine.ok("tag", "busybox", "busybox:other")
    engine.ok("save", "-o", str(path), "busybox", "layers:latest", engine.ok("images", "-q", "configured:1.0"))
    found = digests(path.read_bytes())
    assert found["tags"] == {"busybox:latest", "busybox:other", "layers:latest"}
    assert len(found["configs"]) == 3
    assert digests(engine.api("GET", "/images/busybox:other/get").raw)["tags"] == {"busybox:other"}
    engine.ok("rmi", "busybox:other")


def test_save_load_elsewhere_save(engine: Engine, tmp_path: Path) -> None:
    first, second = tmp_path / "1.tar", tmp_path / "2.tar"
    engine.ok("save", "-o", str(first), "busybox", "layers", "configured:1.0")
    other = Engine("--storage-driver", "vfs").start()
    try:
        assert sorted(other.ok("load", "-i", str(first)).splitlines()) == [
            "Loaded image: busybox:latest", "Loaded image: configured:1.0", "Loaded image: layers:latest"
        ]  # fmt: skip
        form = "{{.Id}} {{.RootFS.Layers}}"
        names = ["busybox", "layers", "configured:1.0"]
        assert other.ok("image", "inspect", "-f", form, *names) == engine.ok("image", "inspect", "-f", form, *names)
        other.ok("save", "-o", str(second), "busybox", "layers", "configured:1.0")
    finally:
        other.close()
    assert second.read_bytes() == first.read_bytes()


def test_save_of_a_whole_debian(engine: Engine, tmp_path: Path) -> None:
    """Eight layers above a debootstrapped Debian; what comes back is the same, byte for byte."""
    engine.load(images.debian_archive())
    image = "debian:bookworm"
    for number in range(8):
        script = f"mkdir /d{number}; cp -a /etc /usr/share/doc/libc* /d{number}; rm -r /usr/share/man/man{number + 1}"
        engine.ok("run", "--name", f"deb{number}", image, "sh", "-c", f"{script} 2>/dev/null; :")
        image = engine.ok("commit", f"deb{number}", f"deb:{number}")
        engine.ok("rm", f"deb{number}")
    path = tmp_path / "debian.tar"
    engine.ok("save", "-o", str(path), "deb:7")
    other = Engine().start()
    try:
        other.load(path)
        form = "{{.Id}} {{.RootFS.Layers}}"
        assert other.ok("image", "inspect", "-f", form, "deb:7") == engine.ok("image", "inspect", "-f", form, "deb:7")
        assert other.ok("run", "--rm", "deb:7", "ls", "/d7/etc/debian_version") == "/d7/etc/debian_version"
        again = tmp_path / "again.tar"
        other.ok("save", "-o", str(again), "deb:7")
        assert again.read_bytes() == path.read_bytes()
    finally:
        other.close()
    engine.ok("rmi", *[f"deb:{number}" for number in range(8)], "debian:bookworm")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nosuch", "No such image: nosuch"),
        ("busybox:nosuch", "reference does not exist"),
        ("UPPER", "must be lowercase"),
    ],
)
def test_save_of_what_is_not_there(engine: Engine, tmp_path: Path, name: str, text: str) -> None:
    ran: Ran = engine.docker("save", "-o", str(tmp_path / "x"), name)
    assert ran.code == 1 and text in ran.err
    assert engine.api("GET", "/images/get").status == 200  # of nothing, as dockerd's


def test_prune(engine: Engine) -> None:
    def made(label: str) -> str:
        name = engine.ok("create", "busybox", "sh", "-c", f"head -c 100000 /dev/zero > /{label}")
        engine.ok("start", "-a", name)
        iid = engine.ok("commit", "-c", f"LABEL kind={label}", name)
        engine.ok("rm", name)
        return iid

    first, second, third = made("one"), made("two"), made("three")
    engine.ok("tag", third, "named:1")
    user = engine.ok("create", second, "true")
    answer = engine.api("POST", '/images/prune?filters={"label":["kind=two"]}').json
    assert answer == {"ImagesDeleted": None, "SpaceReclaimed": 0}  # a container uses it
    out = engine.ok("image", "prune", "-f", "--filter", "until=1h")
    assert "Total reclaimed space: 0B" in out
    out = engine.ok("image", "prune", "-f")
    assert f"deleted: {first}" in out and second not in out and "Total reclaimed space: 100kB" in out
    engine.ok("rm", user)
    out = engine.ok("image", "prune", "-af", "--filter", "label!=kind=test", "--filter", "label=kind")
    assert f"deleted: {second}" in out and "untagged: named:1" in out and f"deleted: {third}" in out
    assert engine.api("POST", '/images/prune?filters={"colour":["x"]}').message == "invalid filter 'colour'"
    assert engine.api("POST", '/images/prune?filters={"dangling":["x"]}').status == 400
    assert engine.docker("image", "inspect", "busybox").code == 0


def test_manifests_of_images(engine: Engine) -> None:
    (row,) = [row for row in engine.api("GET", "/images/json?manifests=1").json if "layers:latest" in row["RepoTags"]]
    (manifest,) = row["Manifests"]
    assert manifest["Kind"] == "image" and manifest["Available"]
    saved = digests(engine.api("GET", "/images/layers/get").raw)
    assert manifest["ID"][7:] in saved["blobs"]
    assert engine.api("GET", "/images/layers/json?manifests=1").json["Manifests"] == [manifest]
    assert "Manifests" not in engine.api("GET", "/images/layers/json").json
