"""What the log options of a container mean to its writer, and the writers of files.  Light imports only.

Whether they may be given at all is decided when the container is created (`validation.py`).
"""

from boxwright import errdefs
from boxwright.logger.jsonfile import JsonFileWriter, log_path
from boxwright.logger.none import NoneWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from boxwright.logger.packing import Watcher

    class Writer(Protocol):
        """A container's log, written from its shim: nothing in it blocks or raises."""

        @property
        def dropped(self) -> int:
            """Records lost so far."""

        @property
        def error(self) -> str:
            """Why, the last time."""

        @property
        def ready(self) -> bool:
            """Whether it takes records already; a start waits for it."""

        def write(self, stream: str, data: bytes, now: int = 0) -> None: ...
        def flush(self, stream: str) -> None: ...
        def close(self) -> None: ...
        def finish(self, done: "Callable[[], None]") -> None:
            """Close; call `done` once all has been written, or given up."""


DEFAULT_MAX_SIZE = 20 << 20  # bytes; dockerd's json-file has no limit, its local driver has this one
DEFAULT_MAX_FILE = 5
DEFAULT_BUFFER = 1 << 20  # bytes of max-buffer-size, as dockerd's
FILES = ("json-file", "local")  # drivers that write into the container's directory
_UNITS = {"": 1, "b": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")


def rotation(config: "Mapping[str, str]", prefix: str = "") -> tuple[int, int]:
    """Bytes of one file (0: no limit) and number of files.  Raises InvalidParameter."""
    size, files = DEFAULT_MAX_SIZE, DEFAULT_MAX_FILE
    if text := config.get(prefix + "max-size"):
        size = 0 if text == "-1" else parse_size(text)
    if text := config.get(prefix + "max-file"):
        if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 1000:
            raise errdefs.InvalidParameter(f"{prefix}max-file cannot be less than 1 or more than 1000: {text}")
        files = int(text)
    return size, files


def compression(driver: str, config: "Mapping[str, str]", prefix: str = "") -> bool:
    """Whether rotated files are compressed.  Raises InvalidParameter."""
    asked = flag(config, prefix + "compress", driver != "json-file")
    size, files = rotation(config, prefix)
    if asked and (files < 2 or not size):
        if prefix + "compress" in config:
            raise errdefs.InvalidParameter(
                "compress cannot be true when max-file is less than 2 or max-size is not set"
            )
        return False
    return asked


def flag(config: "Mapping[str, str]", name: str, default: bool) -> bool:
    """A boolean option as Go reads it.  Raises InvalidParameter."""
    text = config.get(name)
    if text is None:
        return default
    if text not in _TRUE + _FALSE:
        raise errdefs.InvalidParameter(f'log opt {name}: strconv.ParseBool: parsing "{text}": invalid syntax')
    return text in _TRUE


def parse_size(text: str, kilo: int = 1000) -> int:
    """Bytes for "10m", "1.5 GB" (units of 1000, as Docker reads them here).  Raises InvalidParameter."""
    number = text.lower().removesuffix("b").removesuffix("i")
    unit = number[-1:] if number[-1:] in ("k", "m", "g", "t") else ""
    number = number.removesuffix(unit).strip()
    whole, dot, fraction = number.partition(".")
    if not (whole.isascii() and whole.isdigit()) or (dot and not (fraction.isascii() and fraction.isdigit())):
        raise errdefs.InvalidParameter(f"invalid size: '{text}'")
    scale = _UNITS[unit] if kilo == 1000 else kilo ** " kmgt".index(unit or " ")
    size = int(float(f"{whole[:18]}.{fraction[:9] or 0}") * scale)
    if size <= 0:
        raise errdefs.InvalidParameter(f"invalid size: '{text}'")
    return size


def non_blocking(config: "Mapping[str, str]") -> bool:
    """Whether records are rather lost than waited for."""
    return config.get("mode") == "non-blocking"


def buffer_size(config: "Mapping[str, str]") -> int:
    """Bytes that may wait for a writer in non-blocking mode."""
    text = config.get("max-buffer-size")
    return parse_size(text, 1024) if text else DEFAULT_BUFFER


def caches(driver: str, config: "Mapping[str, str]") -> bool:
    """Whether what a driver sends elsewhere is also kept here, for `docker logs`.

    dockerd reads journald's log back from the journal, whatever `cache-disabled` says; here the cache is what is read.
    """
    return driver not in (*FILES, "none") and (driver == "journald" or not flag(config, "cache-disabled", False))


def is_direct(driver: str, config: "Mapping[str, str]") -> bool:
    """Whether the shim itself writes the log: a file, or nothing."""
    return driver == "none" or (driver in FILES and not non_blocking(config))


def open_file(
    driver: str,
    config: "Mapping[str, str]",
    container_dir: str,
    container_id: str,
    attrs: str,
    loop: "Watcher | None" = None,
) -> "Writer":
    """The writer of a log that is kept here; `attrs` is JSON text or "".  Raises OSError, InvalidParameter.

    driver: one of FILES, none, or "cache" for what another driver has cached here.
    """
    if driver == "none":
        return NoneWriter()
    prefix = "cache-" if driver == "cache" else ""
    size, files = rotation(config, prefix)
    if driver == "json-file" and not compression(driver, config):
        return JsonFileWriter(log_path(container_dir, container_id), size, files, attrs)
    # Loaded by the launcher after its rehearsal (see there): what most shims do not use stays out of their pages' way.
    from boxwright.logger import local, packing

    paths = {"json-file": log_path, "local": local.local_path, "cache": local.cache_path}
    path = paths[driver](container_dir, container_id)
    packer = packing.Packer(loop, path, files) if compression(driver, config, prefix) else None
    if driver == "json-file":
        return JsonFileWriter(path, size, files, attrs, packer)
    return local.LocalWriter(path, size, files, packer)
