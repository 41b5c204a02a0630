"""Limits and confinement as a person asks for them: cgroup files, warnings and refusals, seccomp, devices."""

import json
import os
import sys
from pathlib import Path

import pytest
from support.engine import Engine

from boxwright.libcontainer.cgroups import files, hierarchy
from boxwright.linux import libseccomp

pytestmark = [pytest.mark.root, pytest.mark.network]

V1 = "memory" in hierarchy.host().v1


def limit(engine: Engine, container: str, v1: str, v2: str) -> str:
    """The content of a cgroup file of a running container."""
    pid = engine.ok("inspect", "-f", "{{.State.Pid}}", container)
    wanted = v1.partition(".")[0] if V1 else ""
    for line in files.read(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if wanted in controllers.split(","):
            host = hierarchy.host()
            mount = host.v1[wanted] if V1 else host.v2
            assert mount is not None
            return files.read(f"{mount.point}{path}/{v1 if V1 else v2}")
    raise AssertionError(f"no {wanted} group")


@pytest.mark.parametrize(
    ("option", "v1", "v2", "value"),
    [
        ("--memory=64m", "memory.limit_in_bytes", "memory.max", "67108864"),
        ("--memory-reservation=64m", "memory.soft_limit_in_bytes", "memory.low", "67108864"),
        ("--cpus=0.25", "cpu.cfs_quota_us", "cpu.max", "25000" if V1 else "25000 100000"),
        ("--cpu-shares=512", "cpu.shares", "cpu.weight", "512" if V1 else "59"),
        ("--cpuset-cpus=0", "cpuset.cpus", "cpuset.cpus", "0"),
        ("--pids-limit=77", "pids.max", "pids.max", "77"),
    ],
)
def test_limits_are_on_the_group(engine: Engine, option: str, v1: str, v2: str, value: str) -> None:
    container = engine.ok("run", "-d", "--rm", "--memory-swap=-1", "--memory=128m", option, "busybox", "sleep", "1000")
    try:
        assert limit(engine, container, v1, v2) == value
    finally:
        engine.ok("kill", container)


def test_swap_is_twice_the_memory_unless_told(engine: Engine) -> None:
    container = engine.ok("run", "-d", "--rm", "--memory=64m", "busybox", "sleep", "1000")
    try:
        both = limit(engine, container, "memory.memsw.limit_in_bytes", "memory.swap.max")
        assert int(both) == (128 if V1 else 64) << 20
    finally:
        engine.ok("kill", container)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--memory=1m"], "Minimum memory limit allowed is 6MB"),
        (["--memory=8m", "--memory-swap=7m"], "Minimum memoryswap limit should be larger than memory limit, see usage"),
        (["--memory-swap=8m"], "You should always set the Memory limit when using Memoryswap limit, see usage"),
        (["--memory-reservation=1m"], "Minimum memory reservation allowed is 6MB"),
        (
            ["--memory=7m", "--memory-reservation=8m"],
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ),
        (["--cpus=4096"], "ange of CPUs is from 0.01 to"),
        (["--cpuset-cpus=4000"], "Requested CPUs are not available - requested 4000, available: "),
        (["--cpuset-mems=4000"], "Requested memory nodes are not available - requested 4000, available: "),
        (["--cpuset-cpus=x"], "nvalid value x for cpuset cpus"),
        (
            ["--cpu-period=10"],
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ),
        (["--cpu-quota=10"], "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
        (["--cpu-shares=1"], "minimum allowed cpu-shares is 2"),
        (["--device=/no/such"], 'gathering device information while adding custom device "/no/such": no such file'),
    ],
)
def test_refusals_have_dockers_words(engine: Engine, options: list[str], text: str) -> None:
    before = engine.ok("ps", "-aq", "--no-trunc").splitlines()
    ran = engine.docker("run", "--rm", *options, "busybox", "true")
    assert ran.code in (125, 127, 128), ran
    assert text in ran.err
    for left in set(engine.ok("ps", "-aq", "--no-trunc").splitlines()) - set(before):
        engine.ok("rm", "-f", left)


def test_without_an_oom_killer_and_a_limit_there_is_a_warning(engine: Engine) -> None:
    ran = engine.docker("run", "--rm", "--oom-kill-disable", "busybox", "true")
    assert ran.code == 0
    expected = "OOM killer is disabled for the container" if V1 else "OomKillDisable discarded"
    assert expected in ran.err


def test_a_fork_bomb_stays_in_its_container(engine: Engine) -> None:
    bomb = "n=0; while [ $n -lt 60 ]; do sleep 1000 & n=$((n + 1)); done"
    ran = engine.docker("run", "--rm", "--pids-limit=20", "busybox", "sh", "-c", bomb)
    assert "can't fork" in ran.err
    assert engine.ok("run", "--rm", "busybox", "echo", "alive") == "alive"


# --- seccomp -----------------------------------------------------------------------------------------------------------


def python(engine: Engine, program: str, *options: str) -> str:
    """Output of the host's Python in a container: the image has nothing that makes arbitrary system calls."""
    interpreter = os.path.realpath(sys.executable)
    command = ["busybox", "chroot", "/host", interpreter, "-I", "-S", "-c", program]
    return engine.ok("run", "--rm", "-v", "/:/host:ro", *options, *command)


FAMILIES = """
import ctypes
call = ctypes.CDLL(None, use_errno=True).syscall
for family in (38, 38 | 1 << 32, 40, 2):
    fd = call(ctypes.c_long(41), ctypes.c_long(family), ctypes.c_long(5 if family & 38 == 38 else 1), ctypes.c_long(0))
    print(ctypes.get_errno() if fd < 0 else "open", end=" ")
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86_64's")
def test_the_kernels_crypto_is_out_of_reach(engine: Engine) -> None:
    """CVE-2026-31431: writes to the page cache through AF_ALG; also with bits that only the filter would look at."""
    assert python(engine, FAMILIES) == "1 1 1 open"
    assert python(engine, FAMILIES, "--cap-add=ALL") == "1 1 1 open"


def test_clone3_does_not_exist_and_threads_do(engine: Engine) -> None:
    program = (
        "import ctypes, _thread, time; lock = _thread.allocate_lock(); lock.acquire();"
        "_thread.start_new_thread(lock.release, ()); lock.acquire();"
        "call = ctypes.CDLL(None, use_errno=True).syscall; call(435, 0, 0); print(ctypes.get_errno())"
    )
    assert python(engine, program) == "38"


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ([], False),
        (["--cap-add=SYS_ADMIN"], True),
        (["--privileged"], True),
        (["--security-opt=seccomp=unconfined", "--cap-add=SYS_ADMIN"], True),
    ],
)
def test_unshare(engine: Engine, options: list[str], allowed: bool) -> None:
    ran = engine.docker("run", "--rm", *options, "busybox", "unshare", "-m", "true")
    assert (ran.code == 0) == allowed
    assert allowed or "Operation not permitted" in ran.err


def test_a_profile_of_ones_own(engine: Engine, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    call = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call]}))
    ran = engine.docker("run", "--rm", "--security-opt", f"seccomp={profile}", "busybox", "mkdir", "/tmp/x")
    assert ran.code == 1
    assert "quota exceeded" in ran.err
    # An exec lives under the same profile.
    container = engine.ok("run", "-d", "--rm", "--security-opt", f"seccomp={profile}", "busybox", "sleep", "1000")
    try:
        assert "quota exceeded" in engine.docker("exec", container, "mkdir", "/tmp/x").err
    finally:
        engine.ok("kill", container)


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ('{"syscalls": [{"name": "a", "names": ["b"]}]}', "use either 'name' or 'names'"),
        ('{"defaultAction": "SCMP_ACT_MAYBE"}', "SCMP_ACT_MAYBE"),
        ('{"syscalls": 7}', "Decoding seccomp profile failed"),
    ],
)
def test_a_bad_profile_is_refused(engine: Engine, tmp_path: Path, profile: str, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(profile)
    ran = engine.docker("run", "--name", "bad-profile", "--security-opt", f"seccomp={path}", "busybox", "true")
    engine.docker("rm", "-f", "bad-profile")
    assert ran.code in (125, 128)
    assert text in ran.err


# Rules that libseccomp 2.5.4 never finishes with: names, action, (argument, comparison, its values).
ENDLESS = [
    ("ioctl futex socket clone3", "ALLOW", [(3, "LT", 1, 0), (5, "LE", 2147483648, 0), (4, "LT", 4294967301, 0)]),
    ("futex close read", "KILL_PROCESS", []),
    ("ioctl read", "KILL_PROCESS", [(3, "LE", 18446744073709551615, 5), (2, "GE", 4294967295, 5)]),
    (
        "clone3 read mount read",
        "LOG",
        [(4, "LE", 0, 5), (2, "LE", 18446744073709551615, 1), (1, "MASKED_EQ", 18446744073709551615, 1)],
    ),
    ("socket write", "ALLOW", [(3, "LT", 1, 0), (5, "EQ", 40, 1), (4, "EQ", 4294967295, 5)]),
]


def test_a_profile_that_is_too_much_for_libseccomp_is_refused(engine: Engine, tmp_path: Path) -> None:
    """A confined job tries to compile it, and is ended."""
    calls = [
        {
            "names": names.split(),
            "action": f"SCMP_ACT_{action}",
            "args": [
                {"index": index, "op": f"SCMP_CMP_{operator}", "value": value, "valueTwo": second}
                for index, operator, value, second in arguments
            ],
        }
        for names, action, arguments in ENDLESS
    ]
    architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]
    profile = tmp_path / "profile.json"
    profile.write_text(
        json.dumps({"defaultAction": "SCMP_ACT_TRAP", "architectures": architectures, "syscalls": calls})
    )
    ran = engine.docker("create", "--name", "endless", "--security-opt", f"seccomp={profile}", "busybox", "true")
    made = engine.docker("rm", "endless").code == 0
    assert made == (ran.code == 0)
    if libseccomp.version() == "2.5.4":
        assert "seccomp: libseccomp 2.5.4 does not finish compiling the profile within 5 s" in ran.err
    engine.ok("run", "--rm", "--cap-add", "SYS_TIME", "busybox", "true")  # another filter, compiled meanwhile


# --- AppArmor ----------------------------------------------------------------------------------------------------------

APPARMOR = files.read_or("/sys/module/apparmor/parameters/enabled", "N").startswith("Y")


def test_a_profile_of_apparmor_is_refused_where_it_would_count(engine: Engine) -> None:
    engine.ok("run", "--rm", "--security-opt", "apparmor=unconfined", "busybox", "true")
    ran = engine.docker("run", "--rm", "--security-opt", "apparmor=docker-default", "busybox", "true")
    # Without AppArmor the setting says nothing, there as in dockerd.
    assert ran.code == (125 if APPARMOR else 0), ran.err
    assert ("apparmor=docker-default: AppArmor profiles are not supported" in ran.err) == APPARMOR
    info = engine.api("GET", "/info").json
    assert any("AppArmor" in warning for warning in info["Warnings"] or ()) == APPARMOR
    assert "name=apparmor" not in info["SecurityOptions"]


# --- devices -----------------------------------------------------------------------------------------------------------

# Making any node is allowed, opening it is not: a loop device that nothing is attached to.
OPEN_LOOP = "mknod /tmp/d b 7 0 && dd if=/tmp/d of=/dev/null count=1 2>&1 | head -n 1"


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ([], False),
        (["--device-cgroup-rule=b 7:* r"], True),
        (["--device-cgroup-rule=b 7:* w"], False),
        (["--privileged"], True),
        (["--cap-add=ALL"], False),
    ],
)
def test_device_nodes(engine: Engine, options: list[str], allowed: bool) -> None:
    said = engine.ok("run", "--rm", *options, "busybox", "sh", "-c", OPEN_LOOP)
    assert ("Operation not permitted" in said) != allowed, said


def test_the_usual_devices_work(engine: Engine) -> None:
    program = (
        "for d in null zero full random urandom; do head -c1 /dev/$d >/dev/null || exit 1; done; echo x >/dev/null"
    )
    engine.ok("run", "--rm", "busybox", "sh", "-c", program)
    engine.ok("run", "--rm", "-t", "busybox", "sh", "-c", "echo x >/dev/tty && echo x >/dev/console")
