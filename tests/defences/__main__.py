"""`make defences`: take each defence out, in a copy of the source, and see its tests fail.

A defence is `killed` when every test that is named for it fails without it; it has `survived` when one still passes,
which says that the test proves nothing.  First all the tests have to pass with everything in place.
`python tests/defences [WORD …]` takes the rows that have one of the words in their section or name.
"""

import ast
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from defence import Defence  # type: ignore[import-not-found]
from table import DEFENCES  # type: ignore[import-not-found]

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
LIMIT = 240  # seconds for the tests of one row
KILLED, SURVIVED, ERROR = "killed", "survived", "error"


class NotApplicable(Exception):
    """The text to take out is not there, or the result is no Python."""


def apply(defence: Defence, source: Path) -> dict[Path, str]:
    """Take the defence out of the tree `source`; returns the files' text from before."""
    before: dict[Path, str] = {}
    try:
        for change in defence.changes:
            path = source / "boxwright" / change.file
            text = path.read_text()
            before.setdefault(path, text)
            if text.count(change.old) != 1:
                raise NotApplicable(f"{change.file}: {text.count(change.old)} times: {change.old.strip()[:60]!r}")
            changed = text.replace(change.old, change.new)
            ast.parse(changed)
            path.write_text(changed)
    except (NotApplicable, SyntaxError, FileNotFoundError) as error:
        restore(before)
        raise NotApplicable(str(error)) from None
    return before


def restore(before: dict[Path, str]) -> None:
    """Undo `apply`."""
    for path, text in before.items():
        path.write_text(text)


def outcomes(tests: Sequence[str], source: Path, limit: float) -> dict[str, str]:
    """What became of each test that ran, by its id: PASSED, FAILED, ERROR or SKIPPED; {} when time ran out."""
    command = [
        sys.executable, "-m", "pytest", "-rA", "--tb=no", "-p", "no:cacheprovider", "-p", "no:randomly", "--timeout=60", *tests,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            return {}
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        output.seek(0)
        found = {}
        for line in output:
            word, _, rest = line.rstrip("\n").partition(" ")
            if word in ("PASSED", "FAILED", "ERROR"):
                found[rest.partition(" - ")[0]] = word
        return found


def of(test: str, found: dict[str, str]) -> set[str]:
    """The outcomes of a test, or of all that a class, a function or a parameter's cases are."""
    return {outcome for name, outcome in found.items() if name == test or name.startswith((test + "[", test + "::"))}


def examine(defence: Defence, source: Path) -> tuple[str, str]:
    """(KILLED, SURVIVED or ERROR; what to say of it)."""
    try:
        before = apply(defence, source)
    except NotApplicable as error:
        return ERROR, str(error)
    try:
        found = outcomes(defence.tests, source, LIMIT)
    finally:
        restore(before)
    passed = [test for test in defence.tests if not of(test, found) & {"FAILED", "ERROR"}]
    if passed and not found:
        return ERROR, f"nothing ran to its end within {LIMIT} s"
    return (SURVIVED, ", ".join(test.rpartition("/")[2] for test in passed)) if passed else (KILLED, "")


def baseline(rows: Sequence[Defence], source: Path) -> list[str]:
    """The named tests that do not pass, or do not exist, with every defence in place."""
    tests = list(dict.fromkeys(test for defence in rows for test in defence.tests))
    found = outcomes(tests, source, LIMIT * 4)
    return [test for test in tests if of(test, found) != {"PASSED"}]


def main(words: Sequence[str]) -> int:
    rows = [d for d in DEFENCES if not words or any(word in f"{d.section} {d.name}" for word in words)]
    with tempfile.TemporaryDirectory(prefix="boxwright-defences-") as directory:
        source = Path(directory) / "src"
        shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
        if failed := baseline(rows, source):
            # A test that does not exist keeps pytest from running the others.
            print("with everything in place these do not pass, or do not exist:", *failed, sep="\n  ")
            return 1
        width = max(len(defence.name) for defence in rows)
        bad = 0
        for defence in rows:
            begun = time.monotonic()
            outcome, remark = examine(defence, source)
            bad += outcome != KILLED
            seconds = time.monotonic() - begun
            remark = remark or (f"both out: {defence.overlap}" if defence.overlap else "")
            print(
                f"{defence.section:12} {defence.name:{width}}  {outcome:8} {seconds:5.1f} s  {remark}".rstrip(),
                flush=True,
            )
        print(f"{len(rows) - bad} of {len(rows)} defences are missed when they are gone")
        return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
