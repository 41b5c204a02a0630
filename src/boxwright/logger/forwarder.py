"""The executed half of `forwarding.py`: an interpreter of its own for the drivers that send records elsewhere."""

import os
import socket

from boxwright.libcontainer import jsontext
from boxwright.logger import forwarding, options
from boxwright.logger.fluentd import Fluentd
from boxwright.logger.gelf import Gelf
from boxwright.logger.journald import Journald
from boxwright.logger.remote import Driver, RemoteWriter, Source
from boxwright.logger.syslog import Syslog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LARGEST_REQUEST = 64 << 20


def main(sock_fd: int, request_fd: int) -> None:
    """Serve the log that the file behind `request_fd` describes; does not return."""
    request = jsontext.loads(os.pread(request_fd, _LARGEST_REQUEST, 0))
    os.close(request_fd)
    forwarding.exit_after(socket.socket(fileno=sock_fd), lambda: open_remote(request))


def open_remote(request: "dict[str, Any]") -> RemoteWriter:
    """The writer for {"type", "config", "source", "container_dir", "id"}.  Raises OSError, InvalidParameter."""
    config = request["config"]
    driver = _driver(request["type"], config, Source(**request["source"]))
    driver.connect()
    cache = None
    if options.caches(request["type"], config):
        cache = options.open_file("cache", config, request["container_dir"], request["id"], "")
    return RemoteWriter(driver, cache)


def _driver(kind: str, config: "dict[str, str]", source: Source) -> Driver:
    if kind == "journald":
        return Journald(source)
    drivers: dict[str, type[Syslog] | type[Gelf] | type[Fluentd]] = {
        "syslog": Syslog, "gelf": Gelf, "fluentd": Fluentd,
    }  # fmt: skip
    return drivers[kind](config, source)
