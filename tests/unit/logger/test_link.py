"""The connection of a log driver."""

import socket

import pytest

from boxwright.logger.addresses import Address
from boxwright.logger.link import Link


def test_a_connection_to_itself_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dialling a port of loopback that nobody listens on ends there when the kernel chooses it for this end too."""
    met = socket.socket()
    met.bind(("127.0.0.1", 0))
    met.connect(met.getsockname())
    port = met.getsockname()[1]
    monkeypatch.setattr(socket, "create_connection", lambda address, timeout: met)
    link = Link(Address("tcp", "127.0.0.1", port, ""))
    with pytest.raises(OSError, match=f"dial tcp 127.0.0.1:{port}: connect: connection refused"):
        link.connect()
    assert met.fileno() == -1  # the port is free for who comes to listen
