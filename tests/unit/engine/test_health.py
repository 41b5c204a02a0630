"""The parts of health checks that need no container."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.engine import health
from boxwright.engine.merge import merge
from boxwright.types.container import ContainerConfig, HealthConfig


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0ns"), (999, "999ns"), (1500, "1.5µs"), (300_000_000, "300ms"), (1_500_000_000, "1.5s"), (30 * 10**9, "30s"),
     (90 * 10**9, "1m30s"), (3600 * 10**9, "1h0m0s"), (3_661_000_000_001, "1h1m1.000000001s")],
)  # fmt: skip
def test_durations_are_written_as_by_go(ns: int, text: str) -> None:
    assert health.duration(ns) == text


@pytest.mark.parametrize(
    ("test", "shell", "program"),
    [
        (None, None, None),
        ([], None, None),
        (["NONE"], None, None),
        (["CMD"], None, None),
        (["WHAT", "x"], None, None),
        (["CMD", "a", "b"], None, ["a", "b"]),
        (["CMD-SHELL", "a b"], None, ["/bin/sh", "-c", "a b"]),
        (["CMD-SHELL", "a b"], ["/bin/bash", "-ec"], ["/bin/bash", "-ec", "a b"]),
    ],
)
def test_programs(test: list[str] | None, shell: list[str] | None, program: list[str] | None) -> None:
    assert health.command(ContainerConfig(healthcheck=HealthConfig(test=test), shell=shell)) == program


def frame(data: bytes) -> bytes:
    return b"\x01\0\0\0" + len(data).to_bytes(4) + data


@given(st.lists(st.binary(max_size=3000), max_size=6), st.data())
def test_output_is_the_beginning_of_all_frames_however_they_are_cut(pieces: list[bytes], data: st.DataObject) -> None:
    output, stream, whole = health.Output(), b"".join(map(frame, pieces)), b"".join(pieces)
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        output.write(stream[:cut])
        stream = stream[cut:]
    assert output.data == whole[: health.OUTPUT_BYTES]
    assert output.truncated is (len(whole) > health.OUTPUT_BYTES)


def test_zero_is_inherited() -> None:
    image = {"Healthcheck": {"Test": ["CMD", "i"], "Interval": 5, "Timeout": 6, "StartPeriod": 7, "Retries": 8}}
    config = ContainerConfig(cmd=["x"], healthcheck=HealthConfig(interval=9))
    merge(config, image)
    assert config.healthcheck == HealthConfig(test=["CMD", "i"], interval=9, timeout=6, start_period=7, retries=8)
    config = ContainerConfig(cmd=["x"], healthcheck=HealthConfig(test=["NONE"]))
    merge(config, image)
    assert config.healthcheck is not None and health.command(config) is None
