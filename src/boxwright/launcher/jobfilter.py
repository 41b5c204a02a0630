"""Seccomp filters of confined jobs: files and memory, and nothing else.

No program, no process, no socket, no mount, no namespace, no key, no bpf: a job that hostile bytes have taken over can
write its root and answer the engine.  Compiled once, in the launcher.
"""

from boxwright.errdefs import Error
from boxwright.libcontainer import seccomp, seccomp_filter

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
_ANSWERING = ["recvmsg", "sendmsg", "sendto"]  # on the one socket there is: none can be made

_compiled: dict[str, bytes] = {}


def compile_all() -> None:
    """Compile the filters.  A host without libseccomp goes without them: the rest of the confinement stands."""
    for name, calls in (("job", [*_RUNNING, *_DECODING, *_FILES, *_ANSWERING]), ("helper", [*_RUNNING, *_DECODING])):
        profile = {
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": calls, "action": "SCMP_ACT_ALLOW"}],
        }
        try:
            _compiled[name] = seccomp_filter.compile(profile)
        except (Error, OSError):
            return


def install(name: str) -> None:
    """Put the filter "job" or "helper" over this process; needs no_new_privs."""
    if name in _compiled:
        seccomp.install(_compiled[name])
