"""Put what every child touches side by side, so that it shares pages with little else.

A call counts references in its function's code object, so each page with a code object that a child runs is copied for
that child.  The compiler leaves code objects strewn over the heap in the order of imports, between what nobody runs.
`run_gathered` finds out what runs, and makes those code objects again, one after the other, in memory that has no
holes.
"""

import gc
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

# Of CPython's allocator (Objects/obmalloc.c): bytes of the largest small block, of a pool and of its header.
_LARGEST_SMALL, _POOL, _POOL_HEADER = 512, 16 << 10, 48
# Larger blocks are the C library's: it has no hole above this that would matter.
_LARGEST_HOLE = 32 << 10

_holes: "list[object]" = []


def gather(play: "Callable[[], None]") -> None:
    """Make the code that `play` runs again, in the order in which it runs."""
    hot: dict[CodeType, None] = {}

    def note(frame: "Any", event: str, _: object) -> None:
        if event == "call":
            hot[frame.f_code] = None

    sys.setprofile(note)
    try:
        play()
    finally:
        sys.setprofile(None)
    fill_holes()
    made: dict[CodeType, CodeType] = {}
    for code in hot:
        _make_again(code, hot, made)
    for thing in gc.get_objects():
        if type(thing) is type(gather) and thing.__code__ in made:
            thing.__code__ = made[thing.__code__]


def _make_again(code: "CodeType", hot: "dict[CodeType, None]", made: "dict[CodeType, CodeType]") -> "CodeType":
    found = made.get(code)
    if found is None:
        inner = tuple(_make_again(c, hot, made) if type(c) is type(code) and c in hot else c for c in code.co_consts)
        found = made[code] = code.replace(co_consts=inner)
    return found


def fill_holes() -> None:
    """Take what is free between the objects that are there, for ever.

    A child's first objects would go into these holes, each in a page that is shared so far: 90 pages were copied in
    each start for that.  Without holes they go into fresh pages, one after the other.
    """
    for size in range(16, _LARGEST_SMALL + 1, 16):
        for _ in range(_POOL // size * 64):
            block: object = object() if size == 16 else complex(1, size) if size == 32 else bytes(size - 33)
            _holes.append(block)
            if id(block) % _POOL == _POOL_HEADER:  # the first of a pool that nobody has used
                break
    top = id(bytes(_LARGEST_HOLE))
    for size in range(_LARGEST_HOLE, _LARGEST_SMALL, -16):
        while id(large := bytes(size)) < top:
            _holes.append(large)
