"""Deletion in the background: what goes is renamed into `tmp/` at once, and unlinked by a thread.

The trees are hostile (a container made them): nothing is followed, depth costs neither stack nor descriptors, and names
are only ever used relative to a directory descriptor.  Whatever is mounted in a tree is left alone.
"""

import errno
import os
import queue
import threading

from boxwright.linux import inroot
from boxwright.trees.placement import spread

# Deeper directories are moved up instead of descended into: one descriptor a level would run out.
DEEPEST = 64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Trash:
    """The `tmp` directory of a data root; the only place where things are half made or half gone."""

    def __init__(self, directory: str) -> None:
        """`directory` is made if it is missing, mode 0700."""
        os.makedirs(directory, 0o700, exist_ok=True)
        spread(directory)
        self.directory = directory
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._idle = threading.Condition()
        self._waiting = 0
        self._thread: threading.Thread | None = None

    def place(self, kind: str) -> str:
        """A fresh path in `tmp` that nothing has yet; `kind` is for people who look."""
        return f"{self.directory}/{kind}-{os.urandom(12).hex()}"

    def discard(self, path: str) -> None:
        """Rename `path` away, atomically, and delete it later; no error when it is gone already."""
        if os.path.dirname(path) != self.directory:
            target = self.place("trash")
            try:
                os.rename(path, target)
                path = target
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                # Volumes may lie on a file system of their own: deleted where it is, then.
        with self._idle:
            self._waiting += 1
        self._queue.put(path)
        self._work()

    def sweep(self) -> None:
        """At engine start: whatever is in `tmp` belongs to nobody."""
        for name in os.listdir(self.directory):
            self.discard(f"{self.directory}/{name}")

    def drain(self, timeout: float = 30.0) -> bool:
        """Wait until everything discarded is deleted; False after `timeout` seconds."""
        self._work()
        with self._idle:
            return self._idle.wait_for(lambda: not self._waiting, timeout)

    def close(self) -> None:
        """Delete what is queued and end the thread."""
        self._queue.put(None)
        if self._thread is None:
            self._run()  # what no thread could be had for
        else:
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        """Have a thread.  Where none can be made now (a limit of processes) what is queued waits for the next call."""
        if self._thread is not None or self._queue.empty():
            return
        thread = threading.Thread(target=self._run, name="trash", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return
        self._thread = thread

    def _run(self) -> None:
        while (path := self._queue.get()) is not None:
            try:
                delete(path)
            except OSError:
                # Busy or immutable: the next start sweeps it again.
                pass
            with self._idle:
                self._waiting -= 1
                self._idle.notify_all()


def delete(path: str) -> None:
    """Remove the file or tree at `path`, whatever is in it.  Raises OSError for what the kernel does not let go."""
    parent = os.open(os.path.dirname(path) or ".", _DIRECTORY)
    try:
        _delete(parent, os.path.basename(path), True, -1, DEEPEST)
    finally:
        os.close(parent)


def remove_tree(parent: int, name: str) -> None:
    """Remove the file or tree `name` in the directory `parent`; no error when it is not there."""
    _delete(parent, name, False, -1, DEEPEST)


def _delete(directory: int, name: str, is_directory: bool, root: int, depth: int) -> None:
    """Delete an entry of `directory`; directories below `depth` levels are moved to `root` and found there."""
    while not _remove(directory, name, is_directory):
        if depth == 0:
            os.rename(name, os.urandom(12).hex(), src_dir_fd=directory, dst_dir_fd=root)
            return
        try:
            child = _open(directory, name)
        except FileNotFoundError:
            return  # somebody else deletes here, too
        try:
            for inner, is_inner_directory in _entries(child):
                _delete(child, inner, is_inner_directory, child if root < 0 else root, depth - 1)
        finally:
            os.close(child)
        # Once more when something came meanwhile, from below or from somebody else; mostly it is empty now.
        is_directory = True


def _entries(directory: int) -> list[tuple[str, bool]]:
    """(name, whether it is a directory) of each entry, as the directory itself says it: no further call for each."""
    with os.scandir(directory) as found:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]


def _open(directory: int, name: str) -> int:
    """Raises OSError(EXDEV) for what something is mounted on: it is somebody's data, and not in this tree."""
    return inroot.openat2(directory, name, _DIRECTORY, inroot.RESOLVE_NO_XDEV | inroot.RESOLVE_NO_SYMLINKS)


def _remove(directory: int, name: str, is_directory: bool) -> bool:
    """Unlink a file or an empty directory; False for a directory with something in it.

    is_directory: what it most likely is.  A call that fails costs as much as one that does not, and each of them hands
    the interpreter's lock to the event loop and takes it back.
    """
    if not is_directory:
        try:
            os.unlink(name, dir_fd=directory)
            return True
        except FileNotFoundError:
            return True
        except (IsADirectoryError, PermissionError) as error:
            if isinstance(error, PermissionError) and error.errno != errno.EPERM:
                raise
    try:
        os.rmdir(name, dir_fd=directory)
        return True
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return is_directory and _remove(directory, name, False)  # somebody else put a file in its place
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
