"""The process that writes a log which may have to be waited for, so that the container's shim never waits.

    shim ── SEQPACKET: kind, time, what one read gave ──► forwarder ──► file, socket, cache
         ◄── JSON: ready; failed; how many records were lost ──

It is a child of the shim: forked for a file in non-blocking mode, executed (`forwarder.py`) for the drivers that send
elsewhere, which need more of the standard library than a shim's memory should hold.  It ends when the shim has closed
the log, or has died, in either case after what it has been given is written.  Light imports only.
"""

import os
from time import monotonic

from boxwright import errdefs
from boxwright.libcontainer import jsontext
from boxwright.linux import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

    from boxwright.logger.options import Writer

# The first byte of a packet: output of a stream, or its end.
STDOUT, STDERR, STDOUT_END, STDERR_END, CLOSE = 1, 2, 3, 4, 5
OUTPUT = {"stdout": STDOUT, "stderr": STDERR}
END = {"stdout": STDOUT_END, "stderr": STDERR_END}
_STREAMS = {STDOUT: "stdout", STDERR: "stderr", STDOUT_END: "stdout", STDERR_END: "stderr"}
HEAD = 9  # bytes before the output: kind, time in ns (little endian)
LARGEST = (64 << 10) + HEAD
_REPORT_SECONDS = 1.0  # between reports of losses
FAREWELL_SECONDS = 15  # for what is left when the shim has gone


def run(sock: "socket", open_writer: "Callable[[], Writer]") -> None:
    """Write what comes until the log is closed."""
    try:
        writer = open_writer()
    except (OSError, errdefs.Error, ValueError) as failure:
        _say(sock, {"failed": getattr(failure, "strerror", None) or str(failure)})
        return
    _say(sock, {"ready": True})
    told, told_at = 0, 0.0
    while True:
        packet = sock.recv(LARGEST)
        if not packet or packet[0] == CLOSE:
            break
        stream = _STREAMS[packet[0]]
        if packet[0] in (STDOUT, STDERR):
            writer.write(stream, packet[HEAD:], int.from_bytes(packet[1:HEAD], "little"))
        else:
            writer.flush(stream)
        if writer.dropped != told and monotonic() - told_at >= _REPORT_SECONDS:
            told, told_at = writer.dropped, monotonic()
            _say(sock, {"dropped": told, "error": writer.error})
    signals.alarm(FAREWELL_SECONDS)  # a receiver that takes nothing does not keep this process for ever
    writer.close()
    if writer.dropped != told:
        _say(sock, {"dropped": writer.dropped, "error": writer.error})
    _say(sock, {"closed": True})


def _say(sock: "socket", message: "dict[str, object]") -> None:
    try:
        sock.send(jsontext.dumps(message).encode())
    except OSError:
        pass  # the shim has gone: nobody is left to be told


def exit_after(sock: "socket", open_writer: "Callable[[], Writer]") -> None:
    """`run`, then the end of this process, whatever happens."""
    code = 1
    try:
        run(sock, open_writer)
        code = 0
    finally:
        os._exit(code)
