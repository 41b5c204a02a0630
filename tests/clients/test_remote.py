"""The engine over TCP: the real docker CLI and docker-py under mutual TLS, and who is not let in."""

import contextlib
import http.client
import json
import os
import pty
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.tls import TLSConfig
from support.certificates import Authority
from support.engine import DEADLINE, Engine, Ran

pytestmark = [pytest.mark.root, pytest.mark.network]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Remote:
    """An engine behind mutual TLS and the identities of one who may and of those who may not."""

    def __init__(self, directory: Path) -> None:
        authority = Authority(directory / "ours")
        server = authority.issue("server", "serverAuth")
        self.client = authority.issue("client", "clientAuth")
        self.stranger = Authority(directory / "theirs", "somebody else").issue("stranger", "clientAuth")
        (self.stranger / "ca.pem").write_bytes(authority.certificate.read_bytes())
        self.server_like = server
        self.port = free_port()
        self.host = f"tcp://127.0.0.1:{self.port}"
        files = [("--tlscacert", "ca.pem"), ("--tlscert", "cert.pem"), ("--tlskey", "key.pem")]
        flags = [text for flag, name in files for text in (flag, str(server / name))]
        self.engine = Engine("-H", self.host, "--tlsverify", *flags)

    def command(self, *arguments: str, identity: Path | None = None) -> list[str]:
        directory = identity or self.client
        files = [f"--{flag}={directory / name}" for flag, name in
                 (("tlscacert", "ca.pem"), ("tlscert", "cert.pem"), ("tlskey", "key.pem"))]  # fmt: skip
        return ["docker", "-H", self.host, "--tlsverify", *files, *arguments]

    def docker(self, *arguments: str, stdin: bytes = b"", identity: Path | None = None) -> Ran:
        done = subprocess.run(
            self.command(*arguments, identity=identity), input=stdin, capture_output=True, timeout=60, env=self.env
        )
        return Ran(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_CONFIG": str(self.engine.home / "config")}

    def context(self) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(self.client / "ca.pem"))
        made.load_cert_chain(self.client / "cert.pem", self.client / "key.pem")
        return made

    def connect(self) -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", self.port), DEADLINE)
        return self.context().wrap_socket(raw, server_hostname="127.0.0.1")


@pytest.fixture(scope="module")
def remote(nothing_left_behind: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    made = Remote(tmp_path_factory.mktemp("tls"))
    try:
        made.engine.start().load()
        yield made
    finally:
        made.engine.close()


def test_input_ends_and_output_goes_on(remote: Remote) -> None:
    # `sort` says nothing before its input has ended: the client's half-close has to come through, and only that half.
    ran = remote.docker("run", "-i", "--rm", "busybox", "sort", stdin=b"c\na\nb\n")
    assert (ran.code, ran.out) == (0, "a\nb\nc\n"), ran.err


def test_much_goes_through_both_ways(remote: Remote) -> None:
    data = os.urandom(3 << 20)
    done = subprocess.run(
        remote.command("run", "-i", "--rm", "busybox", "cat"),
        input=data,
        capture_output=True,
        timeout=60,
        env=remote.env,
    )
    assert done.returncode == 0 and done.stdout == data, done.stderr[-500:]


def test_exec_with_a_terminal(remote: Remote) -> None:
    assert remote.docker("run", "-d", "--name", "tty", "busybox", "sleep", "60").code == 0
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        remote.command("exec", "-it", "tty", "sh"), stdin=theirs, stdout=theirs, stderr=theirs, env=remote.env,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        os.write(ours, b"echo $((40+2))x; exit 7\n")
        said = b""
        while b"42x" not in said:
            assert select.select([ours], [], [], DEADLINE)[0], said
            said += os.read(ours, 4096)
        assert process.wait(DEADLINE) == 7
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        remote.docker("rm", "-f", "tty")


def test_logs_are_followed(remote: Remote) -> None:
    assert remote.docker("run", "-d", "--name", "talks", "busybox", "sh", "-c", "echo one; sleep 1; echo two").code == 0
    ran = remote.docker("logs", "-f", "talks")
    assert ran.out.split() == ["one", "two"]
    remote.docker("rm", "-f", "talks")


def test_an_image_goes_in(remote: Remote) -> None:
    archive = subprocess.run(["tar", "c", "-C", str(remote.client), "."], capture_output=True, check=True).stdout
    assert remote.docker("import", "-", "made:here", stdin=archive).code == 0
    assert remote.docker("rmi", "made:here").code == 0


def test_docker_py(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # requests prefers them to what it is told
        monkeypatch.delenv(name, raising=False)
    files = (str(remote.client / "cert.pem"), str(remote.client / "key.pem"))
    tls = TLSConfig(client_cert=files, ca_cert=str(remote.client / "ca.pem"), verify=True)
    client = docker.DockerClient(base_url=f"https://127.0.0.1:{remote.port}", tls=tls)
    try:
        assert client.containers.run("busybox", "echo said", remove=True) == b"said\n"
        assert client.containers.run("busybox", "sh -c 'echo out; echo err >&2'", remove=True, stderr=True)
    finally:
        client.close()


@pytest.mark.parametrize("who", ["stranger", "server_like"])
def test_who_is_not_let_in(remote: Remote, who: str) -> None:
    # A certificate of somebody else's, and one of ours that was made for a server and not for a client.
    ran = remote.docker("ps", identity=getattr(remote, who))
    assert ran.code == 1
    assert "CONTAINER ID" not in ran.out and "certificate" in ran.err


def test_without_a_certificate(remote: Remote) -> None:
    trusting = ssl.create_default_context(cafile=str(remote.client / "ca.pem"))
    with socket.create_connection(("127.0.0.1", remote.port), DEADLINE) as raw:
        sock = trusting.wrap_socket(raw, server_hostname="127.0.0.1")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            sock.sendall(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n")
            if not sock.recv(100):
                raise ConnectionError("closed")


def test_plain_http_to_a_tls_port(remote: Remote) -> None:
    with socket.create_connection(("127.0.0.1", remote.port), DEADLINE) as raw:
        raw.sendall(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b""
        while part := raw.recv(4096):
            said += part
    assert b"HTTP" not in said and b"Containers" not in said
    assert remote.docker("ps").code == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_each_half_closes_by_itself(remote: Remote, version: ssl.TLSVersion) -> None:
    """By memory BIOs, as the engine does it: our close_notify goes out, and what follows is still read."""
    context = remote.context()
    context.minimum_version = context.maximum_version = version
    created = remote.engine.api(
        "POST", "/containers/create",
        {"Image": "busybox", "Cmd": ["sort"], "OpenStdin": True, "StdinOnce": True, "AttachStdin": True},
    )  # fmt: skip
    id = created.json["Id"]
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    engine = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with socket.create_connection(("127.0.0.1", remote.port), DEADLINE) as raw:

        def more() -> None:
            if outgoing.pending:
                raw.sendall(outgoing.read())
            data = raw.recv(65536)
            incoming.write(data) if data else incoming.write_eof()

        while True:
            try:
                engine.do_handshake()
                break
            except ssl.SSLWantReadError:
                more()
        engine.write(
            f"POST /v1.51/containers/{id}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode()
        )
        said = b""

        def read_until(wanted: bytes | None) -> None:
            nonlocal said
            while wanted is None or wanted not in said:
                try:
                    data = engine.read(65536)
                except ssl.SSLWantReadError:
                    more()
                    continue
                except ssl.SSLZeroReturnError:
                    data = b""
                if not data:
                    assert wanted is None, said
                    return
                said += data

        read_until(b"\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 101")
        assert remote.engine.api("POST", f"/containers/{id}/start").status == 204
        engine.write(b"b\na\n")
        with pytest.raises(ssl.SSLWantReadError):
            engine.unwrap()
        raw.sendall(outgoing.read())
        read_until(None)  # ends with the engine's close_notify, not with a cut connection
        assert said.endswith(b"a\nb\n")
    remote.docker("rm", "-f", id)


def test_who_says_nothing_is_sent_away(remote: Remote) -> None:
    with socket.create_connection(("127.0.0.1", remote.port), DEADLINE) as silent, remote.connect() as mute:
        before = time.monotonic()
        assert silent.recv(1) == b""  # no handshake
        said = b""
        while part := mute.recv(4096):  # a handshake and no request
            said += part
        assert said.startswith(b"HTTP/1.1 408")
        assert time.monotonic() - before < DEADLINE


def test_the_engine_says_how_it_is_served(remote: Remote) -> None:
    assert not [w for w in remote.engine.api("GET", "/info").json["Warnings"] or [] if "accessible" in w]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        # A name that an attacker's DNS server has rebound to 127.0.0.1: same origin, so the browser lets it through.
        ({"Host": "evil.example:2375", "Origin": "http://evil.example:2375"}, 403),
        ({"Host": "evil.example:2375", "Sec-Fetch-Site": "same-origin"}, 403),
        ({"Host": "127.0.0.1:2375", "Origin": "http://127.0.0.1:2375"}, 200),
    ],
)
def test_browsers(remote: Remote, headers: dict[str, str], status: int) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "x", **headers}.items())
    with remote.connect() as sock:
        sock.sendall(f"GET /_ping HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
        assert int(sock.recv(4096).split()[1]) == status


def test_plain_tcp_has_to_be_forced() -> None:
    engine = Engine()
    try:
        with pytest.raises(AssertionError, match="only loopback addresses are served without TLS"):
            engine.start("-H", "tcp://0.0.0.0:0")
        engine.start("-H", "tcp://0.0.0.0:0", "-H", "tcp://127.0.0.1:0", "--tls=false")
        warnings = engine.api("GET", "/info").json["Warnings"]
        assert [w for w in warnings if "accessible on http://0.0.0.0" in w and "without encryption" in w]
        assert not [w for w in warnings if "127.0.0.1" in w]
    finally:
        engine.close()


def test_sockets_of_systemd() -> None:
    """fd://: the sockets come open; two of them, and the variables that name them go no further."""
    engine = Engine()
    listening = [socket.socket(socket.AF_UNIX), socket.create_server(("127.0.0.1", 0))]
    listening[0].bind(engine.socket)
    for sock in listening:
        sock.listen()
    port = listening[1].getsockname()[1]
    roots = ["--data-root", str(engine.data_root), "--exec-root", str(engine.exec_root)]
    serve = [sys.executable, "-m", "boxwright.cli.main", "serve", "-H", "fd://", *roots]
    # What systemd does between fork and execve.
    passing = (
        "import fcntl, os, sys; one, two = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1:3])\n"
        "os.dup2(one, 3); os.dup2(two, 4); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2')\n"
        "os.execv(sys.argv[3], sys.argv[3:])"
    )
    numbers = [str(sock.fileno()) for sock in listening]
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(str(engine.home / "notify"))
    notified.settimeout(DEADLINE)
    with engine.log.open("ab") as log:
        engine.process = subprocess.Popen(
            [sys.executable, "-c", passing, *numbers, *serve, "--bridge", engine.bridge, "--ephemeral"],
            env={**os.environ, "NOTIFY_SOCKET": str(engine.home / "notify")},
            pass_fds=[sock.fileno() for sock in listening], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        try:
            assert b"READY=1" in notified.recv(4096)
        except TimeoutError:
            pytest.fail(engine.log.read_text())
        assert engine.api("GET", "/_ping").status == 200
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)) as plain:
            plain.request("GET", "/v1.51/info")
            assert json.loads(plain.getresponse().read())["ServerVersion"]
        for launcher in _children_of(engine):
            assert b"LISTEN_FDS" not in Path(f"/proc/{launcher}/environ").read_bytes()
            held = [os.readlink(f"/proc/{launcher}/fd/{fd}") for fd in os.listdir(f"/proc/{launcher}/fd")]
            ours = {f"socket:[{os.fstat(sock.fileno()).st_ino}]" for sock in listening}
            assert not ours & set(held)
        engine.process.send_signal(signal.SIGTERM)
        assert b"STOPPING=1" in notified.recv(4096)
        assert engine.process.wait(DEADLINE) == 0
    finally:
        for sock in (*listening, notified):
            sock.close()
        if engine.process.poll() is None:
            engine.kill()
        engine.process = None
        engine.close()


def _children_of(engine: Engine) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if str(engine.exec_root).encode() in command and b"serve" not in command:
            found.append(int(name))
    assert found
    return found
