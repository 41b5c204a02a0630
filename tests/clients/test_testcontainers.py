"""testcontainers-python on an embedded engine: its generic container, five of its modules, and its reaper."""

import contextlib
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound
from support import images, services
from support.engine import DEADLINE, wait_for

import boxwright.embed
from boxwright.embed import EmbeddedEngine

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def tc_engine(nothing_left_behind: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedEngine]:
    with boxwright.embed.engine() as engine:
        engine.load(images.busybox_archive())
        engine.load(services.archive(tmp_path_factory.mktemp("services") / "services.tar"))
        yield engine


@pytest.fixture
def tc(tc_engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """testcontainers' configuration, led to the engine; afterwards no container may be left."""
    for name, value in tc_engine.variables.items():
        monkeypatch.setenv(name, value)
    from testcontainers.core.config import testcontainers_config

    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)
    monkeypatch.setattr(testcontainers_config, "sleep_time", 0.05)
    yield testcontainers_config
    client = tc_engine.client()
    assert client.containers.list(all=True) == []
    client.close()


def address(container: Any, port: int) -> str:
    """HOST:PORT of a published port; the host depends on whether we are in a container ourselves."""
    return f"{container.get_container_host_ip()}:{container.get_exposed_port(port)}"


def test_generic_container(tc: Any) -> None:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy, PortWaitStrategy

    made = (
        DockerContainer("busybox")
        .with_command(
            ["sh", "-c", "mkdir /www; echo $PAGE > /www/index.html; echo serving; exec httpd -f -p 8000 -h /www"]
        )
        .with_env("PAGE", "hello")
        .with_exposed_ports(8000)
        .with_volume_mapping("/etc", "/host", "ro")
        .with_tmpfs_mount("/fast", "size=1m")
        .with_name("generic")
        .waiting_for(LogMessageWaitStrategy("serving"))
    )
    with made:
        PortWaitStrategy(8000).wait_until_ready(made)
        url = f"http://{address(made, 8000)}"
        assert urllib.request.urlopen(url, timeout=10).read() == b"hello\n"
        assert made.exec(["sh", "-c", "cat /host/hostname; exit 3"]) == (3, Path("/etc/hostname").read_bytes())
        assert made.get_logs() == (b"serving\n", b"")
        assert made.status == "running" or made.reload() is None
        info = made.get_container_info()
        assert info and info.Name == "/generic"


def test_redis(tc: Any) -> None:
    from testcontainers.community.redis import RedisContainer

    with RedisContainer("redis:stand-in") as container:
        client = container.get_client()
        assert client.ping()
        assert client.set("key", "a value") and client.get("key") == b"a value"
        assert client.get("none") is None
        client.close()


def test_postgres(tc: Any) -> None:
    from testcontainers.community.postgres import PostgresContainer

    with PostgresContainer("postgres:stand-in", username="me", password="it's", dbname="db", driver=None) as container:
        url = container.get_connection_url()
        assert url == f"postgresql://me:it%27s@{address(container, 5432)}/db"
        assert container.exec(["sh", "-c", "PGPASSWORD=wrong psql"]).exit_code == 2


def test_mysql(tc: Any) -> None:
    from testcontainers.community.mysql import MySqlContainer

    with MySqlContainer("mysql:stand-in", dbname="shop") as container:
        assert container.get_connection_url().endswith(f"@{address(container, 3306)}/shop")
        assert container.get_logs()[0].count(b"ready for connections") == 2


def test_nginx(tc: Any) -> None:
    from testcontainers.community.nginx import NginxContainer

    with NginxContainer("nginx:stand-in") as container:
        url = f"http://{address(container, 80)}/"
        assert urllib.request.urlopen(url, timeout=10).read() == b"Welcome to nginx!\n"


def test_nats(tc: Any) -> None:
    from testcontainers.community.nats import NatsContainer

    with NatsContainer("nats:stand-in") as container:
        assert container.nats_uri() == f"nats://{address(container, 4222)}"


def test_a_container_that_fails_is_told(tc: Any) -> None:
    import docker.errors
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    with (
        pytest.raises(docker.errors.APIError, match="executable file not found"),
        DockerContainer("busybox", command="no-such"),
    ):
        pass
    ended = DockerContainer("busybox", command="true").waiting_for(
        LogMessageWaitStrategy("never").with_startup_timeout(1)
    )
    with pytest.raises((TimeoutError, RuntimeError)), ended:
        pass


REAPED = """
import os, sys
from testcontainers.core.config import testcontainers_config
testcontainers_config.sleep_time = 0.05
from testcontainers.core.container import DockerContainer
made = DockerContainer("busybox", command="sleep 600").start()
print(made.get_container_id(), flush=True)
sys.stdin.read()
"""


def test_the_reaper_removes_what_a_killed_program_leaves(tc: Any, tc_engine: EmbeddedEngine, tmp_path: Path) -> None:
    tc_engine.load(services.ryuk_archive(tmp_path / "ryuk.tar"))
    environment = {**tc_engine.environment, "RYUK_CONTAINER_IMAGE": "ryuk:stand-in", "RYUK_RECONNECTION_TIMEOUT": "1s"}
    environment.pop("TESTCONTAINERS_RYUK_DISABLED", None)
    program = subprocess.Popen(
        [sys.executable, "-c", REAPED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert program.stdout and program.stdin
    client = tc_engine.client()
    try:
        started = program.stdout.readline().strip()
        names = {container.name for container in client.containers.list()}
        assert len(started) == 64 and any(name.startswith("testcontainers-ryuk-") for name in names)
        os.kill(program.pid, signal.SIGKILL)
        program.wait(DEADLINE)
        wait_for(lambda: not client.api.containers(all=True), "the reaper removes it, and then itself")
    finally:
        program.kill()
        program.stdin.close()
        program.stdout.close()
        for container in client.containers.list(all=True, sparse=True):
            with contextlib.suppress(NotFound):
                container.remove(force=True)
        client.close()
