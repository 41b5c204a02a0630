"""What the fault tests share."""

from collections.abc import Iterator

import pytest
from support.engine import Engine


@pytest.fixture(scope="module")
def own(nothing_left_behind: None) -> Iterator[Engine]:
    """An engine of the test module's own, which it may kill."""
    made = Engine()
    try:
        yield made.start().load()
    finally:
        made.close()
