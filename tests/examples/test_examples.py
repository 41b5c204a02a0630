"""`examples/`: a Debian in eight layers and servers of Debian's packages on it, built by our builder, run, published, and
spoken to by their own clients.  `make test-examples`; needs Debian's archive.
"""

import contextlib
import json
import os
import random
import shutil
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from support import images
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.examples, pytest.mark.timeout(900)]

EXAMPLES = Path(__file__).parents[2] / "examples"
CLASSIC = {"DOCKER_BUILDKIT": "0"}


def build(engine: Engine, tag: str, directory: Path, *options: str) -> None:
    engine.ok("build", "-t", tag, *options, str(directory), env=CLASSIC, timeout=600)


@pytest.fixture(scope="module")
def debian(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with `debian-example`, built from the tree of a debootstrap."""
    engine.load(images.debian_archive())
    context = tmp_path_factory.mktemp("debian")
    shutil.copy(EXAMPLES / "debian" / "Dockerfile", context)
    source = engine.ok("create", "debian:bookworm")
    engine.ok("export", "-o", str(context / "rootfs.tar"), source)
    engine.ok("rm", source)
    build(engine, "debian-example", context)
    yield engine


def run(engine: Engine, name: str, port: int) -> int:
    """Build and start an example; returns the port of the host that its own is published on."""
    build(engine, f"{name}-example", EXAMPLES / name, "--build-arg", "BASE=debian-example")
    # Not the engine's choice: other engines of this machine make the same one.
    published = next(number for number in random.sample(range(20000, 30000), 100) if free(number))
    engine.ok("run", "-d", "--name", name, "-p", f"127.0.0.1:{published}:{port}", f"{name}-example")
    return published


def free(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def fetch(port: int, path: str = "/") -> bytes:
    def answer() -> bytes:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
                found: bytes = response.read()
                return found
        except OSError:
            return b""

    data: bytes = wait_for(answer, f"an answer on port {port}")
    return data


def test_debian(debian: Engine) -> None:
    found = json.loads(debian.ok("image", "inspect", "debian-example"))[0]
    assert len(found["RootFS"]["Layers"]) >= 8 and found["Size"] > 100_000_000
    said = debian.ok(
        "run", "--rm", "debian-example", "bash", "-c", "cat /etc/motd; id -u someone; dpkg -l | wc -l; stat -c %a /tmp"
    )
    lines = said.splitlines()
    assert lines[:2] == ["Debian, built from scratch.", "1000"] and int(lines[2]) > 50 and lines[3] == "1777"


def test_redis(debian: Engine) -> None:
    port = run(debian, "redis", 6379)
    wait_for(lambda: debian.docker("exec", "redis", "redis-cli", "set", "key", "value").out == "OK\n", "redis")
    with contextlib.closing(redis.Redis(port=port)) as client:
        assert client.get("key") == b"value"
    wait_for(lambda: debian.inspect("redis")["State"]["Health"]["Status"] == "healthy", "its health check")


def test_nginx(debian: Engine) -> None:
    port = run(debian, "nginx", 80)
    assert fetch(port) == b"<h1>boxwright</h1>\n"
    assert "GET / HTTP/1.1" in debian.ok("logs", "nginx")
    debian.ok("stop", "nginx")
    assert debian.inspect("nginx")["State"]["ExitCode"] == 0


def test_python(debian: Engine) -> None:
    assert json.loads(fetch(run(debian, "python", 8000), "/some/where")) == {"path": "/some/where", "user": 65534}


def test_postgresql(debian: Engine) -> None:
    run(debian, "postgresql", 5432)
    client = ["run", "--rm", "--link", "postgresql:db", "postgresql-example", "psql", "-h", "db", "-At", "-c"]
    wait_for(lambda: debian.docker(*client, "select 1").code == 0, "postgresql")
    debian.ok(*client, "create table t as select generate_series(1, 1000) as n")
    assert debian.ok(*client, "select sum(n) from t") == "500500"
    debian.ok("restart", "postgresql")
    wait_for(lambda: debian.docker(*client, "select count(*) from t").out == "1000\n", "its return")


def test_everything_again_from_the_cache(debian: Engine) -> None:
    for name in ("redis", "nginx", "python", "postgresql"):
        build(debian, f"{name}-example", EXAMPLES / name, "--build-arg", "BASE=debian-example")
        said = debian.ok("build", "--build-arg", "BASE=debian-example", str(EXAMPLES / name), env=CLASSIC)
        assert " ---> Running in" not in said, os.linesep.join(said.splitlines()[-20:])
