"""Docker's default seccomp policy as data: what a container may call unless it is told otherwise.

Everything is refused with EPERM but what is named here.  Calls of no risk are listed by purpose; calls that depend on
an argument, an architecture, a capability or the kernel are rules.  A name that the library or the architecture does
not know counts for nothing.

Known limit, shared with Docker: `socketcall` (32-bit x86) hides its arguments behind a pointer that no filter can
follow, and 32-bit programs cannot do without it: the address families refused below are refused for `socket` only.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# --- the default -----------------------------------------------------------------------------------------------------

DEFAULT_ACTION = "SCMP_ACT_ERRNO"
EPERM = 1
ENOSYS = 38
DEFAULT_ERRNO = EPERM

# --- architectures: machine → those whose programs its kernel may run too --------------------------------------------

ARCHITECTURES = {
    "X86_64": ("X86", "X32"),
    "AARCH64": ("ARM",),
    "MIPS64": ("MIPS", "MIPS64N32"),
    "MIPS64N32": ("MIPS", "MIPS64"),
    "MIPSEL64": ("MIPSEL", "MIPSEL64N32"),
    "MIPSEL64N32": ("MIPSEL", "MIPSEL64"),
    "S390X": ("S390",),
    "RISCV64": (),
    "LOONGARCH64": (),
}

# --- allowed for everybody, by purpose -------------------------------------------------------------------------------

ALLOWED = {
    "opening and closing": """
        open openat openat2 creat close close_range dup dup2 dup3 fcntl fcntl64 flock ioctl
        memfd_create memfd_secret name_to_handle_at pipe pipe2 umask
    """,
    "reading and writing": """
        read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek _llseek
        sendfile sendfile64 copy_file_range splice tee vmsplice readahead fadvise64 fadvise64_64 fallocate cachestat
        truncate truncate64 ftruncate ftruncate64 sync syncfs fsync fdatasync sync_file_range
    """,
    "names and directories": """
        access faccessat faccessat2 chdir fchdir getcwd getdents getdents64 link linkat symlink symlinkat
        readlink readlinkat rename renameat renameat2 unlink unlinkat mkdir mkdirat rmdir mknod mknodat
    """,
    "what a file is": """
        stat stat64 fstat fstat64 fstatat64 newfstatat lstat lstat64 statx statfs statfs64 fstatfs fstatfs64
        listmount statmount
        chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 fchownat lchown lchown32
        utime utimes futimesat utimensat utimensat_time64
    """,
    "extended attributes": """
        getxattr getxattrat lgetxattr fgetxattr setxattr setxattrat lsetxattr fsetxattr
        listxattr listxattrat llistxattr flistxattr removexattr removexattrat lremovexattr fremovexattr
    """,
    "waiting for descriptors": """
        select _newselect pselect6 pselect6_time64 poll ppoll ppoll_time64
        epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
        eventfd eventfd2 signalfd signalfd4 inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark
    """,
    "asynchronous input and output": """
        io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set
    """,
    "sockets": """
        accept accept4 bind connect listen getpeername getsockname getsockopt setsockopt shutdown socketpair socketcall
        send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64
    """,
    "memory": """
        brk mmap mmap2 munmap mremap mprotect madvise mincore msync mseal membarrier remap_file_pages map_shadow_stack
        mlock mlock2 mlockall munlock munlockall pkey_alloc pkey_free pkey_mprotect
    """,
    "making and ending processes": """
        fork vfork execve execveat exit exit_group wait4 waitid waitpid pidfd_open pidfd_send_signal process_mrelease
        set_tid_address set_thread_area get_thread_area set_robust_list get_robust_list rseq prctl uretprobe
    """,
    "who a process is": """
        getpid getppid gettid getpgid getpgrp setpgid getsid setsid
        getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32
        getresuid getresuid32 getresgid getresgid32 getgroups getgroups32
        setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32
        setresuid setresuid32 setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32 setgroups setgroups32
        capget capset
    """,
    "scheduling and limits": """
        sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam
        sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min
        sched_rr_get_interval sched_rr_get_interval_time64 getpriority setpriority getcpu
        getrlimit ugetrlimit setrlimit prlimit64 getrusage
    """,
    "signals": """
        kill tkill tgkill pause restart_syscall sigaltstack sigprocmask sigreturn
        rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
        rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
    """,
    "time and timers": """
        time times gettimeofday adjtimex clock_adjtime clock_adjtime64
        clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 nanosleep
        alarm getitimer setitimer timer_create timer_delete timer_getoverrun
        timer_gettime timer_gettime64 timer_settime timer_settime64
        timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
    """,
    "locks": "futex futex_time64 futex_wait futex_waitv futex_wake futex_requeue",
    "System V and POSIX queues": """
        ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget
        mq_open mq_unlink mq_notify mq_getsetattr
        mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
    """,
    "giving up rights": "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    "the machine": "uname sysinfo getrandom riscv_hwprobe",
}

# --- allowed on a condition ------------------------------------------------------------------------------------------

# Address families (include/linux/socket.h) that are refused.  AF_ALG: CVE-2026-31431 wrote the host's page cache
# through it.  AF_VSOCK: reaches the hypervisor, and no network namespace confines it.
AF_ALG = 38
AF_VSOCK = 40
# The others below 64, as (bits compared, their value).  The kernel looks at the lower half of the register only, and so
# must the filter: compared whole, 0x100000026 is above 40 and yet AF_ALG (Docker compares it whole).  No kernel knows a
# family from 64 on.
FAMILIES = (
    (0xFFFFFFE0, 0x00),  # 0 to 31
    (0xFFFFFFFC, 0x20),  # 32 to 35
    (0xFFFFFFFE, 0x24),  # 36, 37
    (0xFFFFFFFF, 0x27),  # 39
    (0xFFFFFFFF, 0x29),  # 41
    (0xFFFFFFFE, 0x2A),  # 42, 43
    (0xFFFFFFFC, 0x2C),  # 44 to 47
    (0xFFFFFFF0, 0x30),  # 48 to 63
)

# CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET (include/uapi/linux/sched.h).
NEW_NAMESPACES = 0x7E020000

# Execution domains (include/uapi/linux/personality.h): Linux, Linux with 32-bit addresses' uname, and the query.
PER_LINUX = 0
PER_LINUX32 = 8
UNAME26 = 0x20000
QUERY_PERSONALITY = 0xFFFFFFFF

# Each rule: names; then by key what makes it count.
#   args      [(index, "==", value)] or [(index, "&", bits compared, their value)]
#   arch, not_arch    Docker's names of machines of which one must, or none may, be this one
#   caps, not_caps    capabilities of which all must, or none may, be in the bounding set
#   kernel    the oldest kernel (major, minor)
#   errno     refuse with this number; without it the call is allowed
RULES: "tuple[dict[str, Any], ...]" = (
    # Since 4.8 the kernel runs the filter after ptrace had its say: tracing no longer gets around it.
    {"names": "ptrace process_vm_readv process_vm_writev", "kernel": (4, 8)},
    *({"names": "socket", "args": [(0, "&", bits, value)]} for bits, value in FAMILIES),
    {"names": "personality", "args": [(0, "==", PER_LINUX)]},
    {"names": "personality", "args": [(0, "==", PER_LINUX32)]},
    {"names": "personality", "args": [(0, "==", UNAME26)]},
    {"names": "personality", "args": [(0, "==", UNAME26 | PER_LINUX32)]},
    {"names": "personality", "args": [(0, "==", QUERY_PERSONALITY)]},
    # Threads and processes, but no new namespaces.  s390 takes the flags second.
    {
        "names": "clone",
        "args": [(0, "&", NEW_NAMESPACES, 0)],
        "not_caps": ("SYS_ADMIN",),
        "not_arch": ("s390", "s390x"),
    },
    {"names": "clone", "args": [(1, "&", NEW_NAMESPACES, 0)], "not_caps": ("SYS_ADMIN",), "arch": ("s390", "s390x")},
    # Its flags lie behind a pointer.  ENOSYS makes C libraries fall back to clone; EPERM would not.
    {"names": "clone3", "errno": ENOSYS, "not_caps": ("SYS_ADMIN",)},
    # One machine's own.
    {"names": "sync_file_range2 swapcontext", "arch": ("ppc64le",)},
    {
        "names": "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
        "arch": ("arm", "arm64"),
    },
    {"names": "arch_prctl", "arch": ("amd64", "x32")},
    {"names": "modify_ldt", "arch": ("amd64", "x32", "x86")},
    {"names": "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr", "arch": ("s390", "s390x")},
    {"names": "riscv_flush_icache", "arch": ("riscv64",)},
    # What a capability is for.
    {
        "names": """
            mount umount umount2 move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr
            clone clone3 unshare setns sethostname setdomainname bpf perf_event_open fanotify_init
            quotactl quotactl_fd syslog lookup_dcookie lsm_get_self_attr lsm_set_self_attr lsm_list_modules
        """,
        "caps": ("SYS_ADMIN",),
    },
    {"names": "open_by_handle_at", "caps": ("DAC_READ_SEARCH",)},
    {"names": "reboot", "caps": ("SYS_BOOT",)},
    {"names": "chroot", "caps": ("SYS_CHROOT",)},
    {"names": "init_module finit_module delete_module", "caps": ("SYS_MODULE",)},
    {"names": "acct", "caps": ("SYS_PACCT",)},
    {
        "names": "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp",
        "caps": ("SYS_PTRACE",),
    },
    {"names": "iopl ioperm", "caps": ("SYS_RAWIO",)},
    {"names": "settimeofday stime clock_settime clock_settime64", "caps": ("SYS_TIME",)},
    {"names": "vhangup", "caps": ("SYS_TTY_CONFIG",)},
    {"names": "get_mempolicy set_mempolicy set_mempolicy_home_node mbind", "caps": ("SYS_NICE",)},
    {"names": "syslog", "caps": ("SYSLOG",)},
    {"names": "bpf", "caps": ("BPF",)},
    {"names": "perf_event_open", "caps": ("PERFMON",)},
)
