"""The protocol between parent and child, over a real socket pair."""

import errno
import os
import socket

import pytest

from boxwright.errdefs import StepError
from boxwright.libcontainer import sync
from boxwright.libcontainer.process import InitProcess, InitRequest
from boxwright.linux import pidfd


@pytest.fixture
def pair() -> object:
    ours, theirs = sync.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


Pair = tuple[socket.socket, socket.socket]


def test_round_trip_with_descriptors(pair: Pair) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    sync.send(pair[1], sync.READY, {"steps": [["a", 1, 2, ""]]}, [fd])
    kind, body, fds = sync.receive(pair[0])
    assert (kind, body) == (sync.READY, {"steps": [["a", 1, 2, ""]]})
    assert len(fds) == 1
    assert os.fstat(fds[0]).st_rdev == os.fstat(fd).st_rdev
    assert not os.get_inheritable(fds[0])
    os.close(fd)
    os.close(fds[0])


def test_end_of_file(pair: Pair) -> None:
    pair[1].close()
    assert sync.receive(pair[0]) == ("", {}, [])
    assert sync.is_closed(pair[0])


def test_what_was_sent_is_read_though_the_other_end_left_things_unread(pair: Pair) -> None:
    sync.send(pair[0], sync.PLACED)
    sync.send(pair[1], sync.FAILED, {"error": {"message": "x"}})
    pair[1].close()
    assert sync.receive(pair[0])[0] == sync.FAILED


@pytest.mark.parametrize("data", [b"x", b"{}", b"[1, {}]", b'["a", 1]', b'["a"]', b"[" * 50000, b"\xff"])
def test_nonsense(pair: Pair, data: bytes) -> None:
    before = len(os.listdir("/proc/self/fd"))
    payload = b"\0\0\0\0"
    pair[1].sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, payload)])  # descriptor 0
    with pytest.raises((ValueError, RecursionError)):
        sync.receive(pair[0])
    assert len(os.listdir("/proc/self/fd")) == before


def test_too_long_loses_its_steps_but_not_its_error(pair: Pair) -> None:
    sync.send(pair[1], sync.FAILED, {"error": {"message": "why"}, "steps": [["s" * 100, 1, 2, ""]] * 1000})
    assert sync.receive(pair[0])[:2] == (sync.FAILED, {"error": {"message": "why"}})


def test_moved_above(pair: Pair) -> None:
    moved = sync.above(pair[1], 200)
    assert moved.fileno() >= 200
    sync.send(moved, sync.READY)
    assert sync.receive(pair[0])[0] == sync.READY
    moved.close()


def test_await_execve(pair: Pair) -> None:
    for kind, body in ((sync.FORKED, {"pid": 7}), (sync.EXECUTING, {})):
        sync.send(pair[1], kind, body)
    pair[1].close()
    assert sync.await_execve(pair[0]) == 7


def test_await_execve_of_one_that_dies(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(StepError, match="ended before"):
        sync.await_execve(pair[0])


class TestFeed:
    """A child that speaks out of turn, or not at all, is killed and told."""

    def child(self) -> tuple[InitProcess, socket.socket]:
        pid = os.fork()
        if pid == 0:
            import signal

            signal.pause()
        ours, theirs = sync.pair()
        ours.setblocking(False)
        request = InitRequest({"process": {}}, -1)
        return InitProcess(pid, pidfd.open_pid(pid), ours, request, lambda _: None, []), theirs

    @pytest.mark.parametrize(
        "kinds",
        [
            [sync.READY, sync.NETWORK],
            [sync.EXECUTING, sync.READY],
            ["nonsense"],
            [sync.NETWORK, sync.EXECUTING],
        ],
    )
    def test_out_of_turn(self, kinds: list[str]) -> None:
        process, theirs = self.child()
        for kind in kinds:
            fds = [0] if kind == sync.NETWORK else []
            sync.send(theirs, kind, {}, fds)
        events = [process.feed() for _ in range(3)]
        assert [event[0] for event in events if event is not None and event[0] != kinds[0]] == ["failed"]
        with pytest.raises(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
        process.close()
        theirs.close()

    def test_the_usual_turn(self) -> None:
        process, theirs = self.child()
        assert process.feed() is None
        sync.send(theirs, sync.READY, {"steps": [["a", 1, 2, ""]]})
        assert process.feed() == ("ready", [["a", 1, 2, ""]])
        sync.send(theirs, sync.EXECUTING, {"steps": [], "path": "/bin/x", "execve_ns": 5})
        theirs.close()
        event = process.feed()
        assert event is not None
        assert (event[0], event[1][0][0], event[1][0][1], event[1][0][3]) == ("executed", "execve", 5, "/bin/x")
        process.abort()
        process.close()


class Congested:
    """A socket that has no room for the first messages."""

    def __init__(self, sock: socket.socket, *failures: int) -> None:
        self.sock, self.failures = sock, list(failures)

    def sendmsg(self, *arguments: object) -> int:
        if self.failures:
            raise OSError(self.failures.pop(0), "injected")
        return self.sock.sendmsg(*arguments)  # type: ignore[arg-type]


def test_what_cannot_be_sent_for_a_moment_is_sent_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr(sync, "sleep", paused.append)
    crowded = Congested(pair[1], errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)
    sync.send(crowded, sync.FAILED, {"error": {"message": "no"}})  # type: ignore[arg-type]
    assert sync.receive(pair[0]) == (sync.FAILED, {"error": {"message": "no"}}, [])
    assert len(paused) == 3
    with pytest.raises(OSError, match="injected"):
        sync.send(Congested(pair[1], *[errno.ENOBUFS] * 1000), sync.READY)  # type: ignore[arg-type]
    assert sum(paused) < 2.0
    with pytest.raises(BrokenPipeError):
        sync.send(Congested(pair[1], errno.EPIPE), sync.READY)  # type: ignore[arg-type]
