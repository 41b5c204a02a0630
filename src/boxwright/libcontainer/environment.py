"""The program's environment: what the engine wrote, less what is malformed, plus HOME."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def build(entries: "Iterable[str]", home: str) -> dict[str, str]:
    """`KEY=value` entries as a mapping, the last of a key winning.

    An entry without "=" would be looked up in the host's environment by a naive runtime (CVE-2026-57231), one without
    a name or with a NUL byte cannot be passed on: all three are dropped.  HOME is the user's home when none is set.
    """
    result: dict[str, str] = {}
    for entry in entries:
        name, separator, value = entry.partition("=")
        if name and separator and "\0" not in entry:
            result[name] = value
    result.setdefault("HOME", home)
    return result
