"""TLS below the API's connections, by memory BIOs.

asyncio's own TLS cannot half-close: it takes the peer's close_notify for the end of both directions.  The docker CLI
sends one when the input of an attach or an exec has ended, and reads on.  So the TLS engine (ssl.SSLObject) is driven
here: a close_notify that comes in is the end of input and no more, one that goes out ends our output and no more
(RFC 8446 6.1 has both directions close independently; OpenSSL reads on after SSL_shutdown).

    socket ⇄ asyncio's transport ⇄ Layer (protocol below, transport above) ⇄ protocol.Connection
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable
from typing import Any, cast

from boxwright.errdefs import InvalidParameter

from .doors import Door

# Seconds from the connection to the end of the handshake.
HANDSHAKE_DEADLINE = 10.0
# One TLS record holds 16 KiB; this much is taken out of the engine at once.
_READ = 256 * 1024

_log = logging.getLogger(__name__)


def context(cacert: str, cert: str, key: str, verify: bool) -> ssl.SSLContext:
    """The server's TLS settings; raises `InvalidParameter` that names the file which is missing or malformed.

    verify: clients have to show a certificate that an issuer of `cacert`, and of no other file, has signed.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    # Tickets would be sent between a hijacked stream's bytes; a client's certificate is checked at each connection.
    made.num_tickets = 0
    made.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    try:
        made.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidParameter(
            f"invalid TLS configuration: could not load X509 key pair ({cert}, {key}): {error}"
        ) from error
    if verify:
        try:
            made.load_verify_locations(cacert)
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter(
                f"invalid TLS configuration: could not read CA certificate {cacert}: {error}"
            ) from error
        made.verify_mode = ssl.CERT_REQUIRED
    return made


class Layer(asyncio.Protocol, asyncio.Transport):
    """One client's TLS: the protocol of a plain transport, and the transport of the HTTP connection above it.

    The connection above is made when the handshake is complete, so that nobody without a certificate reaches it.
    """

    def __init__(self, context: ssl.SSLContext, make: Callable[[], asyncio.Protocol], door: Door) -> None:
        asyncio.Transport.__init__(self)
        self._make = make
        self._door = door
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._engine = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._below: asyncio.Transport | None = None
        self._above: asyncio.Protocol | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._input_ended = False
        self._output_ended = False
        self._closing = False

    # The protocol of the transport below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came; one too many is sent away at once, since it cannot be told why before a handshake."""
        below = cast(asyncio.Transport, transport)
        self._below = below
        if not self._door.enter(self):
            below.abort()
            return
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_DEADLINE, below.abort)

    def data_received(self, data: bytes) -> None:
        """Encrypted bytes arrived."""
        if self._input_ended:
            return
        self._incoming.write(data)
        try:
            if self._above is None and not self._shake_hands():
                return
            self._decrypt()
        except ssl.SSLError as error:
            _log.debug("TLS: %s", error)
            self._send()  # the alert
            if self._above is None and self._below is not None:
                self._below.close()
            else:
                self.abort()

    def eof_received(self) -> bool:
        """The client sends nothing more, with a close_notify before it or without: keep the other direction."""
        if self._above is None:
            return False
        if not self._input_ended:
            self._end_input()
        return self._below is not None and not self._below.is_closing()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._above is not None:
            self._above.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._door.leave(self)
        self._cancel_deadline()
        self._closing = True
        self._below = None
        if self._above is not None:
            self._above.connection_lost(exc)

    def _shake_hands(self) -> bool:
        try:
            self._engine.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return False
        self._send()
        self._cancel_deadline()
        self._above = self._make()
        self._above.connection_made(self)
        return True

    def _decrypt(self) -> None:
        while not self._closing:
            try:
                data = self._engine.read(_READ)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                self._end_input()
                break
            if self._above is not None:
                self._above.data_received(data)
        self._send()  # answers to key updates

    def _end_input(self) -> None:
        self._input_ended = True
        if self._above is not None and not self._above.eof_received():
            self.close()

    def _send(self) -> None:
        if self._outgoing.pending and self._below is not None:
            self._below.write(self._outgoing.read())

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # The transport of the connection above

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue output; dropped once the output has ended."""
        if self._output_ended or self._below is None or not data:
            return
        try:
            self._engine.write(data)
        except ssl.SSLError as error:
            _log.debug("TLS: %s", error)
            self.abort()
            return
        self._send()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Queue several pieces as one."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """True: that is what this module is for."""
        return True

    def write_eof(self) -> None:
        """End the output by a close_notify; input goes on."""
        if self._output_ended or self._below is None:
            return
        self._output_ended = True
        try:
            self._engine.unwrap()
        except ssl.SSLError:
            pass  # SSLWantReadError: the peer's close_notify is still to come, and need not be waited for
        self._send()

    def close(self) -> None:
        """End the output, and the connection once everything has been sent."""
        self._closing = True
        self.write_eof()
        if self._below is not None:
            self._below.close()

    def abort(self) -> None:
        """Drop the connection now."""
        self._closing = True
        if self._below is not None:
            self._below.abort()

    def is_closing(self) -> bool:
        """Whether the connection is gone, or going."""
        return self._closing or self._below is None or self._below.is_closing()

    def pause_reading(self) -> None:
        """Take no more from the client."""
        if self._below is not None:
            self._below.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        if self._below is not None and not self._below.is_closing():
            self._below.resume_reading()

    def is_reading(self) -> bool:
        """Whether input is being taken."""
        return self._below is not None and self._below.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When the connection above is told to pause, in encrypted bytes."""
        if self._below is not None:
            self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Encrypted bytes that the kernel has not taken."""
        return self._below.get_write_buffer_size() if self._below is not None else 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """(low, high) of `set_write_buffer_limits`."""
        return self._below.get_write_buffer_limits() if self._below is not None else (0, 0)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The connection above."""
        return self._above or self

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Exchange the connection above."""
        self._above = cast(asyncio.Protocol, protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the socket knows, and of TLS: ssl_object, peercert, sslcontext."""
        if name == "ssl_object":
            return self._engine
        if name == "sslcontext":
            return self._engine.context
        if name == "peercert":
            return self._engine.getpeercert()
        return self._below.get_extra_info(name, default) if self._below is not None else default
