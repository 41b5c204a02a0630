"""The light JSON codec against Python's own."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.libcontainer import jsontext

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_agrees_with_json(value: object) -> None:
    assert jsontext.dumps(value) == json.dumps(value)
    assert jsontext.loads(json.dumps(value, indent=2).encode()) == value


@given(st.binary(max_size=40))
def test_anything_else_is_a_value_error(data: bytes) -> None:
    try:
        value = jsontext.loads(data)
    except ValueError:
        return
    assert json.dumps(value) == json.dumps(json.loads(data.decode()))


@pytest.mark.parametrize("data", [b"", b"{", b'{"a":', b"[1,]", b'"x', b"nul", b"1 2", b"[" * 100000, b"NaN", b"\xff"])
def test_malformed_also_where_json_is_not_loaded(data: bytes) -> None:
    """In a lean interpreter the C half cannot even find the class of the error that it wants to raise."""
    program = (
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}\n"
        "from boxwright.libcontainer import jsontext\n"
        "assert 'json' not in sys.modules\n"
        "sys.path.clear(); sys.meta_path.clear(); sys.path_hooks.clear()\n"
        f"try: jsontext.loads({data!r})\n"
        "except ValueError: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True)
    assert done.stdout == "refused\n", done.stderr


def test_bytes_of_paths_survive() -> None:
    assert jsontext.loads(jsontext.dumps({"p": "a\udcff"}).encode()) == {"p": "a\udcff"}


def test_what_json_cannot_hold() -> None:
    with pytest.raises(TypeError):
        jsontext.dumps(object())
