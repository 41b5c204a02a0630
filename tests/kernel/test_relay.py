"""The relay of published ports on IPv6: a real child, real sockets on loopback."""

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.engine import DEADLINE, wait_for

from boxwright.launcher import relay
from boxwright.launcher.loop import Loop

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.getuid() != 0, reason="needs root"),
    pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="needs IPv6"),
]

HOST = "::1"
SIZE = 3 << 20


class Relayed:
    """A relay from a free port of [::1] to `server`, which is a socket on 127.0.0.1."""

    def __init__(self, server: socket.socket) -> None:
        self.loop, self.said = Loop(), list[str]()
        self.kind = server.type
        with socket.socket(socket.AF_INET6, server.type) as probe:
            probe.bind((HOST, 0))
            self.port = probe.getsockname()[1]
        protocol = "tcp" if server.type == socket.SOCK_STREAM else "udp"
        ports = [[protocol, HOST, self.port, *server.getsockname()]]
        self.relay = relay.Relay(self.loop, ports, self.said.append)
        info = Path(f"/proc/self/fdinfo/{self.relay._pidfd}").read_text()
        self.pid = int(info.partition("Pid:")[2].split()[0])
        wait_for(self._turn, "the relay to listen")
        assert self.said == [""]
        assert self.relay.ready

    def _turn(self) -> list[str]:
        self.loop.turn(0.1)
        return self.said

    def client(self) -> socket.socket:
        made = socket.socket(socket.AF_INET6, self.kind)
        made.settimeout(DEADLINE)
        made.connect((HOST, self.port))
        return made

    def close(self) -> None:
        self.relay.close()
        self.loop.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(DEADLINE)
        yield made


@pytest.fixture
def relayed(server: socket.socket) -> Iterator[Relayed]:
    made = Relayed(server)
    yield made
    made.close()


def everything(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def test_both_directions_at_once_and_their_ends(server: socket.socket, relayed: Relayed) -> None:
    there, back = os.urandom(SIZE), os.urandom(SIZE)
    got: dict[str, bytes] = {}
    with relayed.client() as client:
        inner, _ = server.accept()
        with inner:
            inner.settimeout(DEADLINE)

            def send(sock: socket.socket, data: bytes) -> None:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)

            works: list[tuple[Any, ...]] = [
                (send, client, there),
                (send, inner, back),
                (lambda: got.update(there=everything(inner)),),
                (lambda: got.update(back=everything(client)),),
            ]
            threads = [threading.Thread(target=work, args=arguments) for work, *arguments in works]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE)
    assert got == {"there": there, "back": back}


def test_an_answer_after_the_question_has_ended(server: socket.socket, relayed: Relayed) -> None:
    with relayed.client() as client:
        inner, _ = server.accept()
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        with inner:
            inner.settimeout(DEADLINE)
            assert everything(inner) == b"question"
            inner.sendall(b"answer")
        assert everything(client) == b"answer"


def test_who_does_not_read_holds_up_who_sends(server: socket.socket, relayed: Relayed) -> None:
    with relayed.client() as client:
        inner, _ = server.accept()
        with inner:
            client.setblocking(False)
            sent = 0
            while select.select([], [client], [], 0.5)[1]:
                sent += client.send(bytes(1 << 16))
                assert sent < 1 << 28
            client.shutdown(socket.SHUT_WR)
            inner.settimeout(DEADLINE)
            assert len(everything(inner)) == sent


def test_a_container_that_refuses(server: socket.socket, relayed: Relayed) -> None:
    server.close()
    with relayed.client() as client, contextlib.suppress(ConnectionError):
        assert client.recv(1) == b""


def test_a_client_that_breaks_off_ends_the_other_side(server: socket.socket, relayed: Relayed) -> None:
    client = relayed.client()
    inner, _ = server.accept()
    with inner:
        inner.settimeout(DEADLINE)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        with contextlib.suppress(ConnectionError):
            assert inner.recv(1) == b""


def test_more_clients_than_it_takes_at_once(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MOST", 2)
    made = Relayed(server)
    try:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(made.client()) for _ in range(5)]
            for number, client in enumerate(clients):
                client.sendall(b"%d" % number)
            taken = [server.accept()[0] for _ in range(2)]
            assert not select.select([server], [], [], 0.3)[0]  # the others wait in the kernel's queue
            for turn in range(5):
                with taken.pop(0) as inner:
                    inner.settimeout(DEADLINE)
                    number = inner.recv(1)
                    inner.sendall(number)
                clients[int(number)].shutdown(socket.SHUT_WR)
                assert everything(clients[int(number)]) == number
                if turn < 3:
                    taken.append(server.accept()[0])
    finally:
        made.close()


def test_it_has_no_rights_and_ends_with_its_parent(relayed: Relayed) -> None:
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{relayed.pid}/status").read_text().splitlines())
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65534"}
    assert status["Groups"].split() == []
    assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    relayed.relay._sock.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: os.waitid(os.P_PIDFD, relayed.relay._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT), "its end")


def test_an_end_that_nobody_asked_for_is_told(relayed: Relayed) -> None:
    os.kill(relayed.pid, 9)
    wait_for(lambda: (relayed.loop.turn(0.1), len(relayed.said) == 2)[1], "the relay's end")
    assert relayed.said[1] == "the relay of its ports on IPv6 has ended"


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server((HOST, 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        loop, said = Loop(), list[str]()
        relay.Relay(loop, [["tcp", HOST, port, "127.0.0.1", 80]], said.append)
        wait_for(lambda: (loop.turn(0.1), said)[1], "the relay's answer")
        loop.close()
    assert said == [f"failed to bind host port for [::1]:{port}:127.0.0.1:80/tcp: address already in use"]


def test_a_relay_that_is_about_to_end_is_waited_for(server: socket.socket, relayed: Relayed) -> None:
    loop, said = Loop(), list[str]()
    heir = relay.Relay(loop, [["tcp", HOST, relayed.port, *server.getsockname()]], said.append)
    try:
        loop.turn(0.1)
        assert said == []
        relayed.relay.close()
        wait_for(lambda: (loop.turn(0.1), said)[1], "the relay to listen")
        assert said == [""]
    finally:
        heir.close()
        loop.close()


def test_datagrams_and_their_answers() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(DEADLINE)
        made = Relayed(server)
        try:
            with made.client() as one, made.client() as two:
                one.send(b"one")
                two.send(b"two")
                asked = [server.recvfrom(100) for _ in range(2)]
                assert {data for data, _ in asked} == {b"one", b"two"}
                for data, address in asked:
                    server.sendto(data * 2, address)
                assert one.recv(100) == b"oneone"
                assert two.recv(100) == b"twotwo"
                one.send(b"again")
                assert server.recvfrom(100) == (b"again", next(a for data, a in asked if data == b"one"))
        finally:
            made.close()


def test_of_many_senders_the_longest_silent_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MOST", 2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(DEADLINE)
        made = Relayed(server)
        try:
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(made.client()) for _ in range(3)]
                addresses = []
                for client in clients:
                    client.send(b"x")
                    addresses.append(server.recvfrom(100)[1])
                server.sendto(b"lost", addresses[0])
                server.sendto(b"kept", addresses[2])
                assert clients[2].recv(100) == b"kept"
                clients[0].send(b"back")
                data, anew = server.recvfrom(100)
                assert data == b"back"
                server.sendto(b"here", anew)
                assert clients[0].recv(100) == b"here"
        finally:
            made.close()
