"""Filters on real processes: what the default policy refuses, what it lets through, and custom profiles."""

import ctypes
import errno
import json
import mmap
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.compiling import Compiler

from boxwright.libcontainer import seccomp
from boxwright.linux import process

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86_64's"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

DOCKERS_14 = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID "
    "SYS_CHROOT"
)
DOCKERS = [f"CAP_{name}" for name in DOCKERS_14.split()]
SYSCALL = ctypes.CDLL(None, use_errno=True).syscall
SYSCALL.restype = ctypes.c_long


def call(number: int, *arguments: int) -> int:
    """The raw system call: its result, or -errno."""
    result = SYSCALL(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments))
    return -ctypes.get_errno() if result == -1 else int(result)


def under(bpf: bytes | None, function: Callable[[], object]) -> object:
    """Run `function` in a child under the filter; its JSON-ready result, or {"signal": n}."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if bpf is not None:
                seccomp.install(bpf)
            os.write(write, json.dumps(function()).encode())
        except BaseException as error:
            os.write(write, json.dumps(f"{type(error).__name__}: {error}").encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    return {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else json.loads(text)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """Compiles a profile ("" is the default) for capabilities (Docker's fourteen)."""
    compiler = Compiler(str(tmp_path_factory.mktemp("seccomp")))

    def make(profile: str = "", capabilities: list[str] = DOCKERS) -> bytes:
        path = compiler.compile(profile, capabilities)
        assert path is not None
        return Path(path).read_bytes()

    return make


# Harmless when they are let through: each fails for another reason, or only looks.
REFUSED = {
    "mount": (165, 0, 0, 0, 0, 0),
    "umount2": (166, 0, 0),
    "unshare": (272, 0x10000000),
    "setns": (308, -1, 0),
    "clone(NEWUSER)": (56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0),
    "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "keyctl": (250, 0, -1, 0),
    "add_key": (248, 0, 0, 0, 0, 0),
    "request_key": (249, 0, 0, 0, 0),
    "userfaultfd": (323, 0),
    "io_uring_setup": (425, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "init_module": (175, 0, 0, 0),
    "open_by_handle_at": (304, -1, 0, 0),
    "swapon": (167, 0, 0),
    "reboot": (169, 0, 0, 0, 0),
    "sethostname": (170, 0, 0),
    "pivot_root": (155, 0, 0),
    "open_tree": (428, -1, 0, 0),
    "fsopen": (430, 0, 0),
    "socket(AF_ALG)": (41, 38, 5, 0),
    "socket(AF_ALG with high bits)": (41, 38 | 1 << 32, 5, 0),
    "socket(AF_ALG, negative half)": (41, 38 | 0xFFFFFFFF << 32, 5, 0),
    "socket(AF_VSOCK)": (41, 40, 1, 0),
    "personality(ADDR_NO_RANDOMIZE)": (135, 0x0040000),
    "quotactl": (179, 0, 0, 0, 0),
    "lookup_dcookie": (212, 0, 0, 0),
    "syslog": (103, 10, 0, 0),
    "vhangup": (153,),
    "clock_settime": (227, -1, 0),
    "mbind": (237, 0, 0, 0, 0, 0, 0),
}


def test_refused_calls_fail_with_eperm(compiled) -> None:
    assert set(REFUSED) == {
        name for name, args in REFUSED.items() if under(compiled(), lambda args=args: call(*args)) == -errno.EPERM
    }


@pytest.mark.parametrize("number", [435, 600, 5000])
def test_calls_to_fall_back_from_do_not_exist(compiled, number: int) -> None:
    """clone3, and numbers that no profile knows."""
    assert under(compiled(), lambda: call(number, 0, 0)) == -errno.ENOSYS


def test_ordinary_programs_run(compiled, tmp_path: Path) -> None:
    def work() -> object:
        thread = threading.Thread(target=os.getpid)
        thread.start()
        thread.join()
        ours, theirs = socket.socketpair()
        ours.send(b"x")
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0):
            pass
        with open(tmp_path / "file", "wb") as file:
            file.write(b"x")
        os.chroot("/")
        child = os.fork()
        if child == 0:
            os.execv("/bin/busybox", ["busybox", "true"])
        return [theirs.recv(1).decode(), os.waitpid(child, 0)[1], call(135, 0xFFFFFFFF)]

    assert under(compiled(), work) == ["x", 0, 0]


def test_a_capability_opens_what_it_is_for(compiled) -> None:
    def hostname() -> int:
        return call(170, 0, 1 << 20)  # EINVAL when it is let through: too long

    assert under(compiled(), hostname) == -errno.EPERM
    assert under(compiled(capabilities=["CAP_SYS_ADMIN"]), hostname) == -errno.EINVAL
    # With the right to make namespaces clone3 is itself again.
    assert under(compiled(capabilities=["CAP_SYS_ADMIN"]), lambda: call(435, 0, 0)) == -errno.EINVAL


def test_without_privilege_it_needs_no_new_privs(compiled) -> None:
    bpf = compiled()

    def unprivileged(first: Callable[[], object]) -> object:
        def run() -> object:
            first()
            os.setgid(65534)
            os.setuid(65534)
            seccomp.install(bpf)
            return call(165, 0, 0, 0, 0, 0)

        return under(None, run)

    assert "StepError: seccomp: cannot install" in str(unprivileged(lambda: None))
    assert unprivileged(process.set_no_new_privileges) == -errno.EPERM


# --- 32-bit programs ---------------------------------------------------------------------------------------------------


def call32(number: int, first: int = 0, second: int = 0, third: int = 0) -> int:
    """A system call through the 32-bit gate: the arguments are moved to eax, ebx, ecx, edx, then int 0x80."""
    code = b"\x53\x41\x89\xc8\x89\xf8\x89\xf3\x89\xd1\x44\x89\xc2\xcd\x80\x5b\xc3"
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    function = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint] * 4)(address)
    return int(function(number, first, second, third))


@pytest.fixture(scope="module")
def ia32() -> None:
    if under(None, lambda: call32(20) == os.getpid()) is not True:
        pytest.skip("this kernel runs no 32-bit programs")


def test_32_bit_calls_are_filtered_by_their_own_numbers(compiled, ia32: None) -> None:
    def work() -> object:
        assert call32(20) == os.getpid()
        return {
            "mount": call32(21),
            "socket(AF_INET)": call32(359, 2, 1, 0) >= 0,
            "socket(AF_ALG)": call32(359, 38, 5, 0),
            "socket(AF_VSOCK)": call32(359, 40, 1, 0),
            "clone3": call32(435),
            "unknown": call32(600),
        }

    assert under(compiled(), work) == {
        "mount": -errno.EPERM,
        "socket(AF_INET)": True,
        "socket(AF_ALG)": -errno.EPERM,
        "socket(AF_VSOCK)": -errno.EPERM,
        "clone3": -errno.ENOSYS,
        "unknown": -errno.ENOSYS,
    }


# --- custom profiles ---------------------------------------------------------------------------------------------------


def profile(action: str, **more: object) -> str:
    calls = [{"names": ["mkdir", "mkdirat", "not_a_call"], "action": action, **more}]
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "archMap": None, "syscalls": calls})


def test_custom_errno(compiled, tmp_path: Path) -> None:
    bpf = compiled(profile("SCMP_ACT_ERRNO", errnoRet=errno.EDQUOT))
    assert (
        under(bpf, lambda: os.mkdir(tmp_path / "d"))
        == f"OSError: [Errno {errno.EDQUOT}] Disk quota exceeded: '{tmp_path}/d'"
    )
    assert under(bpf, lambda: call(165, 0, 0, 0, 0, 0)) == -errno.EFAULT


def test_custom_kill(compiled, tmp_path: Path) -> None:
    bpf = compiled(profile("SCMP_ACT_KILL_PROCESS"))
    assert under(bpf, lambda: os.mkdir(tmp_path / "d")) == {"signal": signal.SIGSYS}


def test_custom_argument(compiled) -> None:
    only_term = [{"index": 1, "value": signal.SIGTERM, "op": "SCMP_CMP_EQ"}]
    calls = [{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": only_term}]
    bpf = compiled(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": calls}))
    assert under(bpf, lambda: [call(62, os.getpid(), signal.SIGTERM), call(62, os.getpid(), 0)]) == [-errno.EPERM, 0]


def test_an_oci_profile_with_architectures(compiled) -> None:
    text = json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["write", "exit_group", "getpid", "futex"], "action": "SCMP_ACT_ALLOW"}],
        }
    )
    assert under(compiled(text), lambda: [call(39) > 0, call(63, 0)]) == [True, -errno.EPERM]
