"""One failure at one step of start, stop, remove or commit, for every step: the verb works or says why, nothing is lost, nothing
leaks, and a second attempt succeeds.

    system calls   the n-th call of a kind fails, in the engine or in launcher, shim and init   (strace)
    descriptors    the engine may open n more                                                  (prlimit)
    disk           the data root has room for n pages                                          (tmpfs)

`make test` takes some steps of each, by a seed that is printed; `make faults` (BOXWRIGHT_FAULT_ALL=1) takes all.
BOXWRIGHT_FAULT_SEED repeats a choice; a failed step is named by the test's id and the message.
"""

import contextlib
import http.client
import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from support import below, injection
from support.engine import Engine, UnixConnection, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.network,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

ALL = os.environ.get("BOXWRIGHT_FAULT_ALL", "") not in ("", "0")
SEED = int(os.environ.get("BOXWRIGHT_FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
STEPS = 2  # of each kind in `make test`
ANSWER = 60.0  # seconds
SETTLE = 3.0  # seconds for what goes by itself
DISK = "4g"  # as far as it is used; loading an image asks for so much to be free

# What fails, and how it can fail.
# Not write(2): the event loop aborts when its own eventfd cannot be written, which no full disk does.
ENGINE_CALLS = [
    ("openat", "EMFILE"), ("pwrite64", "ENOSPC"), ("mkdir", "ENOSPC"), ("rename", "EIO"),
    ("unlink", "EIO"), ("socketpair", "ENFILE"), ("ftruncate", "EIO"), ("sendmsg", "ENOBUFS"), ("sendmsg", "ENOMEM"),
]  # fmt: skip
BELOW_CALLS = {
    "start": [
        ("openat", "ENFILE"), ("write", "ENOSPC"), ("mkdir", "ENOMEM"), ("mount", "EPERM"), ("clone", "EAGAIN"),
        ("clone3", "EAGAIN"), ("fsmount", "ENOMEM"), ("move_mount", "ENOMEM"), ("pwrite64", "EIO"),
        ("sethostname", "EPERM"), ("pivot_root", "EINVAL"), ("execve", "ENOMEM"), ("socketpair", "EMFILE"),
        ("sendmsg", "ENOBUFS"), ("sendmsg", "ETOOMANYREFS"), ("prctl", "EPERM"), ("unshare", "ENOMEM"),
        ("close_range", "ENOMEM"),
    ],
    "stop": [
        ("pidfd_send_signal", "EPERM"), ("openat", "ENFILE"), ("rmdir", "EBUSY"), ("unlink", "EIO"),
        ("pwrite64", "ENOSPC"), ("sendmsg", "ENOBUFS"), ("sendmsg", "ENOMEM"), ("mmap", "ENOMEM"),
    ],
    "end": [
        ("pidfd_send_signal", "EPERM"), ("openat", "ENFILE"), ("rmdir", "EBUSY"), ("unlink", "EIO"),
        ("sendmsg", "ENOBUFS"), ("mmap", "ENOMEM"),
    ],
    "commit": [
        ("openat", "ENFILE"), ("openat2", "ENFILE"), ("clone", "EAGAIN"), ("unshare", "ENOMEM"), ("prctl", "EPERM"),
        ("prlimit64", "EPERM"), ("open_tree", "ENOMEM"), ("move_mount", "ENOMEM"), ("mount_setattr", "EPERM"),
        ("pivot_root", "EINVAL"), ("capset", "EPERM"), ("seccomp", "ENOMEM"), ("getdents64", "EIO"),
        ("readlinkat", "EIO"), ("preadv2", "EIO"), ("pread64", "EIO"), ("flistxattr", "EIO"), ("fgetxattr", "EIO"),
        ("write", "ENOSPC"), ("mkdirat", "ENOSPC"), ("symlinkat", "EDQUOT"), ("linkat", "EMLINK"), ("fchown", "EPERM"),
        ("fchmod", "EIO"), ("utimensat", "EIO"), ("sendmsg", "ENOBUFS"), ("sendmsg", "ENOMEM"), ("mmap", "ENOMEM"),
    ],
}  # fmt: skip


class Verb:
    """A verb, what has to be there before it, and what has to hold after a second attempt."""

    def __init__(self, method: str, path: str, prepare: str, again: tuple[int, ...]) -> None:
        self.method, self.path, self.prepare, self.again = method, path, prepare, again


VERBS = {
    "start": Verb("POST", "/containers/{}/start", "created", (204, 304)),
    "stop": Verb("POST", "/containers/{}/stop?t=0", "running", (204, 304)),
    "remove": Verb("DELETE", "/containers/{}?v=1", "exited", (204, 404)),
    "end": Verb("DELETE", "/containers/{}?force=1&v=1", "running", (204, 404)),
    "commit": Verb("POST", "/commit?container={0}&repo=made-{0}", "running", (201,)),
}
FILES = "mkdir /d; echo {0} > /own; ln /own /d/hard; ln -s /own /d/soft; mkfifo /d/pipe; chown 7:7 /d/soft; rm /bin/vi"
_numbers = itertools.count(1)
_at_first: set[str] = set()  # snapshots
_bystanders: set[int] = set()  # shims of others


@pytest.fixture(scope="module")
def own(nothing_left_behind: None) -> Iterator[Engine]:
    with injection.engine_on_small_disk(DISK) as made:
        _at_first.update(snapshots(made))
        _bystanders.update(below.named(made, below.SHIM))
        yield made


def sample(steps: range, *key: object) -> list[int]:
    """All of them, or the seed's choice."""
    return list(steps) if ALL else sorted(random.Random(f"{SEED}/{key}").sample(steps, min(STEPS, len(steps))))


def ask(engine: Engine, connection: http.client.HTTPConnection, method: str, path: str) -> tuple[int, bytes]:
    """The answer; (0, b"") when the connection broke, which a failing call of the engine may bring about."""
    try:
        connection.request(method, engine.version + path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""


class Findings:
    """What has failed: a step that does is noted and cleared away, and the next one is tried."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.found = engine, list[str]()

    def attempt(self, verb: str, fault: Callable[[], AbstractContextManager[None]], what: str) -> None:
        """One run with `fault`; what: which, for a person and for the next run."""
        name = f"i{next(_numbers)}"
        try:
            attempt(self.engine, VERBS[verb], fault, what, name)
        except AssertionError as error:
            self.found.append(str(error))
            self.engine.restart()
            self.engine.api("DELETE", f"/containers/{name}?force=1&v=1", timeout=ANSWER)
            self.engine.docker("rmi", "-f", f"made-{name}")

    def __enter__(self) -> "Findings":
        return self

    def __exit__(self, *_: object) -> None:
        assert not self.found, "\n\n".join(self.found)


def attempt(
    engine: Engine, verb: Verb, fault: Callable[[], AbstractContextManager[None]], what: str, name: str
) -> None:
    """One run: prepare, fail, look, try again, clear away."""
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"Binds": ["/data"]}}
    made = engine.api("POST", f"/containers/create?name={name}", body)
    assert made.status == 201, f"{what}: {made.raw!r}"
    if verb.prepare != "created":
        engine.ok("start", name)
    if verb is VERBS["commit"]:
        engine.ok("exec", name, "sh", "-c", FILES.format(name))
    if verb.prepare == "exited":
        engine.ok("stop", "-t", "0", name)
    witness = engine.inspect("witness")["State"]["Pid"]
    path = verb.path.format(name)
    with contextlib.closing(UnixConnection(engine.socket, ANSWER)) as connection:
        assert ask(engine, connection, "GET", "/_ping")[0] == 200
        with fault():
            status, said = ask(engine, connection, verb.method, path)
    assert status in (0, 201, 204) or (status >= 400 and said), f"{what}: {status} {said!r}"
    if verb is VERBS["commit"]:
        assert engine.docker("exec", name, "true").code == 0, f"{what}: it stands still after {status} {said!r}"
    assert engine.process and engine.process.poll() is None, (
        f"{what}: the engine died: {engine.log.read_text()[-2000:]}"
    )
    again = engine.api(verb.method, path, timeout=ANSWER)
    assert again.status in verb.again, f"{what}: first {status} {said!r}, again {again.status} {again.raw!r}"
    check(engine, name, verb, what)
    gone = engine.api("DELETE", f"/containers/{name}?force=1&v=1", timeout=ANSWER)
    assert gone.status in (204, 404), f"{what}: {gone.raw!r}"
    assert engine.inspect("witness")["State"]["Pid"] == witness, f"{what}: another container was hit"
    if not settled(engine):
        engine.restart()  # what could not be given back is kept in the books, for the next engine
        assert settled(engine), f"{what}: left behind: {residue(engine)}"
        assert engine.inspect("witness")["State"]["Pid"] == witness, what


def settled(engine: Engine) -> bool:
    """Whether nothing but the witness is left, now or a little later."""
    try:
        wait_for(lambda: not residue(engine), "nothing is left", SETTLE)
    except AssertionError:
        return False
    return True


def check(engine: Engine, name: str, verb: Verb, what: str) -> None:
    """After the second attempt the container is what the verb makes of it."""
    found = engine.api("GET", f"/containers/{name}/json")
    if verb.method == "DELETE":
        assert found.status == 404, f"{what}: {found.raw!r}"
        return
    state = found.json["State"]
    if verb is VERBS["commit"]:
        assert state["Status"] == "running", f"{what}: {state}"
        made = engine.api("GET", f"/images/made-{name}/json")
        assert made.status == 200 and len(made.json["RootFS"]["Layers"]) == 2, f"{what}: {made.raw!r}"
        assert engine.ok("run", "--rm", f"made-{name}", "cat", "/own") == name, what
        engine.ok("rmi", f"made-{name}")
        engine.ok("image", "prune", "-f")  # of the first attempt, if that worked too
    elif verb is VERBS["start"]:
        assert state["Running"] and Path(f"/proc/{state['Pid']}").exists(), f"{what}: {state}"
        assert engine.docker("exec", name, "true").code == 0, what
    else:
        assert state["Status"] == "exited" and not state["Running"], f"{what}: {state}"


def snapshots(engine: Engine) -> set[str]:
    return {path.name for path in (engine.data_root / "snapshots").glob("*/*")}


def residue(engine: Engine) -> dict[str, Any]:
    """What there is besides the witness."""
    witness = engine.inspect("witness")["Id"]
    found = {
        "containers": [c["Names"] for c in engine.api("GET", "/containers/json?all=1").json if c["Id"] != witness],
        "endpoints": set(engine.api("GET", "/networks/bridge").json["Containers"]) - {witness},
        "directories": set(os.listdir(engine.data_root / "containers")) - {witness},
        "shims": set(os.listdir(engine.exec_root / "shims")) - {f"{witness}.sock"},
        "volumes": engine.api("GET", "/volumes").json["Volumes"] or [],
        "images": [i["RepoTags"] for i in engine.api("GET", "/images/json").json if "made-" in str(i["RepoTags"])],
        "unfinished": os.listdir(engine.data_root / "tmp"),
        "snapshots": snapshots(engine) - _at_first,
        "cgroups": below.groups(engine) - {witness},
    }
    return {key: value for key, value in found.items() if value}


def below_launchers(engine: Engine, verb: str) -> list[int]:
    """The launchers and what they have forked that has a part in `verb`: not the witness's shim."""
    found = below.processes(engine)
    if verb == "start":
        return [pid for pid, name in found.items() if name != below.SHIM]
    return [pid for pid in (*found, *below.processes(engine, "worker")) if pid not in _bystanders]


def calls_of(engine: Engine, verb: str, targets: Callable[[], list[int]], call: str, output: Path) -> int:
    """How often one thread makes this call in a verb that works."""
    name = f"i{next(_numbers)}"
    attempt(engine, VERBS[verb], lambda: injection.traced(targets(), call, output), f"counting {call}", name)
    return injection.count(output).get(call, 0)


def each_fails(engine: Engine, verb: str, where: str, call: str, error: str, tmp_path: Path) -> None:
    """Every `call`, or the seed's choice of them, fails in turn; where: "the engine" or below it."""

    def targets() -> list[int]:
        assert engine.process
        return [engine.process.pid] if where == "the engine" else below_launchers(engine, verb)

    steps = calls_of(engine, verb, targets, call, tmp_path / "counted")
    print(f"{verb}: {steps} calls of {call} in {where}")
    with Findings(engine) as findings:
        for nth in sample(range(1, steps + 1), verb, call):
            what = f"{verb}: {call} {nth} of {steps} in {where} fails with {error} (seed {SEED})"
            output = tmp_path / f"{nth}"
            findings.attempt(verb, lambda: injection.failing(targets(), call, error, nth, output), what)  # noqa: B023


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("call", "error"), ENGINE_CALLS)
def test_a_call_of_the_engine_fails(own: Engine, verb: str, call: str, error: str, tmp_path: Path) -> None:
    each_fails(own, verb, "the engine", call, error, tmp_path)


@pytest.mark.parametrize(
    ("verb", "call", "error"), [(verb, *failure) for verb, failures in BELOW_CALLS.items() for failure in failures]
)
def test_a_call_below_the_engine_fails(own: Engine, verb: str, call: str, error: str, tmp_path: Path) -> None:
    """Of launcher, shim and init; for a commit also of the confined jobs that read the container and write the layer."""
    each_fails(own, verb, "launcher, shim, init or job", call, error, tmp_path)


@pytest.mark.parametrize("verb", VERBS)
def test_the_engine_runs_out_of_descriptors(own: Engine, verb: str) -> None:
    with Findings(own) as findings:
        for more in sample(range(16), verb):

            def fault() -> AbstractContextManager[None]:
                assert own.process
                pid = own.process.pid
                return injection.few_descriptors(pid, injection.descriptors(pid) + more)  # noqa: B023

            findings.attempt(verb, fault, f"{verb}: {more} descriptors left (seed {SEED})")


@pytest.mark.parametrize("verb", VERBS)
def test_the_disk_is_full(own: Engine, verb: str) -> None:
    with Findings(own) as findings:
        for pages in sample(range(24), verb):
            what = f"{verb}: {pages} pages left on the disk (seed {SEED})"
            findings.attempt(verb, lambda: injection.full_disk(own.data_root, pages, DISK), what)  # noqa: B023
