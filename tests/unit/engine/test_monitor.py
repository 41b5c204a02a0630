import pytest

from boxwright.engine.monitor import next_delay, wants_restart
from boxwright.types import RestartPolicy


def test_back_off_doubles_from_100_ms_to_one_minute() -> None:
    delays, delay = [], 0.0
    for _ in range(12):
        delay = next_delay(delay, lived=0.5)
        delays.append(round(delay, 3))
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0, 60.0]


def test_back_off_begins_anew_after_ten_seconds_of_life() -> None:
    assert next_delay(25.6, lived=9.9) == 51.2
    assert next_delay(25.6, lived=10.0) == 0.1


@pytest.mark.parametrize(
    ("name", "maximum", "exit_code", "restarts", "manual", "wanted"),
    [
        ("", 0, 1, 0, False, False),
        ("no", 0, 1, 0, False, False),
        ("always", 0, 0, 7, False, True),
        ("always", 0, 0, 7, True, True),
        ("unless-stopped", 0, 0, 7, False, True),
        ("unless-stopped", 0, 0, 7, True, False),
        ("on-failure", 0, 0, 0, False, False),
        ("on-failure", 0, 3, 1000, False, True),
        ("on-failure", 2, 3, 1, False, True),
        ("on-failure", 2, 3, 2, False, False),
    ],
)
def test_policies(name: str, maximum: int, exit_code: int, restarts: int, manual: bool, wanted: bool) -> None:
    policy = RestartPolicy(name=name, maximum_retry_count=maximum)
    assert wants_restart(policy, exit_code, restarts, manual) is wanted
