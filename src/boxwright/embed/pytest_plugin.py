"""Fixtures of pytest: a private engine for a test session, and the environment that leads docker's clients to it.

Installed with boxwright (entry point `pytest11`); an engine is started when the first test asks for one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from boxwright.embed.engine import ELSEWHERE, EmbeddedEngine, engine


def pytest_addoption(parser: pytest.Parser) -> None:
    """Settings of the session's engine, for pyproject.toml, pytest.ini or tox.ini."""
    parser.addini("boxwright_images", "image archives that the session's engine loads", "paths", default=[])
    parser.addini("boxwright_flags", "more flags of `boxwright serve`", "args", default=[])
    parser.addini("boxwright_data_root", "a directory that keeps images between sessions", "string", default="")


@pytest.fixture(scope="session")
def boxwright_engine(pytestconfig: pytest.Config) -> Iterator[EmbeddedEngine]:
    """A private engine (`boxwright.embed.EmbeddedEngine`) for the whole session; with xdist one for each worker."""
    root = pytestconfig.getini("boxwright_data_root")
    data_root = pytestconfig.rootpath / root if root else None
    with engine(data_root=data_root, flags=pytestconfig.getini("boxwright_flags")) as made:
        for archive in pytestconfig.getini("boxwright_images"):
            made.load(archive)
        yield made


@pytest.fixture
def docker_host(boxwright_engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> str:
    """DOCKER_HOST of the session's engine, set in the environment while the test runs."""
    for name in ELSEWHERE:
        monkeypatch.delenv(name, raising=False)
    for name, value in boxwright_engine.variables.items():
        monkeypatch.setenv(name, value)
    return boxwright_engine.docker_host
