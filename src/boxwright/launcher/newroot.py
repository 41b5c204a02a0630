"""A root of its own for a process: a detached mount becomes "/", in a mount namespace that holds nothing else; and the
rights that it gives up in there.
"""

import os
import resource
import sys
from collections.abc import Iterable

from boxwright.errdefs import System
from boxwright.linux import capabilities, mount, namespaces, process

# Of one job: (resource, limit).  Memory covers the widest decoder's window and then some.
LIMITS = (
    (resource.RLIMIT_AS, 2 << 30),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_NOFILE, 2048),
    (resource.RLIMIT_CPU, 3600),
    (resource.RLIMIT_MEMLOCK, 0),
)


def enter(tree: int, inside: "Iterable[tuple[int, str]]" = ()) -> None:
    """Make the detached mount `tree` the root and the working directory, with the detached mounts `inside` attached
    below it, each on a path that it has.  Closes all of them.
    """
    namespaces.unshare(namespaces.CLONE_NEWNS)
    slash = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    # Before anything is attached: or it would show up in the host's table.
    mount.set_attributes(slash, propagation=mount.PROPAGATION_PRIVATE, recursive=True, name="/")
    mount.move_mount(tree, slash, "/")
    os.close(slash)
    os.fchdir(tree)
    os.close(tree)
    for fd, path in inside:
        place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        mount.move_mount(fd, place, path)
        os.close(place)
        os.close(fd)
    try:
        mount.pivot_root(".", ".")
        mount.umount(".", mount.MNT_DETACH)
    except OSError:
        os.chroot(".")  # the first root file system of the machine (initramfs) cannot be pivoted away
    os.chdir("/")
    if not os.path.samestat(os.stat("/"), os.stat("/..")):
        raise System("the job's root has something mounted over it")  # and ".." would lead there


def give_up(bits: int, present: int, user: int = 0) -> None:
    """Keep the capabilities of the mask `bits` alone, and gain no others; bound what is used; import nothing any more.

    present: the bounding set.  user: who the process becomes, and its only group.
    """
    os.umask(0o077)
    for which, limit in LIMITS:
        _, hard = resource.getrlimit(which)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(which, (limit, limit))
    for places in (sys.path, sys.meta_path, sys.path_hooks):
        places.clear()
    sys.path_importer_cache.clear()
    process.set_no_new_privileges()
    process.set_dumpable(False)
    capabilities.limit_bounding(bits, present)
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    capabilities.apply(bits, bits, 0, 0)
