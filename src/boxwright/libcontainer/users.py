"""Docker's user strings → ids, from the container's own /etc/passwd and /etc/group.

    ""            root's entry                     "1000"          that id; entry by id if there is one
    "name"        entry by name                    "1000:100"      ids as they stand
    "name:group"  entry by name, group by name     "name:100"      entry by name, group by id

Both files are hostile input: opened in-root, read up to a limit, lines that do not parse are skipped.  Ids outside
0…2³¹-1 are refused (CVE-2026-46680: 4294967296 is not 0; CVE-2026-30892: "1" is the id 1, whatever it is called).
"""

import errno

from boxwright.errdefs import StepError
from boxwright.linux import inroot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

MAX_ID = 2**31 - 1
_FILE_LIMIT = 1 << 20
_MAX_GROUPS = 65536  # NGROUPS_MAX
_DIGITS = frozenset("0123456789")


class User:
    """Who a program runs as. uid, gid: ids. groups: supplementary gids, the primary one among them. home: its HOME."""

    __slots__ = ("gid", "groups", "home", "uid")

    def __init__(self, uid: int, gid: int, groups: "list[int]", home: str) -> None:
        self.uid, self.gid, self.groups, self.home = uid, gid, groups, home


def resolve(root_fd: int, user: "dict[str, Any]") -> User:
    """The ids of an OCI `process.user` in the root `root_fd`.

    With "username" (the engine's spec) that string decides; without, "uid" and "gid" do.  "additionalGids" and
    "additionalGroups" (names or numbers, `--group-add`) are added.  Raises StepError with Docker's texts.
    """
    passwd = _entries(root_fd, "etc/passwd")
    if "username" in user:
        found = _resolve_string(root_fd, str(user["username"] or ""), passwd)
    else:
        uid, gid = _checked(user.get("uid") or 0), _checked(user.get("gid") or 0)
        home = next((line[5] for line in passwd if len(line) > 5 and _number(line[2]) == uid), "")
        found = User(uid, gid, [], home or "/")
    extra = [_checked(gid) for gid in user.get("additionalGids") or ()]
    extra += _named_groups(root_fd, user.get("additionalGroups") or ())
    # The primary group is also a supplementary one, or a file's mode for its group could be evaded (CVE-2022-36109).
    found.groups = list(dict.fromkeys([found.gid, *found.groups, *extra])) if "username" in user else extra
    if len(found.groups) > _MAX_GROUPS:
        _fail("too many supplementary groups", errno.EINVAL)
    return found


def _resolve_string(root_fd: int, text: str, passwd: "list[list[str]]") -> User:
    name, _, group = text.partition(":")
    uid = _number(name)
    entry = _passwd_entry(passwd, name, uid)
    if entry is not None:
        found_uid, gid, home, entry_name = _checked(int(entry[2])), _checked(int(entry[3])), entry[5], entry[0]
    elif not name:
        found_uid, gid, home, entry_name = 0, 0, "/", ""
    elif uid is not None:
        found_uid, gid, home, entry_name = _checked(uid), 0, "/", ""
    else:
        _fail(f"unable to find user {name}: no matching entries in passwd file")
    groups: list[int] = []
    if group:
        gid = _group_id(_entries(root_fd, "etc/group"), group)
    elif entry_name:
        lines = _entries(root_fd, "etc/group")
        groups = [
            number
            for line in lines
            if entry_name in line[3].split(",") and (number := _number(line[2])) is not None and number <= MAX_ID
        ]
    return User(found_uid, gid, groups, home or "/")


def _passwd_entry(passwd: "list[list[str]]", name: str, uid: int | None) -> "list[str] | None":
    """The first usable entry: a number is always an id, never a name; "" is id 0."""
    for line in passwd:
        if len(line) < 6 or _number(line[2]) is None or _number(line[3]) is None:
            continue
        number = _number(line[2])
        if (number == 0) if not name else (number == uid) if uid is not None else (line[0] == name):
            return line
    return None


def _group_id(lines: "list[list[str]]", group: str) -> int:
    wanted = _number(group)
    if wanted is not None:
        return _checked(wanted)
    for line in lines:
        if line[0] == group and (number := _number(line[2])) is not None:
            return _checked(number)
    return _fail(f"unable to find group {group}: no matching entries in group file")


def _named_groups(root_fd: int, names: "Any") -> "list[int]":
    if not names:
        return []
    lines = _entries(root_fd, "etc/group")
    return [_group_id(lines, str(name)) for name in names]


def _entries(root_fd: int, path: str) -> "list[list[str]]":
    """Lines of a colon-separated file as fields; [] when there is no such file. Fields are at least four."""
    try:
        data = inroot.read_bounded(root_fd, path, _FILE_LIMIT)
    except FileNotFoundError:
        return []
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
            return []
        raise StepError(
            f"cannot read /{path} of the container: {error.strerror}",
            step="user",
            operation="read",
            path="/" + path,
            errno=error.errno or 0,
            hint=f"the file is limited to {_FILE_LIMIT} bytes and must be a regular file",
        ) from error
    lines = (line.split(":") for line in data.decode("utf-8", "surrogateescape").split("\n"))
    return [fields for fields in lines if len(fields) >= 4]


def _number(text: str) -> int | None:
    """The decimal number `text` is, or None; no sign, no space, no underscore, no other script's digits."""
    return int(text) if text and len(text) <= 32 and _DIGITS.issuperset(text) else None


def _checked(number: "Any") -> int:
    if not isinstance(number, int) or not 0 <= number <= MAX_ID:
        return _fail(f"uids and gids must be in range 0-{MAX_ID}", errno.EINVAL)
    return number


def _fail(message: str, number: int = 0) -> "NoReturn":
    raise StepError(message, step="user", operation="resolve", errno=number)
