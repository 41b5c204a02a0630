"""OpenTelemetry: what a collector of the test is sent for starts, and that one that stalls or is gone delays nothing."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network]

ERROR = 2  # of Status.StatusCode


class Collector:
    """An OTLP/HTTP receiver.  `answering`: cleared, it reads requests and says nothing."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[tuple[dict[str, str], ExportTraceServiceRequest]] = []
        self.asked = threading.Semaphore(0)
        self.answering = threading.Event()
        self.answering.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.asked.release()
                collector.answering.wait()
                decoded = ExportTraceServiceRequest.FromString(body)
                collector.requests.append(({"path": self.path, **dict(self.headers)}, decoded))
                try:
                    self.send_response(200)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    pass  # the client has given up

            def log_message(self, *told: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    def close(self) -> None:
        self.answering.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def spans(self) -> list[Any]:
        return [s for _, r in [*self.requests] for rs in r.resource_spans for ss in rs.scope_spans for s in ss.spans]

    def trace_of(self, container: str) -> tuple[Any, list[Any]]:
        """(the span of the last start of the container with this id, its children), once they are here."""

        def arrived() -> Any:
            return [s for s in self.spans() if told(s).get("container.id") == container]

        root = wait_for(arrived, f"a span of {container}")[-1]
        return root, [s for s in self.spans() if s.parent_span_id == root.span_id]


def told(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def traced(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Engine]]:
    engines = []

    def start(**variables: str) -> Engine:
        chosen = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}", **variables}
        for name, value in chosen.items():
            monkeypatch.setenv(name, value)
        engines.append(Engine())
        return engines[-1].start().load()

    yield start
    for engine in engines:
        engine.close()


def test_a_start_is_a_trace(collector: Collector, traced: Callable[..., Engine]) -> None:
    engine = traced(OTEL_SERVICE_NAME="mine", OTEL_EXPORTER_OTLP_HEADERS="x-key=secret")
    before = time.time_ns()
    id = engine.ok("run", "-d", "--name", "one", "busybox", "sleep", "1000")
    after = time.time_ns()
    root, steps = collector.trace_of(id)
    expected = [step[0] for step in engine.inspect(id)["Boxwright"]["Timeline"]]
    assert sorted(s.name for s in steps) == sorted(expected)
    assert {"lookup", "address", "network", "execve"} <= set(expected)
    assert (root.name, root.status.code, root.parent_span_id) == ("container start", 0, b"")
    assert told(root)["container.name"] == "one"
    assert told(root)["container.image.name"] == "busybox"
    assert {s.trace_id for s in steps} == {root.trace_id}
    assert before < root.start_time_unix_nano <= min(s.start_time_unix_nano for s in steps)
    assert max(s.end_time_unix_nano for s in steps) <= root.end_time_unix_nano < after
    headers, request = collector.requests[0]
    assert (headers["path"], headers["x-key"]) == ("/v1/traces", "secret")
    names = {a.key: a.value.string_value for a in request.resource_spans[0].resource.attributes}
    assert names["service.name"] == "mine"
    assert names["service.instance.id"] == engine.api("GET", "/info").json["ID"]


def test_a_failed_start_says_where_and_why(collector: Collector, traced: Callable[..., Engine]) -> None:
    engine = traced()
    engine.docker("create", "--name", "bad", "busybox", "/nothing")
    refused = engine.docker("start", "bad")
    assert refused.code == 1
    root, steps = collector.trace_of(engine.inspect("bad")["Id"])
    assert root.status.code == ERROR
    assert "/nothing" in root.status.message
    failed = [s.name for s in steps if s.status.code == ERROR]
    assert failed == [told(root)["boxwright.failed_step"]]
    assert root.events[0].name == "exception"


def test_a_client_that_traces_is_the_parent(collector: Collector, traced: Callable[..., Engine]) -> None:
    engine = traced()
    id = engine.ok("create", "--restart", "on-failure:1", "busybox", "sh", "-c", "read x; exit 1")
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    answer = engine.api("POST", f"/containers/{id}/start", headers={"traceparent": f"00-{trace}-{span}-01"})
    assert answer.status == 204
    # Its restart by policy was not asked for by that client.
    wait_for(lambda: len([s for s in collector.spans() if s.name == "container start"]) == 2, "two starts")
    first, second = sorted(
        (s for s in collector.spans() if s.name == "container start"), key=lambda s: s.start_time_unix_nano
    )
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (trace, span)
    assert second.parent_span_id == b""
    assert second.trace_id != first.trace_id
    assert told(second)["boxwright.restart_count"] == 1


def test_a_collector_that_stalls_delays_nothing(collector: Collector, traced: Callable[..., Engine]) -> None:
    engine = traced(OTEL_EXPORTER_OTLP_TIMEOUT="1")
    collector.answering.clear()
    engine.ok("run", "--rm", "busybox", "true")
    assert collector.asked.acquire(timeout=30)
    for _ in range(3):
        # It holds a request while these start and end.
        engine.ok("run", "--rm", "busybox", "true")
    wait_for(lambda: log_of(engine, "traces cannot be sent"), "the engine to say so")
    assert not collector.requests
    collector.answering.set()

    def again() -> bool:
        engine.ok("run", "--rm", "busybox", "true")
        return bool(log_of(engine, "sent to", "again"))

    wait_for(again, "traces to be sent again")
    assert len(log_of(engine, "traces cannot be sent")) == 1


def test_a_collector_that_is_not_there_is_told_once(traced: Callable[..., Engine]) -> None:
    engine = traced(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", OTEL_EXPORTER_OTLP_TIMEOUT="1")
    engine.ok("run", "--rm", "busybox", "true")
    [line] = wait_for(lambda: log_of(engine, "traces cannot be sent"), "the engine to say so")
    assert "http://127.0.0.1:1/v1/traces" in line
    engine.ok("run", "--rm", "busybox", "true")
    engine.close()
    assert engine.process is None


def log_of(engine: Engine, *words: str) -> list[str]:
    return [line for line in engine.log.read_text().splitlines() if all(word in line for word in words)]
