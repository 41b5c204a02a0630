"""Which environments ask for traces, and that what cannot be had is told and keeps nothing from coming up."""

import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from boxwright.engine import telemetry

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("environ", "asked"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", **ENDPOINT}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp,none"}, True),
        ({"OTEL_SDK_DISABLED": "true", **ENDPOINT}, False),
        ({"OTEL_SDK_DISABLED": "false", **ENDPOINT}, True),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", **ENDPOINT}, True),
        ({"OTEL_SERVICE_NAME": "x", "OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
    ],
)
def test_what_asks_for_traces(environ: dict[str, str], asked: bool) -> None:
    assert telemetry.wanted(environ) is asked


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin", **ENDPOINT}, "zipkin"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", **ENDPOINT}, "grpc"),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json", **ENDPOINT}, "http/json"),
    ],
)
def test_what_cannot_be_had_is_told_by_name(
    environ: dict[str, str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert not telemetry.wanted(environ)
    assert said in caplog.text


def test_without_the_packages_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    engine: Any = SimpleNamespace(id="x")
    with caplog.at_level(logging.WARNING):
        assert telemetry.open_telemetry(engine) is None
    assert "pip install 'boxwright[otel]'" in caplog.text


def test_a_full_queue_loses_traces_and_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "MOST", 1)
    monkeypatch.setattr(telemetry.Telemetry, "_run", lambda self: None)
    from opentelemetry.sdk.trace import TracerProvider

    exporter: Any = SimpleNamespace(shutdown=lambda: None)
    sender = telemetry.Telemetry(TracerProvider(shutdown_on_exit=False), exporter, "nowhere")
    container: Any = SimpleNamespace(
        id="i", name="n", config=SimpleNamespace(image="x"), state=SimpleNamespace(generation=1, restart_count=0)
    )
    for _ in range(3):
        sender.started(container, [["lookup", 1, 2, ""]])
    assert sender._queue.qsize() == 1
    assert sender._dropped == 2
