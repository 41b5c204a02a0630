"""Paths of `docker cp`, as Docker's archive endpoints read them: lexical parts only, no file is looked at."""

import posixpath
import stat
import time

# Go's fs.FileMode (io/fs, "FileMode"): the bits above the nine of permission.
_KINDS = {
    stat.S_IFDIR: 1 << 31, stat.S_IFLNK: 1 << 27, stat.S_IFBLK: 1 << 26, stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25, stat.S_IFSOCK: 1 << 24, stat.S_IFREG: 0,
}  # fmt: skip
_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


def absolute(path: str) -> str:
    """The cleaned absolute path; a trailing "/" or "/." stays, since it says that a directory is meant.

    ".." never leads above "/".
    """
    clean = posixpath.normpath("/" + path.lstrip("/"))
    if path.rstrip("/").rpartition("/")[2] == "." or not path:
        return clean.rstrip("/") + ("/./" if path.endswith("/") else "/.")
    return clean + "/" if path.endswith("/") and clean != "/" else clean


def base(path: str) -> str:
    """Go's filepath.Base of an absolute path: "/" for the root, "." for what ends with "/."."""
    return path.rstrip("/").rpartition("/")[2] or "/"


def go_mode(mode: int) -> int:
    """st_mode as Go's FileMode bits."""
    found = mode & 0o777 | _KINDS.get(stat.S_IFMT(mode), 1 << 19)
    return found | sum(go for bit, go in _BITS if mode & bit)


def go_time(nanoseconds: int) -> str:
    """RFC 3339 in UTC with as many digits of a second as are not zero."""
    seconds, rest = divmod(nanoseconds, 10**9)
    moment = time.gmtime(seconds)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}{fraction}Z"
