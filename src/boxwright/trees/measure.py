"""How much a tree takes."""

import os
import stat

# Directories deeper than this are not counted: one descriptor a level.
_DEEPEST = 200
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def usage(path: str) -> tuple[int, int]:
    """Sum of the sizes of the files below `path` (bytes, hard links once) and the number of inodes.

    The tree may change or be hostile meanwhile: nothing is followed, what vanishes is not counted.  For a thread.
    """
    seen: set[tuple[int, int]] = set()
    root = os.open(path, _DIRECTORY)
    try:
        return _usage(root, _DEEPEST, seen)
    finally:
        os.close(root)


def _usage(directory: int, depth: int, seen: set[tuple[int, int]]) -> tuple[int, int]:
    size = inodes = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if not stat.S_ISDIR(status.st_mode):
                identity = (status.st_dev, status.st_ino)
                if status.st_nlink > 1:
                    if identity in seen:
                        continue
                    seen.add(identity)
                inodes += 1
                size += status.st_size
            elif depth:
                inodes += 1
                try:
                    child = os.open(entry.name, _DIRECTORY, dir_fd=directory)
                except OSError:
                    continue
                try:
                    below, count = _usage(child, depth - 1, seen)
                finally:
                    os.close(child)
                size, inodes = size + below, inodes + count
    return size, inodes
