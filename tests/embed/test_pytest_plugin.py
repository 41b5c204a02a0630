"""The pytest plugin, in a test session of its own."""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support import images
from support.engine import DEADLINE

pytestmark = [pytest.mark.root, pytest.mark.network]
PLUGIN = "boxwright.embed.pytest_plugin"
ROOT = Path(__file__).parents[2]

TESTS = """
import os, subprocess
import docker

def test_with_docker_py(docker_host):
    client = docker.from_env()
    assert client.containers.run("busybox", "echo hello", remove=True) == b"hello\\n"
    client.close()

def test_with_the_cli(docker_host):
    assert os.environ["DOCKER_HOST"] == docker_host and "DOCKER_CONTEXT" not in os.environ
    assert subprocess.check_output(["docker", "run", "--rm", "hostfs", "echo", "hi"]) == b"hi\\n"

def test_engine_of_the_session(boxwright_engine):
    assert "DOCKER_HOST" not in os.environ
    with open("home", "w") as file:
        file.write(os.path.dirname(boxwright_engine.socket))
"""


def test_fixtures_in_a_session(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    archive = images.busybox_archive()
    (tmp_path / "pytest.ini").write_text(
        f"[pytest]\nboxwright_images = {archive}\nboxwright_flags = --log-level debug\n"
    )
    installed = [point for point in importlib.metadata.entry_points(group="pytest11") if point.value == PLUGIN]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "DOCKER_CONTEXT": "other"}
    environment.pop("DOCKER_HOST", None)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *([] if installed else ["-p", PLUGIN])],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=4 * DEADLINE,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout
    assert not os.path.exists((tmp_path / "home").read_text())


def test_the_plugin_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert declared == {"boxwright": PLUGIN}
