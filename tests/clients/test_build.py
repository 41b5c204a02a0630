"""Builds: what is told, the cache, limits, stages side by side, URLs, what is left when one ends early."""

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from support import builds, registries, web
from support.engine import Engine, UnixConnection, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network]

CLASSIC = {"DOCKER_BUILDKIT": "0"}


def build(engine: Engine, text: str, *options: str, **files: Any) -> builds.Built:
    return builds.by_cli(engine, builds.archive(files, text), *options)


def done(built: builds.Built) -> builds.Built:
    assert built.image, f"{built.error}\n{built.said}"
    return built


def steps(built: builds.Built) -> list[str]:
    """Of each step, whether it came from the cache."""
    parts = built.said.split("Step ")[1:]
    return ["cache" if "Using cache" in part else "made" for part in parts]


def post(engine: Engine, query: dict[str, str], body: bytes) -> list[dict[str, Any]]:
    answer = engine.api("POST", f"/build?{urlencode(query)}", body, {"Content-Type": "application/x-tar"})
    assert answer.status == 200, answer.raw
    return [json.loads(line) for line in answer.raw.splitlines()]


# -- what is told -----------------------------------------------------------------------------------------------------


def test_what_the_cli_prints(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text('FROM busybox\nRUN echo told; echo wrong >&2\nCMD ["x"]\n')
    said = engine.ok("build", "-t", "told:1", "-t", "told", str(tmp_path), env=CLASSIC)
    base = engine.ok("images", "-q", "busybox:latest")
    image = engine.ok("images", "-q", "told:1")
    container = said.partition("Running in ")[2][:12]
    step = engine.ok("image", "inspect", "-f", "{{.Parent}}", "told:1").removeprefix("sha256:")[:12]
    assert said.splitlines()[1:] == [
        "", "Step 1/3 : FROM busybox", f" ---> {base}", "Step 2/3 : RUN echo told; echo wrong >&2",
        f" ---> Running in {container}", "told", "\x1b[91mwrong", f"\x1b[0mRemoving intermediate container {container}",
        f" ---> {step}", 'Step 3/3 : CMD ["x"]', f" ---> {image}", f"Successfully built {image}",
        "Successfully tagged told:1", "Successfully tagged told:latest",
    ]  # fmt: skip
    assert engine.ok("ps", "-aq") == ""
    history = engine.ok("history", "--no-trunc", "--format", "{{.CreatedBy}}", "told:1").splitlines()
    assert history[:2] == ['/bin/sh -c #(nop)  CMD ["x"]', "/bin/sh -c echo told; echo wrong >&2"]


def test_a_quiet_build(engine: Engine) -> None:
    context = builds.archive({}, "FROM busybox\nRUN echo loud\nENV Q=1\n")
    said = engine.ok("build", "-q", "-", stdin=context, env=CLASSIC)
    assert said.startswith("sha256:") and builds.config(engine, said)["Config"]["Env"][-1] == "Q=1"


def test_messages_for_programs(engine: Engine) -> None:
    said = post(engine, {"t": "aux:1"}, builds.archive({}, "FROM busybox AS a\nENV A=1\nFROM a\nENV B=1\n"))
    ids = [message["aux"]["ID"] for message in said if "aux" in message]
    assert len(ids) == 2 and ids[1] == builds.config(engine, "aux:1")["Id"]
    failed = post(engine, {}, builds.archive({}, "FROM busybox\nRUN exit 42\n"))[-1]
    text = "The command '/bin/sh -c exit 42' returned a non-zero code: 42"
    assert failed == {"errorDetail": {"code": 42, "message": text}, "error": text}


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ({"version": "2"}, 501, "BuildKit"),
        ({"squash": "1"}, 400, "squash is only supported with experimental mode"),
        ({"outputs": '[{"Type":"local"}]'}, 501, "outputs"),
        ({"buildargs": "{"}, 400, "error reading buildargs"),
        ({"labels": "[1]"}, 400, "error reading labels: a JSON object of strings is expected"),
        ({"ulimits": "{}"}, 400, "error reading ulimits"),
        ({"memory": "x"}, 400, 'parsing "x": invalid syntax'),
        ({"t": "UPPER"}, 400, "must be lowercase"),
        ({"platform": "windows/amd64"}, 400, "windows/amd64"),
        ({"dockerfile": "../Dockerfile"}, 400, "must be within the build context"),
        ({"dockerfile": "none"}, 400, "Cannot locate specified Dockerfile: none"),
        ({"target": "none"}, 400, "failed to reach build target none in Dockerfile"),
        ({"remote": "git@localhost:x.git"}, 501, "SSH"),
        ({"buildargs": '{"SOURCE_DATE_EPOCH":"soon"}'}, 400, "invalid SOURCE_DATE_EPOCH: soon"),
    ],
)
def test_requests_that_are_refused(engine: Engine, query: dict[str, str], status: int, text: str) -> None:
    body = builds.archive({}, "FROM busybox\n")
    answer = engine.api("POST", f"/build?{urlencode(query)}", body, {"Content-Type": "application/x-tar"})
    assert answer.status == status and text in answer.message, answer.raw


# -- options ----------------------------------------------------------------------------------------------------------


def test_arguments_labels_and_target(engine: Engine) -> None:
    text = 'ARG B=busybox\nFROM $B AS one\nARG A\nRUN echo "<$A>" > /x\nFROM one AS two\nRUN false\n'
    options = [
        "--build-arg",
        "A=it's",
        "--build-arg",
        "B=busybox:latest",
        "--build-arg",
        "no=1",
        "--label",
        "l=$A",
        "--target",
        "one",
    ]
    built = done(build(engine, text, *options))
    assert "[Warning] One or more build-args [no] were not consumed" in built.said
    assert engine.ok("run", "--rm", built.image, "cat", "/x") == "<it's>"
    assert builds.config(engine, built.image)["Config"]["Labels"] == {"l": "$A"}
    history = engine.ok("history", "--no-trunc", "--format", "{{.CreatedBy}}", built.image)
    assert '|1 A=it\'s /bin/sh -c echo "<$A>" > /x' in history


def test_an_image_for_another_processor(engine: Engine) -> None:
    """Nothing of it runs here; what makes its files does."""
    text = "FROM --platform=$BUILDPLATFORM busybox AS b\nARG TARGETPLATFORM TARGETVARIANT\nRUN echo $TARGETPLATFORM $TARGETVARIANT > /f\n"
    text += "FROM scratch\nARG TARGETARCH\nLABEL for=$TARGETARCH\nCOPY --from=b /f /f\n"
    own = done(build(engine, text)).image
    for platform, variant in (("linux/arm/v7", "v7"), ("linux/s390x", "")):
        image = done(build(engine, text, "--platform", platform)).image
        found = builds.config(engine, image)
        assert "/".join(filter(None, ["linux", found["Architecture"], found.get("Variant", "")])) == platform
        assert found["Config"]["Labels"] == {"for": platform.split("/")[1]}
        container = engine.ok("create", image, "x")
        assert (
            f"{platform} {variant}".strip().encode()
            in engine.api("GET", f"/containers/{container}/archive?path=/f").raw
        )
        engine.ok("rm", container)
    assert done(build(engine, text, "--platform", builds.config(engine, own)["Architecture"])).image == own
    wrong = build(engine, "FROM --platform=linux/s390x busybox\nENV A=1\n")
    assert "does not match the specified platform (linux/s390x)" in wrong.error


def test_proxies_are_no_part_of_the_image(engine: Engine) -> None:
    text = "FROM busybox\nRUN echo $HTTP_PROXY > /x\n"
    first = done(build(engine, text, "--build-arg", "HTTP_PROXY=http://a"))
    assert engine.ok("run", "--rm", first.image, "cat", "/x") == "http://a"
    assert "http://a" not in engine.ok("history", "--no-trunc", first.image)
    assert done(build(engine, text, "--build-arg", "HTTP_PROXY=http://b")).image == first.image


def test_limits_and_networks(engine: Engine) -> None:
    text = "FROM busybox\nRUN ulimit -n; df -k /dev/shm | tail -n 1; grep box /etc/hosts; ls /sys/class/net\n"
    built = done(
        build(
            engine,
            text,
            "--no-cache",
            "--ulimit",
            "nofile=123",
            "--shm-size",
            "1m",
            "--add-host",
            "box:1.2.3.4",
            "--network",
            "none",
        )
    )
    said = built.said
    assert "\n123\n" in said and " 1024 " in said and "1.2.3.4\tbox" in said and "\nlo\n" in said and "eth0" not in said
    memory = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    assert "\n33554432\n" in done(build(engine, f"FROM busybox\nRUN {memory}; true\n", "--no-cache", "-m", "32m")).said


def test_a_kept_container(engine: Engine) -> None:
    built = done(build(engine, "FROM busybox\nRUN echo kept\n", "--rm=false", "--no-cache"))
    container = built.said.partition("Running in ")[2][:12]
    assert engine.ok("ps", "-aq") == container and "Removing" not in built.said
    engine.ok("rm", container)


def test_another_dockerfile_and_an_ignored_one(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "My").write_text("FROM busybox\nCOPY . /x\n")
    for name in ("a.txt", "b.md", "keep.md"):
        (tmp_path / name).write_text(name)
    (tmp_path / ".dockerignore").write_text("*.md\n!keep.md\nsub\n.dockerignore\n")
    said = engine.ok("build", "-f", str(tmp_path / "sub" / "My"), str(tmp_path), env=CLASSIC)
    image = said.rpartition("Successfully built ")[2]
    found = set(engine.ok("run", "--rm", image, "find", "/x", "-type", "f").split())
    assert found == {"/x/a.txt", "/x/keep.md"}


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_compressed_contexts(engine: Engine, kind: str) -> None:
    import bz2
    import gzip
    import lzma

    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[kind]
    done(builds.by_docker_py(engine, pack(builds.archive({"f": "1"}, "FROM busybox\nCOPY f /\n"))))


# -- the cache --------------------------------------------------------------------------------------------------------

CACHED = "FROM busybox\nARG A=1\nCOPY f g /x/\nRUN cat /x/f\nENV B=1\n"


def test_the_cache(engine: Engine) -> None:
    first = done(build(engine, CACHED, f="cache", g="g"))
    again = done(build(engine, CACHED, f="cache", g="g"))
    assert steps(again) == ["made", "cache", "cache", "cache", "cache"] and again.image == first.image
    assert steps(done(build(engine, CACHED, f="cache2", g="g"))) == ["made", "cache", "made", "made", "made"]
    assert steps(done(build(engine, CACHED, "--build-arg", "A=2", f="cache", g="g")))[3] == "made"
    assert steps(done(build(engine, CACHED.replace("B=1", "B=2"), f="cache", g="g")))[-2:] == ["cache", "made"]
    fresh = done(build(engine, CACHED, "--no-cache", f="cache", g="g"))
    assert set(steps(fresh)) == {"made"} and fresh.image != first.image


def test_times_of_files_do_not_matter_and_modes_do(engine: Engine) -> None:
    def context(mode: int, mtime: int) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, data in (("Dockerfile", b"FROM busybox\nCOPY t /t\n"), ("t", b"times")):
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.mtime = len(data), mode, mtime
                tar.addfile(info, io.BytesIO(data))
        return out.getvalue()

    first = done(builds.by_cli(engine, context(0o644, 1000)))
    assert done(builds.by_cli(engine, context(0o644, 2000))).image == first.image
    assert done(builds.by_cli(engine, context(0o600, 1000))).image != first.image


def test_cache_from_an_image_that_came_from_elsewhere(engine: Engine) -> None:
    """It has no parents here: its history is what counts, and only with --cache-from."""
    done(build(engine, CACHED, "-t", "elsewhere:1", f="away", g="g"))
    saved = engine.api("GET", "/images/elsewhere:1/get").raw
    engine.ok("rmi", "elsewhere:1")
    engine.ok("load", stdin=saved)
    assert steps(done(build(engine, CACHED, "--cache-from", "elsewhere:1", f="away", g="g")))[1:] == ["cache"] * 4
    assert steps(done(build(engine, CACHED, "--cache-from", "nothing:1", f="away", g="g")))[1:] == ["made"] * 4
    engine.ok("rmi", "elsewhere:1")


def test_the_same_image_for_the_same_inputs(engine: Engine) -> None:
    text = "FROM busybox\nWORKDIR /w\nCOPY f x/\nRUN date +%s%N > /dev/null; mkdir d; echo 1 > d/y; rm -r /home\nADD <<A /z\n1\nA\n"
    options = ["--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1700000001"]
    first = done(build(engine, text, *options, f="epoch"))
    second = done(build(engine, text, *options, f="epoch"))
    assert set(steps(second)) == {"made"} and first.image == second.image
    assert builds.config(engine, first.image)["Created"] == "2023-11-14T22:13:21Z"
    assert set(engine.ok("run", "--rm", first.image, "stat", "-c", "%Y", "/w", "/w/d/y", "/z").split()) == {
        "1700000001"
    }


def test_prune_of_cache_mounts(engine: Engine) -> None:
    text = "FROM busybox\nRUN --mount=type=cache,id=pruned,target=/c,uid=5,mode=700 stat -c '%u %a' /c; head -c 5000 /dev/zero > /c/f\n"
    assert "\n5 700\n" in done(build(engine, text, "--no-cache")).said
    records = [one for one in engine.api("GET", "/system/df").json["BuildCache"] if "pruned" in one["Description"]]
    assert [(one["Size"], one["InUse"], one["Type"]) for one in records] == [(5000, False, "exec.cachemount")]
    kept = engine.api("POST", '/build/prune?filters={"until":["24h"]}').json
    assert kept == {"CachesDeleted": None, "SpaceReclaimed": 0}
    gone = engine.api("POST", f'/build/prune?filters={{"id":["{records[0]["ID"]}"]}}').json
    assert gone == {"CachesDeleted": [records[0]["ID"]], "SpaceReclaimed": 5000}
    assert not (engine.data_root / "build-cache" / records[0]["ID"]).exists()


# -- stages -----------------------------------------------------------------------------------------------------------


def test_independent_stages_run_side_by_side_and_are_told_in_order(engine: Engine) -> None:
    """The first waits for what the second does."""
    wait = "i=0; while [ ! -e /c/b ] && [ $i -lt 2000 ]; do i=$((i+1)); usleep 10000; done"
    mount = "RUN --mount=type=cache,id=side-by-side,target=/c"
    text = (
        f"FROM busybox AS a\n{mount} {wait}; test -e /c/b && echo met > /a\nFROM busybox AS b\n{mount} echo > /c/b; echo x > /b\n"
        "FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
    )
    built = done(build(engine, text, "--no-cache"))
    numbers = [int(part.partition("/")[0]) for part in built.said.split("Step ")[1:]]
    assert numbers == list(range(1, 8))
    engine.api("POST", "/build/prune")


def test_stages_that_nobody_needs_are_not_built(engine: Engine) -> None:
    assert len(steps(done(build(engine, "FROM busybox AS a\nRUN false\nFROM busybox\nENV A=1\n")))) == 2


# -- URLs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of some files, on loopback."""
    (tmp_path / "file.txt").write_text("fetched")
    os.utime(tmp_path / "file.txt", (1_600_000_000, 1_600_000_000))
    (tmp_path / "context.tar").write_bytes(builds.archive({"f": "remote"}, "FROM busybox\nCOPY f /f\n"))
    (tmp_path / "Dockerfile").write_text("FROM busybox\nENV REMOTE=1\n")
    with web.served(tmp_path) as url:
        yield url


def test_add_of_a_url(engine: Engine, served: str) -> None:
    right = "sha256:" + __import__("hashlib").sha256(b"fetched").hexdigest()
    built = done(
        build(
            engine, f"FROM busybox\nADD --checksum={right} {served}/file.txt /x/\nADD {served}/context.tar /kept.tar\n"
        )
    )
    assert (
        engine.ok(
            "run", "--rm", built.image, "sh", "-c", "cat /x/file.txt; stat -c ' %a %Y' /x/file.txt; test -f /kept.tar"
        )
        == "fetched 600 1600000000"
    )
    assert (
        "digest mismatch"
        in build(engine, f"FROM busybox\nADD --checksum=sha256:{'0' * 64} {served}/file.txt /x\n").error
    )
    assert "with status 404" in build(engine, f"FROM busybox\nADD {served}/none /x\n").error


def test_remote_contexts(engine: Engine, served: str) -> None:
    image = engine.ok("build", "-q", f"{served}/context.tar", env=CLASSIC)
    assert engine.ok("run", "--rm", image, "cat", "/f") == "remote"
    image = engine.ok("build", "-q", f"{served}/Dockerfile", env=CLASSIC)
    assert "REMOTE=1" in builds.config(engine, image)["Config"]["Env"]


# -- registries -------------------------------------------------------------------------------------------------------


def test_bases_and_sources_are_pulled(engine: Engine) -> None:
    with registries.registry() as registry:
        for name, text in (("base", "RUN echo base > /b\n"), ("source", "RUN echo source > /s\n")):
            done(build(engine, f"FROM busybox\n{text}", "-t", registry.name(name)))
            engine.ok("push", registry.name(name))
            engine.ok("rmi", registry.name(name))
        text = f"FROM {registry.name('base')}\nCOPY --from={registry.name('source')} /s /s\n"
        built = done(build(engine, text))
        assert engine.ok("run", "--rm", built.image, "cat", "/b", "/s") == "base\nsource"
        assert "latest: Pulling from base\n" in built.said and "latest: Pulling from source\n" in built.said
        engine.ok("tag", "busybox", registry.name("base"))
        again = done(build(engine, text, "--pull"))
        assert engine.ok("run", "--rm", again.image, "cat", "/b") == "base"
        engine.ok("rmi", "-f", registry.name("base"), registry.name("source"))


def test_a_base_behind_a_password(engine: Engine) -> None:
    """The client sends what it has logged in to, X-Registry-Config."""
    with registries.registry(password=True) as guarded:
        name, password = guarded.name("base:1"), registries.PASSWORD.encode()
        engine.ok("login", "-u", registries.USER, "--password-stdin", guarded.address, stdin=password)
        engine.ok("tag", "busybox", name)
        engine.ok("push", name)
        engine.ok("rmi", name)
        text = f"FROM {name}\nENV A=password\n"
        built = done(build(engine, text))
        assert engine.ok("run", "--rm", built.image, "sh", "-c", "echo $A") == "password"
        engine.ok("rmi", "-f", built.image, name)
        engine.ok("logout", guarded.address)
        assert "no basic auth credentials" in build(engine, text).error


# -- an early end -----------------------------------------------------------------------------------------------------


def intermediate(engine: Engine) -> str:
    return engine.ok("ps", "-q", "--filter", "name=build-")


@pytest.mark.parametrize("quiet", [False, True])
def test_a_client_that_leaves_ends_its_build(engine: Engine, quiet: bool) -> None:
    context = builds.archive({}, "FROM busybox\nRUN sleep 1000\n")
    connection = UnixConnection(engine.socket)
    connection.request(
        "POST", f"/v1.45/build?nocache=1{'&q=1' * quiet}", context, {"Content-Type": "application/x-tar"}
    )
    wait_for(lambda: intermediate(engine), "the build's container")
    connection.close()
    wait_for(lambda: engine.ok("ps", "-aq") == "", "its removal")


def test_cancel_by_id(engine: Engine) -> None:
    context = builds.archive({}, "FROM busybox\nRUN sleep 1000\n")
    with contextlib.closing(UnixConnection(engine.socket)) as connection:
        connection.request(
            "POST", "/v1.45/build?nocache=1&buildid=mine", context, {"Content-Type": "application/x-tar"}
        )
        wait_for(lambda: intermediate(engine), "the build's container")
        assert engine.api("POST", "/build/cancel?id=another").status == 200
        assert engine.api("POST", "/build/cancel").status == 400
        assert intermediate(engine)
        assert engine.api("POST", "/build/cancel?id=mine").status == 200
        said = connection.getresponse().read().splitlines()
    assert json.loads(said[-1])["error"] == "Build cancelled"
    assert engine.ok("ps", "-aq") == ""


def test_a_failed_stage_ends_the_others(engine: Engine) -> None:
    built = build(
        engine,
        "FROM busybox AS a\nRUN sleep 1000\nFROM busybox AS b\nRUN exit 7\nFROM a\nCOPY --from=b / /\n",
        "--no-cache",
    )
    assert built.error.endswith("returned a non-zero code: 7")
    assert engine.ok("ps", "-aq") == ""


def test_a_killed_engine_leaves_nothing_of_a_build() -> None:
    engine = Engine()
    try:
        engine.start().load()
        context = builds.archive({"f": "1"}, "FROM busybox\nCOPY f /f\nRUN --mount=target=/m ls /m; sleep 1000\n")
        connection = UnixConnection(engine.socket)
        connection.request("POST", "/v1.45/build", context, {"Content-Type": "application/x-tar"})
        wait_for(lambda: intermediate(engine), "the build's container")
        engine.kill()
        connection.close()
        engine.start()
        wait_for(lambda: engine.ok("ps", "-aq") == "", "the container's removal")
        wait_for(lambda: not list((engine.data_root / "tmp").iterdir()), "an empty tmp")
        again = done(builds.by_cli(engine, context.replace(b"sleep 1000", b"sleep 0000")))
        assert steps(again) == ["made", "cache", "made"]
    finally:
        engine.close()
