"""Confined job of a build: its context is unpacked into a directory, which gives away its Dockerfile and what
.dockerignore leaves out."""

import errno
import os
from collections.abc import Callable

from boxwright.confined import Args, Confinement
from boxwright.errdefs import InvalidParameter
from boxwright.linux import inroot
from boxwright.storage import ignore
from boxwright.storage.apply import decoded, write_all
from boxwright.storage.lookup import resolve
from boxwright.storage.placing import Placer
from boxwright.storage.tarstream import Archive, Malformed, pass_over
from boxwright.trees.trash import remove_tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 250
_LARGEST_DOCKERFILE = 2 << 20


def receive_context(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `build.context`: unpack the archive fds[0], a regular file, into the directory fds[1].

    args:
        kind          of compression
        part          [offset, size] of the archive in the file, None: all of it, from where the file is
        directory     a path in the archive that becomes the context; "" all of it
        dockerfile    its name, or ""
        ignored       what .dockerignore is carried out on: "" nothing, "Dockerfile" that and itself, since clients have
                      left out the rest, "all" everything
    The Dockerfile is written to fds[2], when it is there.  Result: dockerfile (its size, -1 when there is none).
    Raises InvalidParameter for a broken archive and for a directory that is none.
    """
    source, target, *out = fds
    if args["kind"]:
        readinto = decoded(args["kind"], source, confinement)
    elif args["part"]:
        readinto = _part(source, *args["part"])
    else:
        readinto = lambda view: os.readv(source, [view])  # noqa: E731
    root = confinement.enter(target)
    archive = Archive(readinto, lambda count: pass_over(readinto, count))
    try:
        Placer(root, "/", False, None, lambda fd: False).run(archive)
        archive.finish()
    except Malformed as error:
        raise InvalidParameter(f"archive/tar: {error}") from error
    if args["directory"]:
        _keep_only(root, str(args["directory"]))
    size = _dockerfile(root, str(args["dockerfile"]), out[0]) if args["dockerfile"] else -1
    if args["ignored"]:
        _leave_out(root, str(args["dockerfile"]), args["ignored"] == "all")
    return {"dockerfile": size}


def _part(fd: int, offset: int, size: int) -> Callable[[memoryview], int]:
    end = offset + size

    def readinto(view: memoryview) -> int:
        nonlocal offset
        count = os.preadv(fd, [view[: end - offset]], offset)
        offset += count
        return count

    return readinto


def _keep_only(root: int, path: str) -> None:
    """Make what is in a directory of the tree all that the tree has."""
    try:
        parts, kind = resolve(root, path)
    except NotADirectoryError:
        kind = "file"
    if kind != "directory":
        what = "not a directory" if kind else "no such directory"
        raise InvalidParameter(f"error setting git context, {what}: {path[:200]}")
    if not parts:
        return
    head = inroot.open_in_root(root, "/".join(map(os.fsdecode, parts[:-1])) or "/", os.O_RDONLY | os.O_DIRECTORY)
    kept = os.urandom(16).hex()
    os.rename(parts[-1], kept, src_dir_fd=head, dst_dir_fd=root)
    os.close(head)
    for name in os.listdir(root):
        if name != kept:
            remove_tree(root, name)
    fd = os.open(kept, _DIRECTORY, dir_fd=root)
    for name in os.listdir(fd):
        os.rename(name, name, src_dir_fd=fd, dst_dir_fd=root)
    os.close(fd)
    os.rmdir(kept, dir_fd=root)


def _dockerfile(root: int, path: str, out: int) -> int:
    for name in (path, path.lower()) if path == "Dockerfile" else (path,):
        try:
            data = inroot.read_bounded(root, name, _LARGEST_DOCKERFILE)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise InvalidParameter(f"the Dockerfile is larger than {_LARGEST_DOCKERFILE} bytes") from None
            raise InvalidParameter(f"failed to read dockerfile {name}: {error.strerror}") from None
        write_all(out, memoryview(data))
        return len(data)
    return -1


def _leave_out(root: int, dockerfile: str, everything: bool) -> None:
    """Carry out the context's .dockerignore."""
    try:
        lines = ignore.read(inroot.read_bounded(root, ".dockerignore", ignore.LARGEST))
        patterns = ignore.Patterns(lines)
    except FileNotFoundError:
        return
    except ignore.BadPattern as error:
        raise InvalidParameter(f"failed to parse .dockerignore: {error}") from error
    except OSError as error:
        raise InvalidParameter(f"failed to read .dockerignore: {error.strerror}") from error
    if everything:
        _prune(root, "", patterns, _DEEPEST)
        return
    for path in (ignore.clean(dockerfile), ".dockerignore"):
        if patterns.match(path):
            head, _, name = path.rpartition("/")
            try:
                parent = inroot.open_in_root(root, head or "/", os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                continue
            remove_tree(parent, name)
            os.close(parent)


def _prune(directory: int, path: str, patterns: ignore.Patterns, depth: int) -> None:
    for name in sorted(os.listdir(directory)):
        below = f"{path}/{name}" if path else name
        out = patterns.match(below)
        if out and not patterns.has_exceptions:
            remove_tree(directory, name)
            continue
        try:
            child = os.open(name, _DIRECTORY, dir_fd=directory)
        except (NotADirectoryError, OSError):
            if out:
                remove_tree(directory, name)
            continue
        try:
            if not depth:
                raise InvalidParameter(f"the tree is too deep: {below[:200]}")
            _prune(child, below, patterns, depth - 1)
        finally:
            os.close(child)
        if out:
            try:
                os.rmdir(name, dir_fd=directory)
            except OSError:
                pass  # something in it stays
