from pathlib import Path

import pytest

from boxwright import errdefs
from boxwright.logger import options


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("10k", 10_000), ("10K", 10_000), ("10kb", 10_000), ("1.5m", 1_500_000), ("2 GB", 2 * 10**9)],
)
def test_sizes(text: str, size: int) -> None:
    assert options.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "k", "-5", "1.k", "1e3", "ten", "0", "1mm", "²"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(errdefs.InvalidParameter):
        options.parse_size(text)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (options.DEFAULT_MAX_SIZE, options.DEFAULT_MAX_FILE)),
        ({"max-size": "-1"}, (0, options.DEFAULT_MAX_FILE)),
        ({"max-size": "5m", "max-file": "2"}, (5_000_000, 2)),
    ],
)
def test_rotation_is_on_by_default(config: dict[str, str], expected: tuple[int, int]) -> None:
    assert options.rotation(config) == expected


def test_a_flood_of_output_does_not_fill_the_disk() -> None:
    size, files = options.rotation({})
    assert 0 < size * files <= 100 << 20


def test_none_writes_nothing(tmp_path: Path) -> None:
    writer = options.open_file("none", {}, str(tmp_path), "id", "")
    writer.write("stdout", b"gone\n")
    writer.flush("stdout")
    writer.close()
    assert list(tmp_path.iterdir()) == []
