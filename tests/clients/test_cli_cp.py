"""`docker cp` both ways: running and stopped containers, mounts, archives, ownership, what is refused."""

import base64
import io
import json
import os
import stat
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network]


@pytest.fixture(params=["running", "stopped"])
def box(engine: Engine, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A container with a volume, a bind, a read-only bind and some files."""
    (tmp_path / "host").mkdir()
    (tmp_path / "fixed").mkdir()
    (tmp_path / "fixed" / "f").write_text("fixed")
    name = f"cp-{request.param}-{os.getpid()}"
    script = (
        "mkdir -p /d/sub; echo one > /d/a; echo two > /d/sub/b; ln -s a /d/link; ln -s /d /dirlink; ln -s /no /dangling;"
        " ln -s ../../../../../../etc/passwd /up; mkfifo /d/pipe; mknod /d/null c 1 3; chmod 4711 /d/a;"
        " chown 12:34 /d/sub/b; echo v > /vol/v; echo h > /host/h; echo ready; exec sleep 600"
    )
    mounts = ["-v", "/vol", "-v", f"{tmp_path}/host:/host", "-v", f"{tmp_path}/fixed:/fixed:ro"]
    engine.ok("run", "-d", "--name", name, *mounts, "busybox", "sh", "-c", script)
    try:
        with_log(engine, name)
        if request.param == "stopped":
            engine.ok("stop", "-t", "0", name)
        yield name
    finally:
        engine.ok("rm", "-fv", name)


def with_log(engine: Engine, name: str) -> None:
    wait_for(lambda: "ready" in engine.ok("logs", name), "the container's script")


def output(engine: Engine, *arguments: str) -> bytes:
    process = engine.spawn(*arguments)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def members(engine: Engine, source: str, *flags: str) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(output(engine, "cp", *flags, source, "-"))) as archive:
        return {member.name: member for member in archive}


def test_out_of_a_container(engine: Engine, box: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    engine.ok("cp", f"{box}:/d", str(out))
    assert (out / "a").read_text() == "one\n" and (out / "sub" / "b").read_text() == "two\n"
    assert os.readlink(out / "link") == "a"
    assert stat.S_ISFIFO(os.stat(out / "pipe").st_mode)
    engine.ok("cp", f"{box}:/d/.", str(tmp_path / "contents"))
    assert (tmp_path / "contents" / "a").exists()
    engine.ok("cp", f"{box}:/d/a", str(tmp_path / "renamed"))
    assert (tmp_path / "renamed").read_text() == "one\n"
    for mount, text in (("/vol/v", "v\n"), ("/host/h", "h\n"), ("/fixed/f", "fixed")):
        engine.ok("cp", f"{box}:{mount}", str(tmp_path / "mounted"))
        assert (tmp_path / "mounted").read_text() == text


def test_links_are_followed_when_asked(engine: Engine, box: str, tmp_path: Path) -> None:
    engine.ok("cp", f"{box}:/d/link", str(tmp_path / "link"))
    assert os.readlink(tmp_path / "link") == "a"
    engine.ok("cp", "-L", f"{box}:/d/link", str(tmp_path / "followed"))
    assert (tmp_path / "followed").read_text() == "one\n" and not (tmp_path / "followed").is_symlink()
    engine.ok("cp", "-L", f"{box}:/up", str(tmp_path / "passwd"))
    assert "root" in (tmp_path / "passwd").read_text()
    engine.ok("cp", f"{box}:/dirlink/", str(tmp_path / "through"))
    assert (tmp_path / "through" / "a").exists()


def test_an_archive_keeps_owner_mode_and_devices(engine: Engine, box: str) -> None:
    found = members(engine, f"{box}:/d")
    assert set(found) == {"d", "d/a", "d/sub", "d/sub/b", "d/link", "d/pipe", "d/null"}
    assert found["d/a"].mode == 0o4711
    assert (found["d/sub/b"].uid, found["d/sub/b"].gid) == (12, 34)
    assert found["d/null"].ischr() and (found["d/null"].devmajor, found["d/null"].devminor) == (1, 3)
    root = members(engine, f"{box}:/")
    assert not [name for name in root if name.lstrip("/").startswith(("proc/", "sys/"))]


def test_into_a_container(engine: Engine, box: str, tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "f").write_text("new")
    os.chown(source / "deep" / "f", 77, 88)
    for place in ("/d", "/vol", "/host", "/dirlink/"):
        engine.ok("cp", str(source), f"{box}:{place}")
        found = members(engine, f"{box}:{place.rstrip('/')}/src/deep/f" if place != "/dirlink/" else f"{box}:/d/src")
        assert any(member.isfile() for member in found.values())
    assert (tmp_path / "host" / "src" / "deep" / "f").read_text() == "new"
    engine.ok("cp", str(source / "deep" / "f"), f"{box}:/d/a")
    assert output(engine, "cp", f"{box}:/d/a", "-").find(b"new") > 0
    found = members(engine, f"{box}:/d/src")
    assert (found["src/deep/f"].uid, found["src/deep/f"].gid) == (77, 88)


def test_an_archive_from_standard_input(engine: Engine, box: str) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in (("x/y", b"deep"), (".wh.a", b"no deletion")):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_600_000_000
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("abs")
        link.type, link.linkname = tarfile.SYMTYPE, "/d/sub"
        archive.addfile(link)
        info = tarfile.TarInfo("abs/through")
        archive.addfile(info)
    engine.ok("cp", "-", f"{box}:/d", stdin=data.getvalue())
    found = members(engine, f"{box}:/d")
    assert {"d/x/y", "d/.wh.a", "d/a", "d/sub/through"} <= set(found)
    assert found["d/x/y"].mtime == 1_600_000_000


def test_what_is_refused(engine: Engine, box: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    for wrong, text in (
        (("cp", f"{box}:/nothing", "-"), f"Could not find the file /nothing in container {box}"),
        (("cp", str(tmp_path / "f"), f"{box}:/fixed/"), "mounted volume is marked read-only"),
        (("cp", "no-such-container:/x", "-"), "No such container: no-such-container"),
        (("cp", str(tmp_path / "host"), f"{box}:/d/a"), "cannot copy directory"),
    ):
        ran = engine.docker(*wrong)
        assert ran.code == 1 and text in ran.err, ran
    reply = engine.api("GET", f"/containers/{box}/archive")
    assert reply.status == 400 and "path" in reply.message
    reply = engine.api("PUT", f"/containers/{box}/archive?path=/no/where", body=tar(("x", b"x")))
    assert (reply.status, reply.message) == (404, f"Could not find the file /no/where in container {box}")
    reply = engine.api("PUT", f"/containers/{box}/archive?path=/d/a", body=tar(("x", b"x")))
    assert (reply.status, reply.message) == (400, "extraction point is not a directory")
    for name, kind in (("sub", tarfile.REGTYPE), ("a", tarfile.DIRTYPE)):
        query = f"/containers/{box}/archive?path=/d&noOverwriteDirNonDir=true"
        reply = engine.api("PUT", query, body=tar((name, b"", kind)))
        assert reply.status == 400 and reply.message.startswith("cannot overwrite "), reply
    reply = engine.api("PUT", f"/containers/{box}/archive?path=/d", body=b"no archive" * 100)
    assert reply.status == 400, reply


def tar(*found: tuple[str, bytes] | tuple[str, bytes, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content, *kind in found:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(content), (kind or [tarfile.REGTYPE])[0]
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def test_the_stat_header(engine: Engine, box: str) -> None:
    def shown(path: str) -> dict[str, object]:
        reply = engine.api("HEAD", f"/containers/{box}/archive?path={path}")
        assert reply.status == 200
        header = next(v for k, v in reply.headers.items() if k.lower() == "x-docker-container-path-stat")
        return dict(json.loads(base64.b64decode(header)))

    assert shown("/d") | {"mtime": "", "size": 0} == {
        "name": "d", "size": 0, "mode": 1 << 31 | 0o755, "mtime": "", "linkTarget": "",
    }  # fmt: skip
    assert shown("d/a")["mode"] == 1 << 23 | 0o711
    assert shown("/d/../d/link")["linkTarget"] == "/d/a"
    assert shown("/up")["linkTarget"] == "/etc/passwd"
    assert shown("/dangling")["linkTarget"] == "/no"
    assert shown("/dirlink")["mode"] == 1 << 27 | 0o777
    assert shown("/dirlink/")["mode"] == 1 << 31 | 0o755
    assert shown("/d/pipe")["mode"] == 1 << 25 | 0o644
    assert shown("/d/null")["mode"] == 1 << 26 | 1 << 21 | 0o644
    assert shown("/")["name"] == "/"


def test_a_read_only_root(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    engine.ok("run", "-d", "--read-only", "-v", "/vol", "--name", "cp-ro", "busybox", "sleep", "600")
    try:
        for _ in range(2):
            ran = engine.docker("cp", str(tmp_path / "f"), "cp-ro:/etc/")
            assert ran.code == 1 and "container rootfs is marked read-only" in ran.err
            engine.ok("cp", str(tmp_path / "f"), "cp-ro:/vol/")
            engine.ok("stop", "-t", "0", "cp-ro")
    finally:
        engine.ok("rm", "-fv", "cp-ro")


def test_into_a_container_that_never_ran(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("kept")
    engine.ok("create", "--name", "cp-new", "-v", "/new/vol", "-u", "7:8", "busybox", "cat", "/new/vol/f", "/etc/f")
    try:
        engine.ok("cp", str(tmp_path / "f"), "cp-new:/new/vol/")
        engine.ok("cp", "-a", str(tmp_path / "f"), "cp-new:/etc/")
        assert members(engine, "cp-new:/etc/f")["f"].uid == 7
        assert engine.ok("start", "-a", "cp-new") == "keptkept"
    finally:
        engine.ok("rm", "-fv", "cp-new")


def test_events(engine: Engine) -> None:
    began = time.time()
    engine.ok("create", "--name", "cp-events", "busybox")
    try:
        engine.ok("cp", "cp-events:/etc/passwd", "-")
        engine.ok("cp", "-", "cp-events:/", stdin=tar(("x", b"")))
        span = ("--since", f"{began:.6f}", "--until", f"{time.time():.6f}", "--filter", "container=cp-events")
        seen = engine.ok("events", *span, "--format", "{{.Action}}")
        assert {"archive-path", "extract-to-dir"} <= set(seen.split())
    finally:
        engine.ok("rm", "-f", "cp-events")


def test_a_large_sparse_file_costs_no_memory(engine: Engine) -> None:
    """8 GiB of hole, read and written at once: the job has 2 GiB of address space, the stream less than a MiB."""
    engine.ok("run", "--name", "cp-sparse", "busybox", "sh", "-c", "truncate -s 8G /s && mkdir /copy")
    try:
        reply = engine.api("GET", "/containers/cp-sparse/archive?path=/s")
        assert reply.status == 200 and len(reply.raw) < 1 << 20
        assert engine.api("PUT", "/containers/cp-sparse/archive?path=/copy", body=reply.raw).status == 200
        reply = engine.api("HEAD", "/containers/cp-sparse/archive?path=/copy/s")
        assert json.loads(base64.b64decode(reply.headers["x-docker-container-path-stat"]))["size"] == 8 << 30
    finally:
        engine.ok("rm", "-f", "cp-sparse")


def test_prune_of_containers(engine: Engine) -> None:
    label = f"prune={os.getpid()}"
    script = ("sh", "-c", "head -c 100000 /dev/zero > /f")
    kept = engine.ok("create", "--label", label, "--label", "keep", "busybox")
    running = engine.ok("run", "-d", "--label", label, "busybox", "sleep", "600")
    engine.ok("run", "--label", label, "--name", "prune-me", "busybox", *script)
    gone = engine.inspect("prune-me")["Id"]
    try:
        filters = ("--filter", f"label={label}", "--filter", "label!=keep")
        assert engine.ok("container", "prune", "-f", *filters, "--filter", "until=1h").startswith("Total reclaimed")
        said = engine.ok("container", "prune", "-f", *filters).splitlines()
        assert said[:2] == ["Deleted Containers:", gone]
        assert said[-1] == "Total reclaimed space: 100kB"
        assert set(engine.ok("ps", "-aq", "--no-trunc", "--filter", f"label={label}").split()) == {kept, running}
        refused = engine.api("POST", "/containers/prune?filters=%7B%22colour%22%3A%5B%22x%22%5D%7D")
        assert (refused.status, refused.message) == (400, "invalid filter 'colour'")
    finally:
        engine.ok("rm", "-f", kept, running)


def test_system_prune(engine: Engine) -> None:
    label = f"system-prune={os.getpid()}"
    gone = engine.ok("create", "--label", label, "busybox")
    said = engine.ok("system", "prune", "-f", "--filter", f"label={label}")
    assert gone in said and said.splitlines()[-1] == "Total reclaimed space: 0B"


def test_disk_usage(engine: Engine) -> None:
    engine.ok("volume", "create", "df-volume")
    engine.ok("run", "--name", "df-box", "-v", "df-volume:/v", "busybox", "sh", "-c", "head -c 5000 /dev/zero > /v/f")
    try:
        body = engine.api("GET", "/system/df").json
        images = {image["Id"]: image for image in body["Images"]}
        assert images[engine.inspect("df-box")["Image"]]["Containers"] >= 1
        for image in images.values():
            assert 0 <= image["SharedSize"] <= image["Size"]
        unique = sum(image["Size"] - image["SharedSize"] for image in images.values())
        assert unique <= body["LayersSize"] <= sum(image["Size"] for image in images.values())
        volume = next(volume for volume in body["Volumes"] if volume["Name"] == "df-volume")
        assert volume["UsageData"] == {"Size": 5000, "RefCount": 1}
        assert body["BuildCache"] == []
        assert set(engine.api("GET", "/system/df?type=volume").json) == {"Volumes"}
        assert engine.api("GET", "/system/df?type=moon").status == 400
        assert engine.ok("system", "df").splitlines()[0].split()[:2] == ["TYPE", "TOTAL"]
        verbose = engine.ok("system", "df", "-v")
        assert "df-volume" in verbose and "df-box" in verbose and "busybox" in verbose
    finally:
        engine.ok("rm", "-f", "df-box")
        engine.ok("volume", "rm", "df-volume")
