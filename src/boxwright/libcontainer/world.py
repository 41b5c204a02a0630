"""What the steps of one child share while it builds its root: descriptors, never paths."""

import os

from boxwright.linux import inroot, mount


class World:
    """The surroundings of one init between clone and pivot_root.

    root_fd: the container's root, attached in our mount namespace.
    null_fd: the host's /dev/null, checked.  empty_fd: the tmpfs over masked directories, or -1.
    devpts_fd: the container's own devpts, or -1.
    proc_fd: a private, detached mount of the container's procfs; nothing in the container can lie over parts of it
        (CVE-2025-52881).  -1 until `proc` is called.
    late: mounts (descriptor, name) to make read-only when everything is in place.
    """

    __slots__ = ("_parents", "devpts_fd", "empty_fd", "late", "null_fd", "proc_fd", "root_fd")

    def __init__(self, root_fd: int, null_fd: int) -> None:
        self.root_fd = root_fd
        self.null_fd = null_fd
        self.empty_fd = self.devpts_fd = self.proc_fd = -1
        self.late: list[tuple[int, str]] = []
        self._parents: dict[str, int] = {}

    def close(self) -> None:
        """Close all descriptors but that of the root; a world that goes on to execve need not."""
        for fd in (
            self.null_fd,
            self.empty_fd,
            self.devpts_fd,
            self.proc_fd,
            *self._parents.values(),
            *(fd for fd, _ in self.late),
        ):
            if fd >= 0:
                os.close(fd)

    def parent_of(self, path: str) -> tuple[int, str]:
        """(descriptor of the directory of `path`, its last part); made when missing; kept open for the next."""
        head, _, name = path.rstrip("/").rpartition("/")
        fd = self._parents.get(head, -1)
        if fd < 0:
            path_fd = inroot.make_directories(self.root_fd, head or "/")
            self._parents[head] = fd = path_fd
        return fd, name

    def proc(self) -> int:
        """`proc_fd`, made when there is none yet."""
        if self.proc_fd < 0:
            attributes = mount.ATTR_NOSUID | mount.ATTR_NODEV | mount.ATTR_NOEXEC
            self.proc_fd = mount.make("proc", "proc", (), attributes)
        return self.proc_fd
