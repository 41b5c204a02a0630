"""The engine's own log: lines for people, or one JSON object a line with dockerd's keys (`--log-format json`)."""

from __future__ import annotations

import json
import logging
import sys

from boxwright.engine import clock

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LEVELS = {"DEBUG": "debug", "INFO": "info", "WARNING": "warning", "ERROR": "error", "CRITICAL": "fatal"}


class JsonFormatter(logging.Formatter):
    """`{"level", "msg", "time", "logger"}`, and `"error"` with the traceback of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "level": _LEVELS.get(record.levelname, record.levelname.lower()),
            "msg": record.getMessage(),
            "time": clock.rfc3339(int(record.created * 1e9)),
            "logger": record.name,
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(level: str, form: str) -> None:
    """Log to stderr from `level` (of the logging module) on; form: "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level, handlers=[handler])
