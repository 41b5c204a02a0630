"""A data root that is read-only: an engine does not start on it, one that runs says so, and goes on when it is over."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import images
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(300)]


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[None]:
    """A read-only view of `path` over itself: whatever is opened by its path from now on cannot be written."""
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def own(nothing_left_behind: None) -> Iterator[Engine]:
    made = Engine()
    try:
        yield made.start().load()
    finally:
        made.close()


def everything(engine: Engine) -> dict[str, Any]:
    """What the API and the directories show."""
    containers = engine.api("GET", "/containers/json?all=1").json
    return {
        "containers": sorted((c["Names"][0], c["State"]) for c in containers),
        "volumes": engine.ok("volume", "ls", "-q"),
        "images": engine.ok("images", "-q", "--no-trunc"),
        "names": sorted(os.listdir(engine.data_root / "containers")),
        "unfinished": os.listdir(engine.data_root / "tmp"),
        "snapshots": sorted(path.name for path in (engine.data_root / "snapshots").glob("*/*")),
    }


def test_an_engine_does_not_start_on_it_and_its_containers_go_on(own: Engine) -> None:
    own.ok("run", "-d", "--name", "lives", "busybox", "sleep", "100000")
    pid = own.inspect("lives")["State"]["Pid"]
    own.kill()
    with read_only(own.data_root):
        with pytest.raises(AssertionError, match=f"{own.data_root}/lock: the file system is read-only"):
            own.start()
        assert own.process and own.process.wait(30) == 1
        assert "Traceback" not in own.log.read_text()
        assert Path(f"/proc/{pid}").exists()
    own.start()
    assert own.inspect("lives")["State"]["Pid"] == pid


REFUSED = [
    ("POST", "/containers/create?name=more", {"Image": "busybox", "Cmd": ["true"]}),
    ("POST", "/containers/create?name=data", {"Image": "busybox", "HostConfig": {"Binds": ["fresh:/data"]}}),
    ("POST", "/containers/created/start", None),
    ("POST", "/volumes/create", {"Name": "fresh"}),
    ("POST", "/commit?container=lives&repo=made", None),
]


def test_a_request_that_must_write_is_refused_and_changes_nothing(own: Engine) -> None:
    own.ok("run", "-d", "--name", "lives", "busybox", "sleep", "100000")
    own.ok("create", "--name", "created", "busybox", "sleep", "100000")
    before = everything(own)
    with read_only(own.data_root):
        for method, path, body in REFUSED:
            answer = own.api(method, path, body)
            assert answer.status == 500, f"{method} {path}: {answer.raw!r}"
            said = answer.message
            assert said.startswith(f"{own.data_root}/") and said.endswith(": read-only file system"), said
        loaded = own.docker("load", "-i", str(images.busybox_archive()))
        assert loaded.code == 1 and "read-only file system" in loaded.err
        # A client that waits is answered, too.
        ran = own.docker("run", "--rm", "busybox", "true")
        assert ran.code == 125 and "read-only file system" in ran.err
        # What need not write works.
        assert own.ok("exec", "lives", "echo", "here") == "here"
        assert everything(own) == before
    for method, path, body in REFUSED:
        answer = own.api(method, path, body)
        assert answer.status in (200, 201, 204), f"{method} {path}: {answer.raw!r}"
    assert own.ok("run", "--rm", "busybox", "echo", "again") == "again"


def test_a_container_ends_on_it_and_is_removed_afterwards(own: Engine) -> None:
    own.ok("run", "-d", "--name", "ends", "-v", "/data", "busybox", "sleep", "100000")
    with read_only(own.data_root):
        assert own.api("POST", "/containers/ends/stop?t=0").status == 204
        assert own.inspect("ends")["State"]["ExitCode"] == 137
        refused = own.api("DELETE", "/containers/ends?v=1")
        assert refused.status == 500 and "read-only file system" in refused.message
        assert own.inspect("ends")["State"]["Status"] == "dead"
    own.ok("rm", "-v", "ends")
    assert own.ok("volume", "ls", "-q") == ""
    assert own.ok("ps", "-aq") == ""


def test_a_disk_that_turns_read_only_below_everything(nothing_left_behind: None) -> None:
    """What a kernel does to a file system with errors: the database cannot be written either, nor can the containers."""
    engine = Engine()
    with own_disk(engine) as disk:
        try:
            engine.start().load()
            for name in ("lives", "stopped", "killed"):
                engine.ok("run", "-d", "--name", name, "busybox", "sleep", "100000")
            engine.ok("create", "--name", "created", "busybox", "sleep", "100000")
            disk.fail()
            for method, path in (("POST", "/containers/created/start"), ("POST", "/containers/lives/pause")):
                answer = engine.api(method, path)
                assert answer.status == 500, answer.raw
                assert f"the database {engine.data_root}/boxwright.db: " in answer.message, answer.message
            assert (states(engine)["/lives"], states(engine)["/created"]) == ("running", "created")
            assert engine.ok("exec", "lives", "echo", "here") == "here"
            # They can be ended, although that cannot be written.
            assert engine.api("POST", "/containers/killed/kill").status == 204
            assert engine.api("POST", "/containers/stopped/stop?t=0").status == 204
            assert engine.api("POST", "/containers/lives/stop?t=0").status == 204
            assert set(states(engine).values()) == {"exited", "created"}
            engine.kill()
            disk.mend()
            engine.start()
            ended = {f"/{name}": "exited" for name in ("lives", "stopped", "killed")}
            assert states(engine) == {**ended, "/created": "created"}
            engine.ok("start", "lives", "created")
        finally:
            engine.close()


def states(engine: Engine) -> dict[str, str]:
    return {c["Names"][0]: c["State"] for c in engine.api("GET", "/containers/json?all=1").json}


class Disk:
    """An ext4 file system in a file, mounted as the engine's data root."""

    def __init__(self, engine: Engine) -> None:
        self.file, self.root = engine.home / "disk.img", engine.data_root
        with self.file.open("wb") as file:
            file.truncate(4 << 30)  # as far as it is used; loading an image asks for so much to be free
        subprocess.run(["mkfs.ext4", "-q", str(self.file)], check=True)
        self.root.mkdir(mode=0o710)

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self.file), str(self.root)], check=True)

    def fail(self) -> None:
        """As after an error that the kernel has found: read-only at once, whoever has what open."""
        subprocess.run(["sync", "-f", str(self.root)], check=True)  # else it is a power cut, too
        subprocess.run(["mount", "-o", "remount,abort", str(self.root)], check=False, stderr=subprocess.DEVNULL)

    def mend(self) -> None:
        """Mounted afresh, once nobody has it any more: what waited for a start has a mount namespace of its own."""
        wait_for(lambda: subprocess.run(["umount", str(self.root)], capture_output=True).returncode == 0, "unmounted")
        wait_for(lambda: not self.devices(), "the old mount is gone everywhere")
        self.mount()

    def devices(self) -> str:
        """The loop devices of it."""
        return subprocess.run(["losetup", "-j", str(self.file)], capture_output=True, text=True, check=True).stdout


@contextlib.contextmanager
def own_disk(engine: Engine) -> Iterator[Disk]:
    """Skips where there are no loop devices."""
    disk = Disk(engine)
    try:
        disk.mount()
    except subprocess.CalledProcessError:
        shutil.rmtree(engine.home)
        pytest.skip("no loop device can be had here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk.root)], check=False)
        shutil.rmtree(engine.home, ignore_errors=True)
