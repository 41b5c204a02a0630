from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.logger import timestamps

MOMENTS = st.integers(min_value=0, max_value=4_102_444_799_999_999_999)  # to the end of 2099


@given(MOMENTS)
def test_text_and_back(moment: int) -> None:
    assert timestamps.nanoseconds(timestamps.rfc3339nano(moment)) == moment


@given(MOMENTS)
def test_fixed_has_nine_digits_and_the_same_meaning(moment: int) -> None:
    text = timestamps.fixed(timestamps.rfc3339nano(moment))
    assert len(text) == len("2026-01-02T03:04:05.000000006Z")
    assert timestamps.nanoseconds(text) == moment


@given(MOMENTS)
def test_agrees_with_datetime(moment: int) -> None:
    expected = datetime.fromtimestamp(moment // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    assert timestamps.rfc3339nano(moment).startswith(expected)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (1_700_000_000_120_000_000, "2023-11-14T22:13:20.12Z"),
    ],
)
def test_trailing_zeros_are_cut_as_go_does(moment: int, text: str) -> None:
    assert timestamps.rfc3339nano(moment) == text


@pytest.mark.parametrize("text", ["", "Z", "2026-01-02", "2026-01-02T03:04Z", "yesterday", "2026-01-02T03:04:05+01:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        timestamps.nanoseconds(text)
