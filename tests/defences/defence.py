"""What a row of the table is."""

from typing import NamedTuple


class Change(NamedTuple):
    """Replace `old`, which occurs once in the file below src/boxwright, by `new`."""

    file: str
    old: str
    new: str


class Defence(NamedTuple):
    """overlap: why more than one thing is taken out."""

    section: str
    name: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...]
    overlap: str = ""
