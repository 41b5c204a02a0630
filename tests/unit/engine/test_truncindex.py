import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.engine.truncindex import AmbiguousPrefix, TruncIndex

# A small alphabet and short ids make shared prefixes, and ids that are prefixes of others, common.
ids = st.text("ab0", min_size=1, max_size=6)


def expected(present: set[str], prefix: str) -> str | type[AmbiguousPrefix] | None:
    if prefix in present:
        return prefix
    found = [id for id in present if id.startswith(prefix)]
    return None if not found else found[0] if len(found) == 1 else AmbiguousPrefix


def actual(index: TruncIndex, prefix: str) -> str | type[AmbiguousPrefix] | None:
    try:
        return index.get(prefix)
    except AmbiguousPrefix:
        return AmbiguousPrefix


@given(st.lists(st.tuples(st.booleans(), ids)), st.lists(st.text("ab0", max_size=7)))
def test_it_answers_as_a_scan_of_all_ids_does(steps: list[tuple[bool, str]], prefixes: list[str]) -> None:
    index, present = TruncIndex(), set[str]()
    for add, id in steps:
        if add:
            index.add(id)
            present.add(id)
        else:
            index.discard(id)
            present.discard(id)
        for prefix in (*prefixes, id, id[:1], id[:-1], ""):
            assert actual(index, prefix) == expected(present, prefix), prefix


@given(st.sets(ids))
def test_what_is_removed_leaves_nothing_behind(present: set[str]) -> None:
    index = TruncIndex()
    for id in present:
        index.add(id)
    for id in present:
        index.discard(id)
    assert index._root == {}


def test_one_id_is_one_entry() -> None:
    index = TruncIndex()
    index.add("a" * 64)
    assert index._root == {"a": "a" * 64}
    index.add("a" * 63 + "b")
    with pytest.raises(AmbiguousPrefix):
        index.get("a" * 63)
    index.discard("a" * 63 + "b")
    assert index._root == {"a": "a" * 64}
