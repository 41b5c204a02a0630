"""What every container has something mounted on, or looks for, as a layer below all others.

Most images lack some of these.  Without this layer each start would make them in the container's own one: work for the
disk's journal, as much again at the removal, and a difference to the image that nobody made.
An image that has one of them, a link in its place included, has its own: this layer is the lowest.
"""

import os

DIRECTORIES = ("dev", "etc", "proc", "sys")
FILES = ("etc/hostname", "etc/hosts", "etc/resolv.conf")
MARK = ".dockerenv"
"""An empty file in the root directory: programs look for it to learn that they are in a container of Docker's kind."""
LINKS = {"etc/mtab": "/proc/mounts"}


def make_mount_points(path: str, temporary: str) -> None:
    """Make `path`/fs with all of them, unless it is there; whole or not at all, by a rename of `temporary`."""
    if os.path.lexists(path):
        return
    os.makedirs(f"{temporary}/fs")
    for name in ("", *DIRECTORIES):
        directory = f"{temporary}/fs/{name}"
        os.makedirs(directory, exist_ok=True)
        os.chmod(directory, 0o755)  # whatever the umask is
    for name in FILES:
        fd = os.open(f"{temporary}/fs/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        os.fchmod(fd, 0o644)
        os.close(fd)
    for name, target in LINKS.items():
        os.symlink(target, f"{temporary}/fs/{name}")
    make_mark(f"{temporary}/fs")
    os.rename(temporary, path)


def make_mark(root: str) -> None:
    """Make the mark in `root`, unless something has its name."""
    try:
        fd = os.open(f"{root}/{MARK}", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o755)
    except FileExistsError:
        return
    os.fchmod(fd, 0o755)
    os.close(fd)
