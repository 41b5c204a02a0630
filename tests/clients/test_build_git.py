"""Git repositories as contexts and as sources of ADD, from servers on loopback, as docker-py and the docker CLI ask."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from support import builds, repositories
from support.engine import Engine, wait_for
from support.repositories import commit, git, make

pytestmark = [pytest.mark.root, pytest.mark.network]
CLASSIC = {"DOCKER_BUILDKIT": "0"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[repositories.Server]:
    """app.git: a context in its root (branch main), one in sub/ and by a link, and another on the branch `other`."""
    path = make(tmp_path / "served" / "app.git")
    commit(path, {
        "Dockerfile": "FROM busybox\nCOPY . /x\n", "f": "main", "run": "#!/bin/sh\necho ran\n", "left": "out",
        ".dockerignore": "left\n", "sub/Dockerfile": "FROM busybox\nCOPY . /x\n", "sub/f": "sub", "linked": "-> sub",
        "sub/up": "-> ../f", "other.dockerfile": "FROM busybox\nCOPY f /other\n", "out": "-> /",
    })  # fmt: skip
    git(path, "tag", "v1")
    git(path, "checkout", "-q", "-b", "other")
    commit(path, {"f": "other"})
    git(path, "checkout", "-q", "main")
    with repositories.served(path.parent) as server:
        yield server


def build(engine: Engine, remote: str, **query: str) -> builds.Built:
    """What a client does that leaves the repository to the engine, as docker-py does."""
    asked = "&".join(f"{name}={quote(value, safe='')}" for name, value in {"remote": remote, **query}.items())
    answer = engine.api("POST", f"/build?{asked}", b"")
    said, image, error = "", "", ""
    for line in answer.raw.decode().splitlines():
        message = json.loads(line)
        said += message.get("stream", "")
        image = message.get("aux", {}).get("ID", image)
        error = message.get("error", message.get("message", error))
    return builds.Built("" if error else image, said, error)


def shown(engine: Engine, built: builds.Built, command: str) -> str:
    assert built.image, built.error
    return engine.ok("run", "--rm", built.image, "sh", "-c", command)


def test_a_context(engine: Engine, server: repositories.Server) -> None:
    url = f"{server.url}/app.git"
    assert shown(engine, build(engine, url), "cat /x/f; /x/run; ls -A /x") == (
        "mainran\n.dockerignore\nDockerfile\nf\nlinked\nother.dockerfile\nout\nrun\nsub"
    )
    assert shown(engine, build(engine, f"{url}#other"), "cat /x/f") == "other"
    assert shown(engine, build(engine, f"{url}#v1"), "cat /x/f") == "main"
    assert shown(engine, build(engine, f"{url}?branch=other"), "cat /x/f") == "other"
    assert shown(engine, build(engine, url, dockerfile="other.dockerfile"), "cat /other") == "main"
    git(server.root / "app.git", "checkout", "-q", "other")
    assert shown(engine, build(engine, url), "cat /x/f") == "other", "the remote's HEAD says what is built"


def test_a_directory_of_a_repository(engine: Engine, server: repositories.Server) -> None:
    url = f"{server.url}/app.git"
    for directory in ("sub", "/sub/", "linked", "./out/../sub", "../../sub"):
        built = build(engine, f"{url}#:{directory}")
        assert shown(engine, built, "cat /x/f; ls -A /x | tr '\\n' ' '") == "subDockerfile f up"
    assert shown(engine, build(engine, f"{url}?subdir=sub&ref=other"), "cat /x/f") == "sub"
    assert "Cannot locate specified Dockerfile" in build(engine, f"{url}#:sub", dockerfile="other.dockerfile").error
    for directory, problem in (("f", "not a directory"), ("none", "no such directory"), ("f/x", "not a directory")):
        assert f"error setting git context, {problem}: {directory}" in build(engine, f"{url}#:{directory}").error
    # Links lead nowhere out of the repository: this one is all of it.
    assert shown(engine, build(engine, f"{url}#:out"), "ls /x/sub/f") == "/x/sub/f"


def test_what_the_engine_refuses(engine: Engine, server: repositories.Server, tmp_path: Path) -> None:
    url = f"{server.url}/app.git"
    for remote, problem in {
        f"{url}#--upload-pack=touch": "invalid refspec: --upload-pack=touch",
        f"{url}#none": "couldn't find remote ref none",
        f"{url}?what=1": "unexpected query what=1",
        f"{url}?ref=a&tag=b": "more than one ref",
        f"{url}?commit=xyz": "invalid checksum of a Git repository, not a commit: xyz",
        f"{url}\nhost=evil.git": "invalid URL of a Git repository",
        f"{url}#a\tb": "invalid URL of a Git repository",
        "http://-x/a.git": "invalid URL of a Git repository",
        "http:///a.git": "invalid URL of a Git repository",
        "git://": "invalid URL of a Git repository",
        "http://127.0.0.1:1/a.git": "Failed to connect",
        "git@localhost:a.git": "a Git repository by SSH is not implemented by boxwright",
        f"file://{server.root}/app.git": "unsupported scheme of a remote source",
        f"ext::sh -c 'touch {tmp_path}/ran'.git": "unsupported scheme of a remote source",
    }.items():  # fmt: skip
        found = build(engine, remote)
        assert not found.image and problem in found.error, (remote, found)
    server.redirects["/moved"] = f"file://{server.root}/app"
    # git's words before and since 2.50.
    assert re.search("not supported|is disabled", build(engine, f"{server.url}/moved.git").error)
    assert not (tmp_path / "ran").exists()
    wait_for(lambda: not os.listdir(engine.data_root / "tmp"), "nothing is left of what failed")


def test_the_repository_itself_when_it_is_asked_for(engine: Engine, server: repositories.Server) -> None:
    arguments = json.dumps({"BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1"})
    built = build(engine, f"{server.url}/app.git#v1", buildargs=arguments)
    assert "not consumed" not in built.said
    assert shown(engine, built, "cat /x/.git/refs/tags/v1") == git(server.root / "app.git", "rev-parse", "v1")


def test_add(engine: Engine, server: repositories.Server) -> None:
    url, head = f"{server.url}/app.git", git(server.root / "app.git", "rev-parse", "other")
    text = (
        f"FROM busybox\nADD a {url}#other:sub /both/\nADD --chown=3:4 {url} /all\n"
        f"ADD --checksum={head} {url}#other /checked\nADD {url}?checksum={head[:12]}&ref=other /short\n"
        f"ADD --keep-git-dir=true {url}#main /kept\nADD --exclude=sub --exclude=out {url} /some\n"
    )
    built = builds.by_docker_py(engine, builds.archive({"a": "A"}, text))
    said = shown(
        engine, built,
        "cat /both/a /both/f; readlink /both/up; stat -c '%u %g %a' /all /all/run; cat /checked/f /short/f; echo;"
        "cat /kept/.git/HEAD; ls /all/.git 2>&1 | wc -l; ls -A /some",
    )  # fmt: skip
    assert said == (
        "Asub../f\n3 4 755\n3 4 755\notherother\nref: refs/heads/main\n1\n"
        ".dockerignore\nDockerfile\nf\nleft\nlinked\nother.dockerfile\nrun"
    )
    again = builds.by_docker_py(engine, builds.archive({"a": "A"}, text))
    assert again.said.count("Using cache") == text.count("ADD") and again.image == built.image
    wrong = f"FROM busybox\nADD --checksum={'0' * 40} {url}#other /x\n"
    assert "expected checksum to match 0000" in builds.by_docker_py(engine, builds.archive({}, wrong)).error
    commit(server.root / "app.git", {"f": "newer"})
    newer = builds.by_docker_py(engine, builds.archive({"a": "A"}, text))
    assert shown(engine, newer, "cat /all/f") == "newer"


def test_the_docker_cli_and_other_protocols(engine: Engine, server: repositories.Server, tmp_path: Path) -> None:
    # The CLI clones by itself, and leaves all but the directory that it was told.
    image = engine.ok("build", "-q", f"{server.url}/app.git#main:sub", env={**CLASSIC, "TMPDIR": str(tmp_path)})
    assert engine.ok("run", "--rm", image, "cat", "/x/f") == "sub"
    with repositories.daemon(server.root) as url:
        assert shown(engine, build(engine, f"{url}/app.git#other"), "cat /x/f") == "other"
        assert shown(engine, build(engine, f"{url}/app"), "cat /x/f") == "main"
