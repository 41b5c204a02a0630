"""The command line of an OCI runtime: global options, a verb, its options, its operands.

Spelled as runc's, which containerd and podman call; argparse alone would double the time to a start.
"""

from boxwright import errdefs

# option: whether it takes a value.  A one-letter option stands for the long one behind it.
GLOBAL: dict[str, bool] = {
    "--root": True,
    "--log": True,
    "--log-format": True,
    "--debug": False,
    "--help": False,
    "--version": False,
}
VERBS: dict[str, dict[str, bool]] = {
    "create": {
        "--bundle": True,
        "--console-socket": True,
        "--pid-file": True,
        "--preserve-fds": True,
        "--no-new-keyring": False,
    },
    "run": {
        "--bundle": True,
        "--console-socket": True,
        "--pid-file": True,
        "--preserve-fds": True,
        "--detach": False,
        "--keep": False,
    },
    "start": {},
    "state": {},
    "kill": {"--all": False},
    "delete": {"--force": False},
}
_SHORT = {"-b": "--bundle", "-d": "--detach", "-f": "--force", "-a": "--all", "-h": "--help", "-v": "--version"}
# verb: fewest and most operands
OPERANDS: dict[str, tuple[int, int]] = {
    "create": (1, 1),
    "run": (1, 1),
    "start": (1, 1),
    "state": (1, 1),
    "kill": (1, 2),
    "delete": (1, 1),
}


class Arguments:
    """verb, operands, and options by their long name ("" for a flag that is set)."""

    __slots__ = ("operands", "options", "verb")

    def __init__(self) -> None:
        self.verb = ""
        self.operands: list[str] = []
        self.options: dict[str, str] = {}

    def value(self, name: str, default: str = "") -> str:
        """An option's value."""
        return self.options.get(name, default)

    def flag(self, name: str) -> bool:
        """Whether a flag is set."""
        return name in self.options


def parse(words: "list[str]") -> Arguments:
    """Raises errdefs.InvalidParameter for what is unknown or missing."""
    result = Arguments()
    known, waiting = dict(GLOBAL), list(words)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            result.operands.extend(waiting)
            break
        if not word.startswith("-") or word == "-":
            if not result.verb:
                if word not in VERBS:
                    raise errdefs.InvalidParameter(f"no such command: {word}")
                result.verb = word
                known.update(VERBS[word])
            else:
                result.operands.append(word)
            continue
        name, separator, value = word.partition("=")
        name = _SHORT.get(name, name)
        if name not in known:
            raise errdefs.InvalidParameter(f"flag provided but not defined: {name}")
        if known[name] and not separator:
            if not waiting:
                raise errdefs.InvalidParameter(f"flag needs an argument: {name}")
            value = waiting.pop(0)
        result.options[name] = value
    _check(result)
    return result


def _check(found: Arguments) -> None:
    if found.flag("--help") or found.flag("--version"):
        return
    if not found.verb:
        raise errdefs.InvalidParameter("a command is needed: " + ", ".join(VERBS))
    fewest, most = OPERANDS[found.verb]
    if not fewest <= len(found.operands) <= most:
        raise errdefs.InvalidParameter(f"{found.verb} needs {fewest} to {most} arguments, got {len(found.operands)}")
