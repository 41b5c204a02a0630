"""Which log options a container may be created with, driver by driver, in dockerd's words."""

import re
from collections.abc import Callable, Mapping

from boxwright.errdefs import InvalidParameter, NotImplemented_
from boxwright.logger import addresses, options

DRIVERS = ("fluentd", "gelf", "journald", "json-file", "local", "none", "syslog")
# Drivers that Docker has and this engine has not: their names are known, so they are refused as "not yet".
_OTHERS = frozenset({"awslogs", "splunk", "etwlogs", "gcplogs"})

_ATTRIBUTES = ("env", "env-regex", "labels", "labels-regex", "tag")
_ANY = ("mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress")
_OWN = {
    "json-file": ("max-file", "max-size", "compress"),
    "local": ("max-file", "max-size", "compress"),
    "journald": (),
    "syslog": ("syslog-address", "syslog-facility", "syslog-format", "syslog-tls-ca-cert", "syslog-tls-cert",
               "syslog-tls-key", "syslog-tls-skip-verify"),
    "gelf": ("gelf-address", "gelf-compression-level", "gelf-compression-type", "gelf-tcp-max-reconnect",
             "gelf-tcp-reconnect-delay"),
    "fluentd": ("fluentd-address", "fluentd-async", "fluentd-async-connect",
                "fluentd-buffer-limit", "fluentd-max-retries", "fluentd-request-ack", "fluentd-retry-wait",
                "fluentd-sub-second-precision"),
}  # fmt: skip
_UNKNOWN = {
    "local": "unknown log opt '{}' for log driver local",
    "gelf": 'unknown log opt "{}" for gelf log driver',
}

FACILITIES = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "", "", "", "",
    "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
)  # fmt: skip
SYSLOG_FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def validate(driver: str, config: Mapping[str, str]) -> None:
    """Refuse what a container cannot be created with.

    Raises InvalidParameter with dockerd's texts, NotImplemented_ for drivers of dockerd's that are not here.
    """
    if driver not in DRIVERS:
        if driver in _OTHERS:
            raise NotImplemented_(f"log driver {driver!r} is not implemented")
        raise InvalidParameter(f'error looking up logging plugin {driver}: plugin "{driver}" not found')
    if driver == "none":
        if config:
            raise InvalidParameter(f"unknown log opt '{next(iter(config))}' for none log driver")
        return
    _validate_common(config)
    known = (*_OWN[driver], *_ATTRIBUTES, *_ANY)
    for key in config:
        if key not in known:
            text = _UNKNOWN.get(driver, f"unknown log opt '{{}}' for {driver} log driver")
            raise InvalidParameter(text.format(key))
    _VALIDATORS[driver](config)


def _validate_common(config: Mapping[str, str]) -> None:
    mode = config.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in config:
        if mode != "non-blocking":
            raise InvalidParameter("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        try:
            options.buffer_size(config)
        except InvalidParameter as error:
            raise InvalidParameter(f"error parsing option max-buffer-size: {error}") from None
    options.flag(config, "cache-disabled", False)
    options.compression("cache", config, "cache-")


def _validate_file(driver: str) -> Callable[[Mapping[str, str]], None]:
    def validated(config: Mapping[str, str]) -> None:
        options.compression(driver, config)

    return validated


def _validate_syslog(config: Mapping[str, str]) -> None:
    addresses.syslog(config.get("syslog-address", ""))
    facility(config.get("syslog-facility", ""))
    if config.get("syslog-format", "") not in SYSLOG_FORMATS:
        raise InvalidParameter("Invalid syslog format")


def facility(text: str) -> int:
    """A syslog facility's number.  Raises InvalidParameter."""
    if not text:
        return FACILITIES.index("daemon")
    if text in FACILITIES:
        return FACILITIES.index(text)
    if text.isascii() and text.isdigit() and int(text[:9]) <= 23:
        return int(text)
    raise InvalidParameter("invalid syslog facility")


def _validate_gelf(config: Mapping[str, str]) -> None:
    scheme = addresses.gelf(config.get("gelf-address", "")).scheme
    for key, value in config.items():
        if key.startswith("gelf-compression-") and scheme != "udp":
            raise InvalidParameter("compression is only supported on UDP")
        good = True
        if key == "gelf-compression-level":
            good = value in map(str, range(-1, 10))
        elif key == "gelf-compression-type":
            good = value in ("gzip", "zlib", "none")
        elif key.startswith("gelf-tcp-"):
            if scheme != "tcp":
                raise InvalidParameter(f'"{key}" is only valid for TCP')
            if not value.isascii() or not value.isdigit() or len(value) > 9:
                raise InvalidParameter(f'"{key}" must be a positive integer')
        if not good:
            raise InvalidParameter(f'unknown value "{value}" for log opt "{key}" for gelf log driver')


def _validate_fluentd(config: Mapping[str, str]) -> None:
    addresses.fluentd(config.get("fluentd-address", ""))
    if "fluentd-async" in config and "fluentd-async-connect" in config:
        raise InvalidParameter("conflicting options: cannot specify both 'fluentd-async' and 'fluentd-async-connect'")
    for key in ("fluentd-async", "fluentd-async-connect", "fluentd-request-ack", "fluentd-sub-second-precision"):
        options.flag(config, key, False)
    if text := config.get("fluentd-buffer-limit"):
        options.parse_size(text, 1024)
    if text := config.get("fluentd-retry-wait"):
        seconds("fluentd-retry-wait", text)
    retries = config.get("fluentd-max-retries") or "0"
    if not retries.isascii() or not retries.isdigit() or len(retries) > 10:
        raise InvalidParameter(f'log opt fluentd-max-retries: strconv.ParseUint: parsing "{retries}": invalid syntax')


def seconds(option: str, text: str) -> float:
    """A duration as Go writes it ("1.5s", "1m30s").  Raises InvalidParameter."""
    total, end = 0.0, 0
    for found in _DURATION.finditer(text):
        if found.start() != end:
            break
        total, end = total + float(found[1]) * _SECONDS[found[2]], found.end()
    if end != len(text) or not text:
        raise InvalidParameter(f'log opt {option}: time: invalid duration "{text}"')
    return total


_VALIDATORS: dict[str, Callable[[Mapping[str, str]], None]] = {
    "json-file": _validate_file("json-file"),
    "local": _validate_file("local"),
    "journald": lambda config: None,
    "syslog": _validate_syslog,
    "gelf": _validate_gelf,
    "fluentd": _validate_fluentd,
}
