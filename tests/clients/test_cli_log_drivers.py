"""Log drivers through the docker CLI, each with a real receiver; `docker logs` over rotation and compression."""

import gzip
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import receivers
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network]

DGRAM = socket.SOCK_DGRAM
SPEAK = ("busybox", "sh", "-c", "echo one; echo two; echo three")


@pytest.fixture
def name(engine: Engine, request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for the test's container, which is removed at the end."""
    yield "logs"
    engine.docker("rm", "-f", "logs")


def options(driver: str, *pairs: str) -> list[str]:
    return ["--log-driver", driver, *(word for pair in pairs for word in ("--log-opt", pair))]


def directory(engine: Engine, name: str) -> Path:
    return engine.data_root / "containers" / engine.ok("inspect", "-f", "{{.Id}}", name)


@pytest.mark.parametrize("driver", ["json-file", "local"])
@pytest.mark.parametrize("mode", ["blocking", "non-blocking"])
def test_logs_of_the_drivers_that_keep_them(engine: Engine, name: str, driver: str, mode: str) -> None:
    engine.ok(
        "run", "--name", name, *options(driver, f"mode={mode}"), "busybox", "sh", "-c", "echo a; echo b; echo c >&2"
    )
    ran = engine.docker("logs", name)
    assert (ran.out, ran.err) == ("a\nb\n", "c\n")
    assert engine.docker("logs", "--tail", "0", name).out == ""
    assert engine.ok("logs", "--since", "1h", name) == "a\nb"
    assert engine.ok("logs", "--until", "1h", name) == ""
    assert engine.ok("logs", "-t", name).splitlines()[1].endswith("Z b")
    assert engine.ok("logs", "-f", name) == "a\nb"


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_rotation_and_compression(engine: Engine, name: str, driver: str) -> None:
    wanted = options(driver, "max-size=50k", "max-file=200", "compress=true")
    engine.ok("run", "-d", "--name", name, *wanted, "busybox", "sh", "-c", "seq 40000; sleep 600")
    followed = engine.spawn("logs", "-f", name)
    found = directory(engine, name)
    wait_for(lambda: engine.docker("logs", "--tail", "1", name).out == "40000\n", "all is written")
    wait_for(lambda: not [f for f in os.listdir(found) if f[-1].isdigit()], "all that was rotated is packed")
    packed = sorted(f for f in os.listdir(found) if f.endswith(".gz"))
    assert len(packed) >= 3
    assert gzip.decompress((found / packed[0]).read_bytes())
    assert engine.docker("logs", name).out == "".join(f"{n}\n" for n in range(1, 40001))
    assert engine.docker("logs", "--tail", "30000", name).out == "".join(f"{n}\n" for n in range(10001, 40001))
    engine.ok("kill", name)
    out, _ = followed.communicate(timeout=60)
    assert out.decode() == "".join(f"{n}\n" for n in range(1, 40001))


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_details(engine: Engine, name: str, driver: str) -> None:
    wanted = options(driver, "labels=color", "env-regex=^SI", "tag={{.Name}}/{{.ImageName}}")
    engine.ok("run", "--name", name, "--label", "color=blue", "-e", "SIZE=big", *wanted, "busybox", "echo", "x")
    assert engine.ok("logs", "--details", name) == "SIZE=big,color=blue,tag=logs%2Fbusybox x"


@pytest.mark.parametrize("driver", ["json-file", "local"])
@pytest.mark.parametrize("tty", [False, True])
def test_a_line_of_a_mebibyte(engine: Engine, name: str, driver: str, tty: bool) -> None:
    command = "head -c 1048576 /dev/zero | tr '\\0' x; echo end"
    engine.ok("run", *(["-t"] if tty else []), "-d", "--name", name, *options(driver), "busybox", "sh", "-c", command)
    engine.ok("wait", name)
    out = engine.api("GET", f"/containers/{name}/logs?stdout=1").raw
    if tty:
        assert out == b"x" * 1048576 + b"end\r\n"
        return
    parts = []
    while out:
        size = int.from_bytes(out[4:8], "big")
        parts.append(out[8 : 8 + size])
        out = out[8 + size :]
    assert b"".join(parts) == b"x" * 1048576 + b"end\n"
    assert {len(part) for part in parts[:-1]} == {16384}


def test_local_keeps_bytes_that_are_no_text(engine: Engine, name: str) -> None:
    engine.ok("run", "--name", name, *options("local"), "busybox", "printf", "\\377\\000\\001\\n")
    assert engine.api("GET", f"/containers/{name}/logs?stdout=1").raw[8:] == b"\xff\0\x01\n"


def test_syslog_over_udp(engine: Engine, name: str) -> None:
    with receivers.receiving(receivers.syslog_lines, DGRAM) as receiver:
        address = f"syslog-address=udp://127.0.0.1:{receiver.port}"
        wanted = options("syslog", address, "syslog-facility=local3", "tag={{.Name}}", "syslog-format=rfc5424micro")
        engine.ok("run", "--name", name, *wanted, "busybox", "sh", "-c", "echo out; sleep 0.1; echo err >&2")
        assert receiver.wait(2) == [b"out", b"err"]
        assert receiver.datagrams[0].startswith(b"<158>1 2")
        assert receiver.datagrams[1].startswith(b"<155>1 2")
        assert b" logs " in receiver.datagrams[0]
    # What went elsewhere is kept here as well, as dockerd does.
    assert engine.ok("logs", name) == "out"


def test_syslog_over_tls(engine: Engine, name: str, tmp_path: Path) -> None:
    tls = receivers.certificate(tmp_path)
    with receivers.receiving(receivers.syslog_lines, tls=tls) as receiver:
        address = f"syslog-address=tcp+tls://127.0.0.1:{receiver.port}"
        refused = engine.docker("run", "--name", name, *options("syslog", address), *SPEAK)
        assert refused.code == 125
        assert "failed to initialize logging driver: dial tcp 127.0.0.1" in refused.err
        engine.ok("rm", name)
        engine.ok("run", "--name", name, *options("syslog", address, f"syslog-tls-ca-cert={tls[0]}"), *SPEAK)
        assert receiver.wait(3) == [b"one", b"two", b"three"]


def test_gelf_over_udp(engine: Engine, name: str) -> None:
    def understand(data: bytes) -> list[bytes]:
        return [data]

    with receivers.receiving(understand, DGRAM) as receiver:
        wanted = options("gelf", f"gelf-address=udp://127.0.0.1:{receiver.port}", "labels=color", "tag=t")
        command = "echo short; head -c 12000 /dev/urandom | base64 | tr -d '\\n'; echo"
        engine.ok("run", "--name", name, "--label", "color=red", *wanted, "busybox", "sh", "-c", command)
        wait_for(lambda: len(receivers.gelf_messages(receiver.datagrams)) == 2, "both messages are whole")
        short, long = receivers.gelf_messages(receiver.datagrams)
        assert len(receiver.datagrams) > 2
        assert short["version"] == "1.1"
        assert (short["short_message"], short["level"], short["_tag"], short["_color"]) == ("short", 6, "t", "red")
        assert (short["_container_name"], short["_image_name"]) == (name, "busybox")
        assert len(long["short_message"]) == 16000


def test_fluentd_with_acknowledgement(engine: Engine, name: str) -> None:
    with receivers.receiving(receivers.forwarded_lines) as receiver:
        wanted = options("fluentd", f"fluentd-address=127.0.0.1:{receiver.port}", "fluentd-request-ack=true")
        engine.ok("run", "--name", name, *wanted, *SPEAK)
        assert receiver.wait(3) == [b"one", b"two", b"three"]
        identity = engine.ok("inspect", "-f", "{{.Id}}", name)
        tag, _, fields, _ = receivers.forwarded(receiver.raw)[0]
        assert tag == identity[:12]
        assert fields == {"source": "stdout", "log": "one", "container_id": identity, "container_name": f"/{name}"}


def test_journald(engine: Engine, name: str) -> None:
    path = Path("/run/systemd/journal/socket")
    if path.exists():
        pytest.skip("this host has a journal of its own")
    refused = engine.docker("run", "--name", name, *options("journald"), *SPEAK)
    assert "failed to initialize logging driver: journald is not enabled on this host" in refused.err
    engine.ok("rm", name)
    made = [parent for parent in (path.parent.parent, path.parent) if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with receivers.receiving(lambda data: [receivers.journal_fields(data)["MESSAGE"]], DGRAM, path) as receiver:
            command = "echo hello; head -c 20000 /dev/zero | tr '\\0' x; echo"
            wanted = options("journald", "tag=t", "cache-disabled=true")
            ran = engine.docker("run", "--name", name, *wanted, "busybox", "sh", "-c", command)
            assert "cache-disabled has no effect with journald" in ran.err
            assert receiver.wait(3) == [b"hello", b"x" * 16384, b"x" * (20000 - 16384)]
            first, second, third = (receivers.journal_fields(entry) for entry in receiver.datagrams)
            assert (first["PRIORITY"], first["CONTAINER_NAME"], first["SYSLOG_IDENTIFIER"]) == (b"6", b"logs", b"t")
            assert (second["CONTAINER_PARTIAL_ORDINAL"], second["CONTAINER_PARTIAL_MESSAGE"]) == (b"1", b"true")
            assert second["CONTAINER_PARTIAL_ID"] == third["CONTAINER_PARTIAL_ID"]
            assert third["CONTAINER_PARTIAL_LAST"] == b"true"
        assert engine.docker("logs", name).out == f"hello\n{'x' * 20000}\n"
    finally:
        path.unlink(missing_ok=True)
        for parent in reversed(made):
            parent.rmdir()


def test_without_a_cache_there_is_nothing_to_read(engine: Engine, name: str) -> None:
    with receivers.receiving(receivers.syslog_lines) as receiver:
        wanted = options("syslog", f"syslog-address=tcp://127.0.0.1:{receiver.port}", "cache-disabled=true")
        engine.ok("run", "--name", name, *wanted, *SPEAK)
        assert receiver.wait(3) == [b"one", b"two", b"three"]
    ran = engine.docker("logs", name)
    assert ran.code == 1
    assert "configured logging driver does not support reading" in ran.err


def test_a_receiver_that_does_not_read_stalls_nobody_in_non_blocking_mode(engine: Engine, name: str) -> None:
    with receivers.listen() as deaf:
        address = f"syslog-address=tcp://127.0.0.1:{deaf.getsockname()[1]}"
        wanted = options("syslog", address, "mode=non-blocking", "max-buffer-size=64k", "cache-disabled=true")
        command = "head -c 20000000 /dev/zero | tr '\\0' '\\n'; echo done > /done; exec sleep 600"
        engine.ok("run", "-d", "--name", name, *wanted, "busybox", "sh", "-c", command)
        wait_for(
            lambda: engine.docker("exec", name, "cat", "/done").out == "done\n", "the program got rid of its output"
        )
        said = f"{engine.ok('inspect', '-f', '{{.Id}}', name)}: "
        wait_for(lambda: said in engine.log.read_text() and "log lines dropped" in engine.log.read_text(), "it is said")
    engine.ok("kill", name)  # its end waits for the receiver no longer than it is there


def test_a_receiver_that_does_not_read_is_waited_for_in_blocking_mode(engine: Engine, name: str) -> None:
    deaf = receivers.listen()
    try:
        address = f"syslog-address=tcp://127.0.0.1:{deaf.getsockname()[1]}"
        command = "i=0; while :; do head -c 65536 /dev/zero | tr '\\0' x; echo; i=$((i+1)); echo $i > /count; done"
        wanted = options("syslog", address, "cache-disabled=true")
        engine.ok("run", "-d", "--name", name, *wanted, "busybox", "sh", "-c", command)

        def count() -> str:
            return engine.docker("exec", name, "cat", "/count").out

        def stands() -> bool:
            before = count()
            return bool(before) and all(count() == before for _ in range(20))

        wait_for(stands, "the program waits")
    finally:
        deaf.close()
    before = count()
    wait_for(lambda: count() != before, "once nobody is there to be waited for, it goes on")


def test_a_receiver_that_comes_back_is_found(engine: Engine, name: str) -> None:
    deaf = receivers.listen()
    port = deaf.getsockname()[1]
    wanted = options("syslog", f"syslog-address=tcp://127.0.0.1:{port}")
    command = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"
    engine.ok("run", "-d", "--name", name, *wanted, "busybox", "sh", "-c", command)
    connection, _ = deaf.accept()
    connection.close()
    deaf.close()
    before = int(engine.ok("logs", "--tail", "1", name))
    wait_for(lambda: int(engine.ok("logs", "--tail", "1", name)) > before + 20, "it writes on, here")
    again = socket.socket()
    again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    again.bind(("127.0.0.1", port))
    again.listen(8)
    receiver = receivers.Receiver(again, receivers.syslog_lines)
    try:
        assert int(receiver.wait(1)[0]) > before
    finally:
        receiver.close()


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (options("json-file", "max-sze=1m"), "unknown log opt 'max-sze' for json-file log driver"),
        (options("local", "max-sze=1m"), "unknown log opt 'max-sze' for log driver local"),
        (options("syslog", "syslog-address=http://x"), "unsupported scheme: 'http'"),
        (options("syslog", "syslog-facility=me"), "invalid syslog facility"),
        (options("gelf"), "gelf-address is a required parameter"),
        (options("json-file", "mode=fast"), "logger: logging mode not supported: fast"),
        (options("json-file", "max-buffer-size=1m"), "only supported with 'mode=non-blocking'"),
        (options("json-file", "tag={{.Nme}}"), "template: log-tag"),
        (options("json-file", "env-regex=("), "log opt env-regex"),
    ],
)
def test_what_cannot_be_is_refused_at_create(engine: Engine, flags: list[str], text: str) -> None:
    ran = engine.docker("create", "--name", "refused", *flags, "busybox")
    assert ran.code == 1
    assert text in ran.err
    assert engine.docker("inspect", "refused").code == 1


def test_info_lists_the_drivers(engine: Engine) -> None:
    listed = engine.api("GET", "/info").json["Plugins"]["Log"]
    assert listed == ["fluentd", "gelf", "journald", "json-file", "local", "none", "syslog"]


def test_a_forwarder_that_was_killed_is_replaced(engine: Engine, name: str) -> None:
    wanted = options("local", "mode=non-blocking")
    command = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"
    engine.ok("run", "-d", "--name", name, *wanted, "busybox", "sh", "-c", command)
    wait_for(lambda: engine.ok("logs", "--tail", "1", name), "it is written")
    shim = parent(int(engine.ok("inspect", "-f", "{{.State.Pid}}", name)))
    (forwarder,) = [pid for pid in children(shim) if comm(pid) == "boxwright-log"]
    os.kill(forwarder, signal.SIGKILL)
    wait_for(
        lambda: [pid for pid in children(shim) if comm(pid) == "boxwright-log" and pid != forwarder], "another comes"
    )
    before = int(engine.ok("logs", "--tail", "1", name))
    wait_for(lambda: int(engine.ok("logs", "--tail", "1", name)) > before, "it is written again")
    assert "what it held is lost" in engine.log.read_text()
    engine.ok("kill", name)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""
