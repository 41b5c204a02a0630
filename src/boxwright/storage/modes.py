"""Permissions of files as chmod(1) takes them: octal, or changes like `u=rwX,go=rX`, `+x`, `g=u`."""

import re
from typing import NamedTuple

_LONGEST = 256  # characters
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)")
_ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
# The bits that belong to whom.
_OF = {"u": 0o4700, "g": 0o2070, "o": 0o1007, "a": 0o7777}
_SHIFT = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111, "s": 0o6000, "t": 0o1000}


class _Action(NamedTuple):
    """One change: of the bits `of`."""

    of: int
    operator: str
    permissions: str


class Mode(NamedTuple):
    """What a mode of a file becomes: `number`, unless that is -1, or what the changes make of it."""

    number: int
    actions: tuple[_Action, ...] = ()

    def apply(self, mode: int, directory: bool) -> int:
        """The new permission bits of a file that has `mode`."""
        if self.number >= 0:
            return self.number
        for of, operator, permissions in self.actions:
            bits = _bits(permissions, mode, directory) & of
            mode = mode & ~bits if operator == "-" else (mode & ~of if operator == "=" else mode) | bits
        return mode


def parse(text: str) -> Mode:
    """Raises ValueError for what is no mode."""
    if re.fullmatch(r"[0-7]{1,5}", text) and int(text, 8) <= 0o7777:
        return Mode(int(text, 8))
    actions: list[_Action] = []
    for clause in text.split(",") if len(text) <= _LONGEST else [""]:
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise ValueError(f"no mode of a file: {text[:_LONGEST]}")
        of = 0
        for who in match[1] or "a":
            of |= _OF[who]
        actions += [_Action(of, operator, permissions) for operator, permissions in _ACTION.findall(match[2])]
    return Mode(-1, tuple(actions))


def _bits(permissions: str, mode: int, directory: bool) -> int:
    if permissions in _SHIFT:  # what one of them has is given to others
        return (mode >> _SHIFT[permissions] & 0o7) * 0o111
    found = 0
    for letter in permissions:
        if letter == "X":
            letter = "x" if directory or mode & 0o111 else ""
        found |= _BITS.get(letter, 0)
    return found
