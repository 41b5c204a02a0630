"""An archive unpacked over what is there: `docker cp` into a container, whose files others change meanwhile.

Unlike a layer it deletes nothing by name, and symbolic links of the container lead on: this process's root is the
container's, so an absolute one starts there, and ".." ends there.
"""

import os
import stat
from collections.abc import Callable

from boxwright.errdefs import InvalidParameter
from boxwright.linux import inroot
from boxwright.storage import tarstream
from boxwright.storage.extract import Extractor
from boxwright.storage.tarstream import Archive, Entry, Malformed

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class _Forgets:
    """Takes the place of a layer's recorder: nothing of a copy is kept."""

    def begin(self, path: bytes) -> None:
        """Nothing."""

    def seek(self, offset: int) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def keep(self, path: bytes, fd: int) -> None:
        """Nothing: the content that goes is the container's own."""


class Placer(Extractor):
    """Unpacks one archive below the directory `target`, which lies somewhere in this process's own root.

    where: the target's path, for errors.  keep_types: a directory gives way to nothing else, and nothing else to a
    directory.  owner: (uid, gid) of everything made, None: as the archive says.
    forbidden: whether a directory is none to write in.
    """

    def __init__(
        self,
        target: int,
        where: str,
        keep_types: bool,
        owner: tuple[int, int] | None,
        forbidden: Callable[[int], bool],
    ) -> None:
        super().__init__(target, True, lambda done: None, _Forgets())
        self._where = where
        self._keep_types = keep_types
        self._owner = owner
        self._forbidden = forbidden

    def _make(self, entry: Entry, archive: Archive) -> None:
        if self._stale:
            self._close_all()
        if not entry.name:
            return  # the target itself is as it is
        if self._owner is not None:
            entry.uid, entry.gid = self._owner
        head, _, name = entry.name.rpartition(b"/")
        parent = self._parent(head)
        if self._keep_types:
            self._check_type(parent, name, entry)
        self._member(entry, archive, head, name, parent)

    def _check_type(self, parent: int, name: bytes, entry: Entry) -> None:
        try:
            present = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        there, comes = stat.S_ISDIR(present.st_mode), entry.kind == tarstream.DIRECTORY
        if there == comes:
            return
        old, new = ("directory", "non-directory") if there else ("non-directory", "directory")
        path = f"{self._where.rstrip('/')}/{entry.name.decode(errors='replace')}"
        raise InvalidParameter(f'cannot overwrite {old} "{path}" with {new} "{self._where}"')

    def _open_parent(self, path: bytes) -> tuple[int, bytes]:
        return self._existing(path), path

    def _existing(self, path: bytes) -> int:
        return inroot.openat2(self._root, os.fsdecode(path) or ".", _DIRECTORY, inroot.RESOLVE_NO_MAGICLINKS)

    _again = _existing

    def _imply(self, path: bytes) -> int:
        """Make a missing directory; what is in the way stays, and the copy fails."""
        head, _, name = path.rpartition(b"/")
        parent = self._parent(head)
        os.mkdir(name, 0o755, dir_fd=parent)
        if self._owner is not None:
            os.chown(name, *self._owner, dir_fd=parent, follow_symlinks=False)
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)

    def _keep_open(self, path: bytes, fd: int, canonical: bytes) -> None:
        if self._forbidden(fd):
            os.close(fd)
            raise Malformed(f"{path[:200].decode(errors='replace')} is no place for files")
        super()._keep_open(path, fd, canonical)

    def _record_loss(self, parent: int, path: bytes, name: bytes) -> None:
        """Nothing is recorded."""

    def _remember(self, path: bytes) -> None:
        """Nothing is deleted later, so nothing has to be remembered."""
