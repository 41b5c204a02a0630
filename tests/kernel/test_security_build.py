"""SECURITY.md, builds: contexts whose links lead to the host's files."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.jobs import ForkedJobs

from boxwright.errdefs import Error

pytestmark = pytest.mark.root
SECRET = b"known to nobody else"


@pytest.fixture
def context(tmp_path: Path) -> Iterator[int]:
    """A context beside a file of the host, with links that a resolution by string would follow to it."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(SECRET)
    inside = tmp_path / "context"
    inside.mkdir()
    (inside / "absolute").symlink_to(victim / "file")
    (inside / "up").symlink_to("../victim/file")
    (inside / "directory").symlink_to(victim)
    (inside / "magic").symlink_to(f"/proc/{os.getpid()}/root{victim}/file")
    fd = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


PATHS = ["absolute", "up", "directory/file", "magic", "../victim/file", "*/file", "up/../../victim/file"]


def run(kind: str, args: dict[str, Any], context: int) -> bytes:
    """What the job wrote, whether it failed or not."""
    out = os.memfd_create("out")
    try:
        with contextlib.suppress(Error):
            asyncio.run(ForkedJobs().run(kind, args, [out, context]))
        return os.pread(out, 1 << 20, 0)
    finally:
        os.close(out)


@pytest.mark.parametrize("path", PATHS)
def test_nothing_of_the_host_is_read(context: int, path: str) -> None:
    assert SECRET not in run("build.read", {"source": "directory", "path": path, "limit": 1 << 20}, context)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("parents", [False, True])
def test_nothing_of_the_host_is_copied(context: int, path: str, parents: bool) -> None:
    args = {
        "instruction": "COPY", "destination": "/x/", "view": None, "below": False, "now": 0, "latest": None,
        "link": False, "source": "directory", "parents": parents, "excludes": [], "chmod": None, "owner": None,
        "keep": False, "items": [{"kind": "tree", "path": path}], "write": True,
    }  # fmt: skip
    assert SECRET not in run("build.layer", args, context)


def test_what_is_inside_is_read(context: int, tmp_path: Path) -> None:
    """So the paths above fail for what they are, not for how they are asked."""
    (tmp_path / "context" / "own").write_text("mine")
    (tmp_path / "context" / "link").symlink_to("/own")
    for path in ("own", "link", "../own"):
        assert run("build.read", {"source": "directory", "path": path, "limit": 1 << 20}, context) == b"mine"
