"""Paths of sources and destinations in trees that nobody changes: where they lead, and what a pattern names."""

import errno
import os
import posixpath
import stat

from boxwright.errdefs import InvalidParameter, NotFound
from boxwright.linux import inroot
from boxwright.storage import ignore

_MOST_LINKS = 255
_MOST_SOURCES = 100_000  # files that one pattern names


def resolve(root: int, path: str) -> "tuple[list[bytes], str]":
    """Where a path leads in a tree that nobody changes: its names with every link followed, and "directory", "file" or
    "" for what is not there.  Raises InvalidParameter (too many links), NotADirectoryError.
    """
    left = path.split("/")[::-1]
    done: list[bytes] = []
    links, kind = 0, "directory"
    while left:
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":
            done = done[:-1]
            kind = "directory" if kind else _kind(root, done)
            continue
        if kind == "file":
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
        done.append(os.fsencode(name))
        if not kind:
            continue
        kind = _kind(root, done)
        if kind != "link":
            continue
        links += 1
        if links > _MOST_LINKS:
            raise InvalidParameter(f"too many links in {path[:200]}")
        fd = inroot.open_in_root(root, _joined(done), os.O_PATH | os.O_NOFOLLOW)
        text = os.readlink("", dir_fd=fd)
        os.close(fd)
        done = [] if text.startswith("/") else done[:-1]
        left += text.split("/")[::-1]
        kind = "directory"
    return done, kind


def _kind(root: int, names: "list[bytes]") -> str:
    try:
        fd = inroot.open_in_root(root, _joined(names), os.O_PATH | os.O_NOFOLLOW)
    except FileNotFoundError:
        return ""
    try:
        mode = os.fstat(fd).st_mode
    finally:
        os.close(fd)
    return "directory" if stat.S_ISDIR(mode) else "link" if stat.S_ISLNK(mode) else "file"


def _joined(names: "list[bytes]") -> str:
    return "/" + os.fsdecode(b"/".join(names))


def matching(tree: int, pattern: str, instruction: str, deep: bool = False) -> "list[str]":
    """The paths that a source names: itself, or with wildcards whatever matches, in order.

    deep: ** stands for any number of directories, not for the names of one.  What lies in a directory that matches is
    not named again.  Raises NotFound, InvalidParameter.
    """
    if not ignore.has_wildcards(pattern):
        try:
            _, kind = resolve(tree, pattern)
        except NotADirectoryError:
            kind = ""
        if not kind:
            raise missing(instruction, pattern)
        return [pattern]
    found = [""]
    names_of = list(filter(None, posixpath.normpath(pattern.lstrip("/")).split("/")))
    if deep and names_of[-1] == "**":
        names_of[-1:] = ["**", "*"]
    for name in names_of:
        if deep and name == "**":
            found = _everywhere(tree, found, instruction)
            continue
        try:
            expression = ignore.component(name)
        except ignore.BadPattern as error:
            raise InvalidParameter(f"{instruction} failed: {error}") from error
        below: list[str] = []
        for path in found:
            names = _names(tree, path) if ignore.has_wildcards(name) else [name]
            below += [f"{path}/{entry}" for entry in names if expression.match(entry) or entry == name]
            _check_count(below, instruction)
        found = below
    found = [path for path in found if _exists(tree, path)]
    if not found:
        raise InvalidParameter(f"{instruction} failed: no source files were specified")
    return _outermost(found) if deep else found


def _check_count(found: "list[str]", instruction: str) -> None:
    if len(found) > _MOST_SOURCES:
        raise InvalidParameter(f"{instruction} failed: a pattern names more than {_MOST_SOURCES} files")


def _everywhere(tree: int, paths: "list[str]", instruction: str) -> "list[str]":
    """The directories, and all that are below them; links lead nowhere."""
    found: list[str] = []
    left = paths[::-1]
    while left:
        path = left.pop()
        found.append(path)
        _check_count(found, instruction)
        below = [f"{path}/{name}" for name in _names(tree, path)]
        left += [one for one in below[::-1] if _kind(tree, [os.fsencode(one.strip("/"))]) == "directory"]
    return found


def _outermost(paths: "list[str]") -> "list[str]":
    """Each path once, and none that lies in another one."""
    found: dict[str, None] = {}
    for path in sorted(paths):
        heads = path.split("/")
        if not any("/".join(heads[:count]) in found for count in range(1, len(heads) + 1)):
            found[path] = None
    return list(found)


def _exists(tree: int, path: str) -> bool:
    try:
        return bool(resolve(tree, path)[1])
    except NotADirectoryError:
        return False


def _names(tree: int, path: str) -> "list[str]":
    try:
        fd = inroot.open_in_root(tree, path or "/", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def missing(instruction: str, path: str) -> NotFound:
    """The error for a source that is not there."""
    shown = posixpath.normpath("/" + path).lstrip("/")
    return NotFound(
        f"{instruction} failed: file not found in build context or excluded by .dockerignore: "
        f"stat {shown}: file does not exist"
    )
