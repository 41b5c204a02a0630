import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.engine.detachkeys import DEFAULT, Escape, parse
from boxwright.errdefs import InvalidParameter


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", DEFAULT),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("a", b"a"),
        ("ctrl-a,a", b"\x01a"),
        ("CTRL-A", b"\x01"),
        ("ctrl-@", b"\x00"),
        ("ctrl-[", b"\x1b"),
        ("ctrl-\\", b"\x1c"),
        ("ctrl-_", b"\x1f"),
        ("~,.", b"~."),
    ],
)
def test_notation(text: str, keys: bytes) -> None:
    assert parse(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-é", "é", "ab", "a,", ",", "ctrl-pp", "ctrl-1", "shift-a"])
def test_keys_that_do_not_exist(text: str) -> None:
    with pytest.raises(InvalidParameter, match="Invalid detach keys"):
        parse(text)


def test_sequence_is_found_across_reads() -> None:
    escape = Escape(b"\x10\x11")
    assert escape.feed(b"ab\x10") == (b"ab", False)
    assert escape.feed(b"\x11rest") == (b"", True)


def test_a_broken_sequence_is_passed_on() -> None:
    escape = Escape(b"\x10\x11")
    assert escape.feed(b"\x10x\x10\x10\x11") == (b"\x10x\x10", True)


def test_what_is_held_back_is_not_lost_at_the_end() -> None:
    escape = Escape(b"\x10\x11")
    assert escape.feed(b"a\x10") == (b"a", False)
    assert escape.rest() == b"\x10"
    assert escape.rest() == b""


@given(st.lists(st.binary(max_size=6).map(lambda b: bytes(c % 4 for c in b))), st.binary(min_size=1, max_size=3))
def test_nothing_but_the_sequence_is_taken(pieces: list[bytes], keys: bytes) -> None:
    keys = bytes(c % 4 for c in keys)
    escape, passed = Escape(keys), b""
    for piece in pieces:
        out, found = escape.feed(piece)
        passed += out
        if found:
            assert b"".join(pieces).startswith(passed + keys)
            return
    assert passed + escape.rest() == b"".join(pieces)
