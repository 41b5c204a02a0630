"""Device policy: which device nodes a container may open or make, and what host devices become in a spec.

A rule is the OCI dict {"allow", "type", "major", "minor", "access"}; -1 or an absent number is the wildcard.
"""

import os
import stat

from boxwright.errdefs import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Rule = dict[str, Any]
    Key = tuple[str, int, int]

ACCESS = "rwm"


def _allow(kind: str, major: int, minor: int, access: str = ACCESS) -> "Rule":
    return {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}


# What the runtime-spec makes every runtime supply, so every policy ends with them.  Making any node is harmless
# (mknod of a device that may not be opened); opening is what counts.
DEFAULT_RULES: "list[Rule]" = [
    _allow("c", -1, -1, "m"),
    _allow("b", -1, -1, "m"),
    _allow("c", 1, 3),  # null
    _allow("c", 1, 5),  # zero
    _allow("c", 1, 7),  # full
    _allow("c", 1, 8),  # random
    _allow("c", 1, 9),  # urandom
    _allow("c", 5, 0),  # tty
    _allow("c", 5, 1),  # console
    _allow("c", 5, 2),  # ptmx
    _allow("c", 136, -1),  # pts
]

ALLOW_ALL: "list[Rule]" = [{"allow": True, "access": ACCESS}]
"""The policy of a privileged container."""


class Policy:
    """The state of a v1 devices group: a default for all devices and the exceptions to it.

    allow: what happens to a device without exception.
    exceptions: (type, major, minor) → access letters; -1 is the wildcard.
    A denied default is lifted by one entry that covers all the access asked for; an allowed default is taken away by
    an entry that covers any of it.
    """

    __slots__ = ("allow", "exceptions")

    def __init__(self, allow: bool = False, exceptions: "dict[Key, str] | None" = None) -> None:
        self.allow = allow
        self.exceptions = exceptions or {}

    def apply(self, rule: "Rule") -> None:
        """Apply one rule as the v1 kernel does (security/device_cgroup.c)."""
        allow, kind, major, minor, access = checked(rule)
        if kind == "a":
            self.allow, self.exceptions = allow, {}
            return
        key = (kind, major, minor)
        had = self.exceptions.get(key, "")
        if allow != self.allow:
            self.exceptions[key] = "".join(c for c in ACCESS if c in had or c in access)
        elif left := "".join(c for c in had if c not in access):
            self.exceptions[key] = left
        else:
            self.exceptions.pop(key, None)

    def permits(self, kind: str, major: int, minor: int, access: str) -> bool:
        """The kernel's verdict for opening or making a device."""
        enough = any if self.allow else all
        for (k, mj, mn), letters in self.exceptions.items():
            if k == kind and mj in (-1, major) and mn in (-1, minor) and enough(c in letters for c in access):
                return not self.allow
        return self.allow


def policy(rules: "list[Rule] | None") -> Policy:
    """The policy of a container: deny all, then `rules` in order, then DEFAULT_RULES unless all is allowed anyway.

    To be read only: without rules it is the same object each time.
    """
    return _made(rules) if rules else _usual


def _made(rules: "list[Rule]") -> Policy:
    result = Policy()
    for rule in [*rules, *DEFAULT_RULES]:
        result.apply(rule)
    return result


def checked(rule: "Rule") -> "tuple[bool, str, int, int, str]":
    """(allow, type, major, minor, access) of a rule; raises StepError when it is malformed."""
    allow, kind, access = rule.get("allow"), rule.get("type") or "a", rule.get("access") or ACCESS
    numbers = rule.get("major"), rule.get("minor")
    if (
        not isinstance(allow, bool)
        or kind not in ("a", "b", "c", "u")
        or not isinstance(access, str)
        or not set(access) <= set(ACCESS)
        or not all(number is None or type(number) is int for number in numbers)
    ):
        raise _refused("cgroup: no such device rule", rule)
    major, minor = (-1 if number is None or number < 0 else number for number in numbers)
    if kind == "a" and (major, minor) != (-1, -1):
        raise _refused("cgroup: a device rule for both types cannot name a device", rule)
    return allow, "c" if kind == "u" else kind, major, minor, access


def _refused(why: str, rule: "Rule") -> StepError:
    return StepError(f"{why}: {rule}", step="cgroup", operation="check", path="devices")


def spell(key: "Key", access: str) -> str:
    """A rule as devices.allow and devices.deny take it: "c 1:3 rwm"."""
    kind, major, minor = key
    return f"{kind} {'*' if major < 0 else major}:{'*' if minor < 0 else minor} {access}"


def parse_list(text: str) -> Policy:
    """The policy that devices.list shows ("a *:* rwm" means that all is allowed; the kernel hides its exceptions)."""
    result = Policy()
    for line in text.splitlines():
        kind, numbers, access = line.split(" ")
        if kind == "a":
            return Policy(True)
        major, minor = (-1 if n == "*" else int(n) for n in numbers.split(":"))
        result.exceptions[(kind, major, minor)] = access
    return result


def from_host(path: str, path_in_container: str = "", access: str = ACCESS) -> "tuple[list[Rule], list[Rule]]":
    """`--device`: (OCI linux.devices entries, cgroup rules) for a device node of the host or a directory of them.

    Raises StepError when `path` does not exist or holds no device.
    """
    inside = path_in_container or path
    real = os.path.realpath(path)
    found = [(real, inside)]
    if os.path.isdir(real):
        found = [
            (os.path.join(base, name), os.path.join(inside, os.path.relpath(os.path.join(base, name), real)))
            for base, _, names in os.walk(real)
            for name in sorted(names)
        ]
    nodes, rules = [], []
    for source, target in found:
        node = _node(source, target, path)
        if node is not None:
            nodes.append(node)
            rules.append(_allow(node["type"], node["major"], node["minor"], access or ACCESS))
    if not nodes:
        raise StepError(
            f'error gathering device information while adding custom device "{path}": not a device node',
            step="devices",
            operation="stat",
            path=path,
        )
    return nodes, rules


def _node(source: str, target: str, asked: str) -> "Rule | None":
    try:
        info = os.stat(source)
    except OSError as error:
        why = (error.strerror or "").lower()
        raise StepError(
            f'error gathering device information while adding custom device "{asked}": {why}',
            step="devices",
            operation="stat",
            path=source,
            errno=error.errno or 0,
        ) from error
    kind = "c" if stat.S_ISCHR(info.st_mode) else "b" if stat.S_ISBLK(info.st_mode) else ""
    if not kind:
        return None
    return {
        "path": target,
        "type": kind,
        "major": os.major(info.st_rdev),
        "minor": os.minor(info.st_rdev),
        "fileMode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
    }


def all_host() -> "list[Rule]":
    """Every device node below /dev of the host, for a privileged container, except terminals, shm and mqueue."""
    nodes = []
    for base, directories, names in os.walk("/dev"):
        directories[:] = sorted(d for d in directories if d not in ("pts", "shm", "fd", "mqueue", ".lxc", ".udev"))
        for name in sorted(names):
            path = os.path.join(base, name)
            if name == "console" or os.path.islink(path):
                continue
            try:
                node = _node(path, path, path)
            except StepError:
                # The node went away between listing and stat: hot-plugged devices do.
                continue
            if node is not None:
                nodes.append(node)
    return nodes


_usual = _made([])
