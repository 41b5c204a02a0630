"""docs/security.md and the table of `make defences` name what there is."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "defences"))
try:
    from defence import Defence  # type: ignore[import-not-found]
    from table import DEFENCES  # type: ignore[import-not-found]
finally:
    del sys.path[0]

TEXT = (ROOT / "docs" / "security.md").read_text()
SUITES = ("test_security_process.py", "test_security_mounts.py", "test_security_copy.py")


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda defence: str(defence.name))
def test_every_row_applies_to_the_source_as_it_is(defence: Defence) -> None:
    for change in defence.changes:
        text = (ROOT / "src" / "boxwright" / change.file).read_text()
        assert text.count(change.old) == 1, change.old
    assert defence.tests


def defines(path: Path, name: str) -> bool:
    return re.search(rf"^\s*(?:async )?(?:def|class) {name}\b", path.read_text(), re.MULTILINE) is not None


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", TEXT)
    assert len(named) > 20
    for file, name in named:
        assert (ROOT / file).exists() and (not name or defines(ROOT / file, name)), (file, name)
    for name in re.findall(r"`(test_\w+|Test\w+)`", TEXT):
        assert any(defines(ROOT / "tests/kernel" / suite, name) for suite in SUITES), name
