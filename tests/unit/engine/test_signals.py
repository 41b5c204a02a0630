import pytest

from boxwright.engine.signals import parse
from boxwright.errdefs import InvalidParameter


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9", 9),
        ("KILL", 9),
        ("SIGKILL", 9),
        ("sigterm", 15),
        ("hup", 1),
        ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63),
        ("64", 64),
    ],
)
def test_spellings(text: str, number: int) -> None:
    assert parse(text) == number


@pytest.mark.parametrize("text", ["", "0", "-1", "65", "99999999999", "FOO", "SIGSIGKILL", "9 ", "٣", "SIG"])
def test_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid signal"):
        parse(text)
