"""A shim waits for each start with a first process that has prepared itself: whatever happens to them while they wait
costs no start, and nothing of them is left.

`make test` takes some of the failing calls, by a seed that is printed; `make faults` takes all.
"""

import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from support import below, injection
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(1200)]

ALL = os.environ.get("BOXWRIGHT_FAULT_ALL", "") not in ("", "0")
SEED = int(os.environ.get("BOXWRIGHT_FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
STEPS = 2
# Of launcher, shim and first process, until that waits.
CALLS = [
    ("clone", "EAGAIN"), ("clone3", "EAGAIN"), ("close_range", "ENOMEM"), ("prctl", "EPERM"), ("mkdir", "ENOMEM"),
    ("openat", "ENFILE"), ("write", "EIO"), ("eventfd2", "ENFILE"), ("unshare", "ENOSPC"), ("setns", "ENOMEM"),
    ("socket", "ENFILE"), ("socketpair", "ENFILE"), ("ioctl", "EPERM"), ("sendmsg", "ENOBUFS"), ("fsopen", "EPERM"),
    ("fsconfig", "ENOMEM"), ("fsmount", "ENOMEM"), ("move_mount", "ENOMEM"), ("mount", "EPERM"), ("rmdir", "EBUSY"),
]  # fmt: skip


def wait_until_ready(engine: Engine) -> None:
    """A shim waits, and its first process has prepared itself."""

    def ready() -> bool:
        waiting = below.named(engine, below.WAITING_PROCESS)
        return bool(below.named(engine, below.WAITING_SHIM) and waiting) and all(map(below.asleep, waiting))

    wait_for(ready, "a shim waits")


def run(engine: Engine, name: str, what: str = "") -> None:
    """A whole life, whose start has to work."""
    body = {"Image": "busybox", "Cmd": ["sh", "-c", "ip addr show eth0 && mount && exit 3"]}
    assert engine.api("POST", f"/containers/create?name={name}", body).status == 201, what
    answer = engine.api("POST", f"/containers/{name}/start")
    assert answer.status == 204, f"{what}: {answer.raw!r}"
    assert engine.api("POST", f"/containers/{name}/wait").json["StatusCode"] == 3, what
    assert b"/dev/pts" in engine.api("GET", f"/containers/{name}/logs?stdout=1").raw, what
    assert engine.api("DELETE", f"/containers/{name}").status == 204, what


def assert_nothing_left(engine: Engine, what: str) -> None:
    """But one shim that waits."""

    def left() -> object:
        shims = below.named(engine, below.SHIM)
        waiting = below.named(engine, below.WAITING_SHIM), below.named(engine, below.WAITING_PROCESS)
        return below.groups(engine) or shims or [pids for pids in waiting if len(pids) > 1]

    wait_for(lambda: not left(), f"{what}: only one shim is left, not {left()}")


@pytest.mark.parametrize("victim", [below.WAITING_SHIM, below.WAITING_PROCESS, below.LAUNCHERS[0], "all of them"])
def test_killed_while_it_waits(own: Engine, victim: str) -> None:
    for attempt in range(3):
        run(own, f"before{attempt}")
        wait_until_ready(own)
        names = (below.WAITING_SHIM, below.WAITING_PROCESS, *below.LAUNCHERS) if victim == "all of them" else (victim,)
        pids = below.named(own, *names)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: all(map(below.dead, pids)), "they are dead")  # noqa: B023
        run(own, f"after{attempt}", victim)
    assert_nothing_left(own, victim)


def test_killed_with_its_engine(own: Engine) -> None:
    wait_until_ready(own)
    assert own.process
    for pid in (*below.named(own, below.WAITING_SHIM), own.process.pid):
        os.kill(pid, signal.SIGKILL)
    own.process.wait(30)
    own.start()
    run(own, "next")
    assert_nothing_left(own, "engine and shim killed")


def test_another_waits_when_one_was_killed(own: Engine) -> None:
    wait_until_ready(own)
    killed = below.named(own, below.WAITING_SHIM)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: set(below.named(own, below.WAITING_SHIM)) - set(killed), "another shim waits")
    assert_nothing_left(own, "killed")


LOOK = """
sed -E 's/^([0-9]+ )+[0-9:]+ //; s/(shared|master|propagate_from):[0-9]+//g' /proc/self/mountinfo
cd /dev && ls -ln null zero full random urandom tty ptmx fd stdin stdout stderr core shm mqueue pts console 2>&1 |
    sed -E 's/ [A-Z][a-z]+ +[0-9]+ +[0-9:]+ / /'
ls /sys/class/net; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range
for path in /proc/kcore /proc/sys/kernel/x /proc/sysrq-trigger /sys/x /sys/fs/cgroup/x /dev/x; do
    : > $path; echo $path $?
done 2>/dev/null
wc -c < /proc/keys; ls /proc/acpi /sys/firmware
sed 's/spare-[0-9]*//' /proc/self/cgroup | wc -l; ipcs | wc -l
"""


@pytest.mark.parametrize(
    "options",
    [
        "", "--network none", "--network host", "--ipc host", "--ipc private", "--uts host", "--privileged", "-t",
        "--shm-size 1m", "--device /dev/fuse", "--read-only", "--tmpfs /dev/more", "-v /tmp:/sys/module:ro", "-m 64m",
        "--security-opt systempaths=unconfined", "--sysctl net.ipv4.ip_unprivileged_port_start=99", "--cgroupns private",
    ],
)  # fmt: skip
def test_a_prepared_start_makes_the_same_container(own: Engine, options: str) -> None:
    def seen(prepared: bool) -> list[str]:
        own.ok("create", "--name", "look", "-v", "/tmp:/mnt", *options.split(), "busybox", "sh", "-c", LOOK)
        id = own.inspect("look")["Id"]
        wait_until_ready(own)
        if not prepared:
            for pid in below.named(own, below.WAITING_SHIM):
                os.kill(pid, signal.SIGKILL)
        ran = own.docker("start", "-a", "look")
        own.ok("rm", "look")
        # Of an overlay's first mount: a first process that dies with its shim may have come so far.
        shown = (ran.out + ran.err).replace(",uuid=on", "")
        return sorted(shown.replace(id, "ID").replace(id[:12], "ID").splitlines())

    known, found = seen(False), seen(True)
    assert len(known) > 40
    assert found == known


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(("call", "error"), CALLS)
def test_a_call_fails_while_it_prepares(own: Engine, call: str, error: str, tmp_path: Path) -> None:
    def launcher() -> list[int]:
        return below.named(own, below.LAUNCHERS[0])

    def prepared() -> None:
        """A start takes the shim that waits; the next one is forked by the launcher that is traced."""
        run(own, "before")
        wait_for(lambda: all(map(below.asleep, below.named(own, below.WAITING_PROCESS))), "it waits, or is gone")

    wait_until_ready(own)
    with injection.traced(launcher(), call, tmp_path / "counted"):
        prepared()
        wait_until_ready(own)
    steps = injection.count(tmp_path / "counted").get(call, 0)
    chosen = range(1, steps + 1)
    if not ALL:
        chosen = random.Random(f"{SEED}/{call}").sample(chosen, min(STEPS, steps))  # type: ignore[assignment]
    for nth in chosen:
        what = f"{call} {nth} of {steps} fails with {error} while a shim prepares (seed {SEED})"
        wait_until_ready(own)
        with injection.failing(launcher(), call, error, nth, tmp_path / str(nth)):
            prepared()
        run(own, "after", what)
        assert_nothing_left(own, what)
