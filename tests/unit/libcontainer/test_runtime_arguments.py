"""The command line of the OCI runtime."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright import errdefs
from boxwright.linux import signals
from boxwright.runtime import arguments


@pytest.mark.parametrize(
    ("words", "verb", "operands", "options"),
    [
        ("state x", "state", ["x"], {}),
        ("--root /r state x", "state", ["x"], {"--root": "/r"}),
        ("--root=/r --debug create -b /b --pid-file=p x", "create", ["x"],
         {"--root": "/r", "--debug": "", "--bundle": "/b", "--pid-file": "p"}),
        ("run -d x", "run", ["x"], {"--detach": ""}),
        ("kill --all x KILL", "kill", ["x", "KILL"], {"--all": ""}),
        ("delete x -f", "delete", ["x"], {"--force": ""}),
        ("state -- -x", "state", ["-x"], {}),
    ],
)  # fmt: skip
def test_table(words: str, verb: str, operands: list[str], options: dict[str, str]) -> None:
    found = arguments.parse(words.split())
    assert (found.verb, found.operands, found.options) == (verb, operands, options)


@pytest.mark.parametrize("words", ["", "nope", "state", "state a b", "run --nope x", "create x --bundle", "-d run x"])
def test_refused(words: str) -> None:
    with pytest.raises(errdefs.InvalidParameter):
        arguments.parse(words.split())


@given(st.lists(st.text(max_size=8), max_size=6))
def test_anything_is_parsed_or_refused(words: list[str]) -> None:
    try:
        arguments.parse(words)
    except errdefs.InvalidParameter:
        pass


@pytest.mark.parametrize(("text", "number"), [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("kill", 9), ("SIGTERM", 15)])
def test_signals(text: str, number: int) -> None:
    assert signals.number(text) == number


@pytest.mark.parametrize("text", ["", "0", "500", "-9", "NOPE", "SIG", "SIG_IGN", "SIGNAL", "\u0669"])
def test_no_signals(text: str) -> None:
    with pytest.raises(ValueError, match="unknown signal"):
        signals.number(text)
