"""`GET /metrics` and the JSON log of a real engine."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.network]

Samples = dict[str, list[tuple[dict[str, str], float]]]


@pytest.fixture(scope="module")
def scraped(nothing_left_behind: None) -> Iterator[Engine]:
    made = Engine("--log-format", "json", "--metrics-addr", "127.0.0.1:0")
    try:
        yield made.start().load()
    finally:
        made.close()


def samples(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def of(found: Samples, name: str, container: str) -> float:
    (value,) = [value for labels, value in found[name] if labels["id"] == container]
    return value


def address(engine: Engine) -> tuple[str, int]:
    """Where the metrics are, as the log says; each of its lines is a JSON object."""
    lines = [json.loads(line) for line in engine.log.read_text().splitlines()]
    assert all(line.keys() >= {"level", "msg", "time", "logger"} for line in lines)
    (said,) = [line["msg"] for line in lines if line["msg"].startswith("metrics are served at")]
    url = urlsplit(said.rpartition(" ")[2])
    assert url.hostname
    assert url.port
    return url.hostname, url.port


def test_metrics_of_the_engine_and_of_containers(scraped: Engine) -> None:
    id = scraped.ok("run", "-d", "--name", "it", "-m", "64m", "--pids-limit", "7", "busybox", "sleep", "1000")
    stopped = scraped.ok("create", "busybox", "true")
    try:
        answer = scraped.api("GET", "/metrics")
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        found = samples(answer.raw.decode())
        states = {labels["state"]: value for labels, value in found["engine_daemon_container_states_containers"]}
        assert states == {"running": 1, "paused": 0, "stopped": 1}
        assert found["process_open_fds"][0][1] > 0
        assert of(found, "boxwright_container_memory_limit_bytes", id) == 64 << 20
        assert of(found, "boxwright_container_pids", id) == 1
        assert of(found, "boxwright_container_pids_limit", id) == 7
        assert of(found, "boxwright_container_cpu_usage_seconds_total", id) > 0
        assert of(found, "boxwright_container_network_tx_bytes_total", id) >= 0
        assert of(found, "boxwright_container_restarts_total", stopped) == 0
        assert all(labels["name"] == "it" for labels, _ in found["boxwright_container_pids"])
    finally:
        scraped.ok("rm", "-f", id, stopped)


def test_metrics_on_loopback_are_metrics_only(scraped: Engine) -> None:
    connection = http.client.HTTPConnection(*address(scraped), timeout=10)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == 200
        assert "engine_daemon_engine_info" in samples(answer.read().decode())
        connection.request("GET", "/containers/json")
        answer = connection.getresponse()
        assert answer.status == 404
        answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("where", ["0.0.0.0:0", "nonsense", "127.0.0.1:99999"])
def test_metrics_elsewhere_are_refused(tmp_path: Path, where: str) -> None:
    roots = ["--data-root", str(tmp_path / "d"), "--exec-root", str(tmp_path / "e"), "--bridge", "none"]
    command = [sys.executable, "-m", "boxwright.cli.main", "serve", *roots, "-H", f"unix://{tmp_path}/s"]
    ran = subprocess.run([*command, "--metrics-addr", where], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert where.partition(":")[0] in ran.stderr
    assert not (tmp_path / "s").exists()
