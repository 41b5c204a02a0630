"""Seccomp filters of confined jobs: files and memory, and nothing else.

"job" and "helper": no program, no process, no socket, no mount, no namespace, no key, no bpf.  A job that hostile bytes
have taken over can write its root and answer the engine.  "programs", for children that run programs of the host as
nobody: no namespace, mount, trace, key, bpf, and none of the calls that kernels have been broken by most.

Compiled once, in the launcher.
"""

from boxwright.errdefs import Error
from boxwright.libcontainer import seccomp, seccomp_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What an interpreter needs to go on at all.
_RUNNING = """
    brk clock_gettime clock_nanosleep close exit exit_group futex futex_time64 getpid getrandom gettid kill madvise mmap
    mprotect mremap munmap nanosleep read restart_syscall rseq rt_sigaction rt_sigprocmask rt_sigreturn sched_yield
    set_robust_list sigaltstack tgkill write
""".split()  # noqa: SIM905
_DECODING = ["pread64", "fstat", "lseek", "newfstatat", "poll", "ppoll"]
_FILES = """
    chmod chown copy_file_range dup dup2 dup3 fallocate fchmod fchmodat fchmodat2 fchown fchownat fcntl fgetxattr
    flistxattr fsetxattr fstatfs ftruncate getdents64 getxattr lchown lgetxattr link linkat listxattr llistxattr
    lsetxattr lstat memfd_create mkdir mkdirat mknod mknodat open openat openat2 preadv preadv2 pwrite64 pwritev
    pwritev2 readlink readlinkat readv rename renameat renameat2 rmdir sendfile setxattr stat statfs statx symlink
    symlinkat truncate umask unlink unlinkat utimensat wait4 waitid writev
""".split()  # noqa: SIM905
_DANGEROUS = """
    acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module fanotify_init finit_module fsconfig
    fsmount fsopen fspick init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp
    kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages modify_ldt mount mount_setattr move_mount
    move_pages name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root
    process_madvise process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot request_key set_mempolicy
    setns settimeofday swapoff swapon syslog umount umount2 unshare userfaultfd vhangup vmsplice
""".split()  # noqa: SIM905
_ANSWERING = ["recvmsg", "sendmsg", "sendto"]  # on the one socket there is: none can be made

_ALLOW, _REFUSE = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
_ENOSYS = 38
_NAMESPACES = (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
_FAMILIES = (38, 40)  # AF_ALG, AF_VSOCK

_compiled: dict[str, bytes] = {}


def _only(*calls: str) -> "dict[str, Any]":
    return {"defaultAction": _REFUSE, "syscalls": [{"names": calls, "action": _ALLOW}]}


def _all_but(*calls: str) -> "dict[str, Any]":
    rules: list[dict[str, Any]] = [{"names": calls, "action": _REFUSE}]
    # Its flags lie in memory, where no filter sees them; C libraries go back to clone.
    rules.append({"names": ["clone3"], "action": _REFUSE, "errnoRet": _ENOSYS})
    for name, mask, values in (("clone", 0, _NAMESPACES), ("socket", 0xFFFFFFFF, _FAMILIES)):
        for value in values:
            compared = {"index": 0, "value": mask or value, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
            rules.append({"names": [name], "action": _REFUSE, "args": [compared]})
    return {"defaultAction": _ALLOW, "syscalls": rules}


def compile_all() -> None:
    """Compile the filters.  A host without libseccomp goes without them: the rest of the confinement stands."""
    profiles = {
        "job": _only(*_RUNNING, *_DECODING, *_FILES, *_ANSWERING),
        "helper": _only(*_RUNNING, *_DECODING),
        "programs": _all_but(*_DANGEROUS),
    }
    for name, profile in profiles.items():
        try:
            _compiled[name] = seccomp_filter.compile(profile)
        except (Error, OSError):
            return


def install(name: str) -> None:
    """Put the filter "job", "helper" or "programs" over this process; needs no_new_privs."""
    if name in _compiled:
        seccomp.install(_compiled[name])
