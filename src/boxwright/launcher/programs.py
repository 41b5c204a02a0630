"""Where a job's child runs programs of the host over hostile bytes (git): as nobody, with the network and little else.

    /usr, /bin, /lib, …                read-only; as much as a user of the host may read
    /etc/ssl, /etc/resolv.conf, …      certificates and name look-ups, nothing else of /etc
    /dev/null, …/zero, …/urandom
    /work                              the job's own directory: the only place that can be written; nothing in it runs

No /proc, no /run, no socket of the host's file system, no process but its own, and no capability.
"""

import os
import resource
import stat

from boxwright.launcher import jobfilter, newroot
from boxwright.linux import capabilities, mount, namespaces, process

WORK = "/work"
NOBODY = 65534
_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SETTINGS = (
    "ca-certificates", "ssl", "pki", "crypto-policies", "gai.conf", "host.conf", "hosts", "ld.so.cache",
    "nsswitch.conf", "resolv.conf", "services",
)  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")


def enter(work: int, largest: int) -> None:
    """Give up everything else.  work: the directory that becomes /work, and nobody's.  largest: of a file, bytes.

    First in a child that is alone in its pid namespace.
    """
    present = capabilities.bounding()
    os.fchown(work, NOBODY, NOBODY)
    tree = mount.make("tmpfs", "tmpfs", (("size", "1m"), ("mode", "755")))
    inside = _inside(tree)
    os.mkdir(WORK.lstrip("/"), 0o755, dir_fd=tree)
    copy = mount.open_tree(work, "")
    mount.set_attributes(copy, mount.ATTR_NOSUID | mount.ATTR_NODEV | mount.ATTR_NOEXEC, name=WORK)
    inside.append((copy, WORK.lstrip("/")))
    os.close(work)
    mount.set_attributes(
        tree,
        mount.ATTR_NOSUID | mount.ATTR_NODEV | mount.ATTR_NOEXEC | mount.ATTR_RDONLY,
        propagation=mount.PROPAGATION_PRIVATE,
        name="the programs' root",
    )
    newroot.enter(tree, inside)
    namespaces.unshare(namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS, "the programs' namespaces")
    os.chdir(WORK)
    while (spare := os.open("/dev/null", os.O_RDWR)) < 2:
        pass  # 0 and 1, where they are closed: no pipe of a program becomes one of them
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    newroot.give_up(0, present, NOBODY)
    process.die_with_parent()  # a change of user has cleared it
    process.close_on_exec_from(3)
    jobfilter.install("programs")


def _inside(tree: int) -> list[tuple[int, str]]:
    """The host's files, as detached copies of their mounts, and the paths that were made for them in `tree`."""
    found = []
    for directory in ("etc", "dev"):
        os.mkdir(directory, 0o755, dir_fd=tree)
    for path in (*_PROGRAMS, *(f"/etc/{name}" for name in _SETTINGS), *_DEVICES):
        name = path[1:]
        if path in _PROGRAMS and os.path.islink(path):
            os.symlink(os.readlink(path), name, dir_fd=tree)  # to /usr, as Debian's are
            continue
        try:
            copy = mount.open_tree(mount.AT_FDCWD, path, recursive=path in _PROGRAMS)
        except FileNotFoundError:
            continue
        flags = mount.ATTR_NOSUID | mount.ATTR_RDONLY
        flags |= 0 if path in _DEVICES else mount.ATTR_NODEV
        flags |= 0 if path in _PROGRAMS else mount.ATTR_NOEXEC
        mount.set_attributes(
            copy, flags, propagation=mount.PROPAGATION_PRIVATE, recursive=path in _PROGRAMS, name=path
        )  # fmt: skip
        if stat.S_ISDIR(os.fstat(copy).st_mode):
            os.mkdir(name, 0o755, dir_fd=tree)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=tree))
        found.append((copy, name))
    return found
