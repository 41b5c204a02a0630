"""docs/compatibility.md as data: what it says of every endpoint and of every command of the docker CLI."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
STATES = ("works", "partly", "not yet", "never", "client")
_ROW = re.compile(rf"^\| ((?:`[^`]+`(?:, )?)+) \| ({'|'.join(STATES)}) \|", re.M)
_VERBS = ("GET ", "HEAD ", "POST ", "PUT ", "DELETE ")


def shape(path: str) -> str:
    """A path with its parameters unnamed: two spellings of one endpoint are equal."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def rows(section: str) -> dict[str, str]:
    """What is named in the first column of the table under this heading → state; a name stands there once."""
    text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found: dict[str, str] = {}
    for names, state in _ROW.findall(text):
        for name in re.findall(r"`([^`]+)`", names):
            assert name not in found, f"{name} has two rows"
            found[name] = state
    return found


def endpoints() -> dict[str, str]:
    """ "GET /containers/{name}/json" → state."""
    found = rows("API endpoints")
    assert all(name.startswith(_VERBS) for name in found), found
    return found


def commands() -> dict[str, str]:
    """ "container ls" → state."""
    return {name.removeprefix("docker "): state for name, state in rows("CLI verbs").items()}
