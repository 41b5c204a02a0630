"""OpenTelemetry: the timeline of every start as a trace, sent over OTLP/HTTP by a thread of its own.

Set up by the standard's environment variables alone, and off without them; the packages are the extra `boxwright[otel]`
and are imported only then.  The engine's side of it is one `put_nowait` on a bounded queue after the start has been
announced: a collector that is slow, down or hostile costs traces, never a start.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import boxwright

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container

MOST = 512  # starts that wait to be sent; one has some 30 steps
BATCH = 64  # starts in one request
LAST_WORDS = 2.0  # seconds in which the last traces are sent when the engine ends

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTER = "opentelemetry.exporter.otlp.proto.http"  # its logger

log = logging.getLogger(__name__)

# The `traceparent` header of the request that asked for a start, "" for none: its span is the parent of ours.
parent: ContextVar[str] = ContextVar("parent", default="")


class Start(NamedTuple):
    """A start that is over. steps: of boxwright.trace, CLOCK_MONOTONIC. offset_ns: from there to the epoch."""

    attributes: dict[str, Any]
    steps: list[list[Any]]
    offset_ns: int
    failed_step: str
    error: str
    traceparent: str


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether these variables ask for traces; what they ask for and is not there is told in the log."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = {name.strip() for name in environ.get("OTEL_TRACES_EXPORTER", "").split(",")} - {""}
    if unknown := exporters - {"otlp", "none"}:
        log.warning("OTEL_TRACES_EXPORTER: no exporter %s here, only otlp and none", ", ".join(sorted(unknown)))
    if "otlp" not in exporters and (exporters or not any(environ.get(name) for name in _ENDPOINTS)):
        return False
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        log.warning("no traces are sent: the OTLP protocol %s is not supported, only http/protobuf", protocol)
        return False
    return True


def open_telemetry(eng: Engine) -> Telemetry | None:
    """What the environment sets up; None when that cannot be had (a warning says why).  Blocks for some 0.2 s."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
    except ImportError as error:
        log.warning("no traces are sent: %s; pip install 'boxwright[otel]'", error)
        return None
    try:
        exporter = OTLPSpanExporter()
        told = Resource.create({"service.version": boxwright.__version__, "service.instance.id": eng.id})
        if str(told.attributes.get("service.name", "")).startswith("unknown_service"):
            told = told.merge(Resource({"service.name": "boxwright"}))
        provider = TracerProvider(resource=told, shutdown_on_exit=False)
    except Exception as error:  # of whatever type: it must not keep the engine from coming up
        log.warning("no traces are sent: %s", error)
        return None
    return Telemetry(provider, exporter, getattr(exporter, "_endpoint", "the collector"))


class Telemetry:
    """A bounded queue of starts, and the thread that makes spans of them and sends them."""

    def __init__(self, provider: TracerProvider, exporter: SpanExporter, endpoint: str) -> None:
        self._queue: queue.Queue[Start | None] = queue.Queue(MOST)
        self._spans: list[ReadableSpan] = []
        self._dropped = self._lost = 0  # starts for which there was no room, and those that could not be sent
        self._failing = False
        self._said = _LastWords()
        provider.add_span_processor(_collector(self._spans))
        self._exporter, self._endpoint = exporter, endpoint
        self._tracer: Tracer = provider.get_tracer("boxwright", boxwright.__version__)
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()
        log.info("traces of starts are sent to %s", endpoint)

    def started(self, container: Container, steps: list[list[Any]], error: Exception | None = None) -> None:
        """Hand over a start that is over, well or with `error`; never waits, never raises."""
        told = {
            "container.id": container.id,
            "container.name": container.name,
            "container.image.name": container.config.image,
            "boxwright.generation": container.state.generation,
            "boxwright.restart_count": container.state.restart_count,
        }
        offset = time.time_ns() - time.monotonic_ns()
        start = Start(told, steps, offset, getattr(error, "step", ""), str(error or ""), parent.get())
        parent.set("")  # what this task leaves behind (a restart by policy) was not asked for by that request
        try:
            self._queue.put_nowait(start)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Send what waits, for LAST_WORDS at most; blocks."""
        deadline = time.monotonic() + LAST_WORDS
        try:
            self._queue.put(None, timeout=LAST_WORDS)
        except queue.Full:
            pass
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._exporter.shutdown()  # ends the pauses between its attempts

    # The thread's own.

    def _run(self) -> None:
        with self._said:
            ended = False
            while not ended:
                batch = [self._queue.get()]
                while len(batch) < BATCH and batch[-1] is not None and not self._queue.empty():
                    batch.append(self._queue.get())
                ended = batch[-1] is None
                self._send([start for start in batch if start is not None])

    def _send(self, starts: list[Start]) -> None:
        try:
            for start in starts:
                self._make(start)
            sent, self._spans[:] = list(self._spans), []
            reached = not sent or self._exporter.export(sent).name == "SUCCESS"
        except Exception as error:  # the thread has to go on, whatever a collector or the packages do
            self._spans.clear()
            self._said.text, reached = f"{type(error).__name__}: {error}", False
        if not reached:
            self._lost += len(starts)
            if not self._failing:
                log.warning(
                    "traces cannot be sent to %s: %s; starts go on without",
                    self._endpoint,
                    self._said.text or "no answer",
                )
        elif self._failing:
            lost, self._lost, self._dropped = self._lost + self._dropped, 0, 0
            log.warning("traces are sent to %s again; those of %d starts are lost", self._endpoint, lost)
        if starts:
            self._failing = not reached

    def _make(self, start: Start) -> None:
        """A span for the start, one below it for each step."""
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        steps, offset = start.steps, start.offset_ns
        begin = min((step[1] for step in steps), default=time.monotonic_ns()) + offset
        end = max((step[2] for step in steps), default=time.monotonic_ns()) + offset
        above = TraceContextTextMapPropagator().extract({"traceparent": start.traceparent})
        root = self._tracer.start_span(
            "container start", above, trace.SpanKind.SERVER, start.attributes, start_time=begin
        )
        if root.is_recording():
            below = trace.set_span_in_context(root)
            culprit = next((step for step in reversed(steps) if step[0] == start.failed_step), None)
            for step in steps:
                name, first, last, detail = step
                attributes = {"boxwright.detail": detail} if detail else None
                span = self._tracer.start_span(name, below, attributes=attributes, start_time=first + offset)
                if step is culprit:
                    _fail(span, start.error, last + offset)
                span.end(last + offset)
            if start.failed_step and culprit is None:
                # It did not get as far as an end of its own: from the end of what was before it.
                span = self._tracer.start_span(start.failed_step, below, start_time=end)
                _fail(span, start.error, end)
                span.end(end)
            if start.error:
                root.set_attribute("boxwright.failed_step", start.failed_step)
                _fail(root, start.error, end)
        root.end(end)


def _fail(span: Span, error: str, at: int) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.add_event("exception", {"exception.type": "StartFailed", "exception.message": error}, at)
    span.set_status(Status(StatusCode.ERROR, error))


def _collector(spans: list[ReadableSpan]) -> Any:
    """A span processor that only gathers what has ended."""
    from opentelemetry.sdk.trace import SpanProcessor

    class Collector(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            if span.context.trace_flags.sampled:
                spans.append(span)

    return Collector()


class _LastWords(logging.Handler):
    """Takes what the exporter would log at each attempt: the engine says it once."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def __enter__(self) -> None:
        logger = logging.getLogger(_EXPORTER)
        logger.propagate = False
        logger.addHandler(self)

    def __exit__(self, *exc: object) -> None:
        logging.getLogger(_EXPORTER).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the last of them."""
        self.text = record.getMessage()
