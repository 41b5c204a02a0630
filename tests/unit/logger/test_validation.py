from pathlib import Path

import pytest

from boxwright import errdefs
from boxwright.logger import addresses, validation

BAD = [
    ("splunk", {}, errdefs.NotImplemented_),
    ("json-file", {"max-sze": "1m"}, errdefs.InvalidParameter),
    ("json-file", {"max-file": "0"}, errdefs.InvalidParameter),
    ("json-file", {"max-file": "1_0"}, errdefs.InvalidParameter),
    ("json-file", {"compress": "perhaps"}, errdefs.InvalidParameter),
    ("json-file", {"compress": "true", "max-file": "1"}, errdefs.InvalidParameter),
    ("json-file", {"mode": "non-blocking", "max-buffer-size": "x"}, errdefs.InvalidParameter),
    ("local", {"cache-disabled": "x"}, errdefs.InvalidParameter),
    ("syslog", {"cache-max-size": "x"}, errdefs.InvalidParameter),
    ("syslog", {"syslog-address": "unix:///nowhere"}, errdefs.InvalidParameter),
    ("syslog", {"syslog-address": "tcp://host:port"}, errdefs.InvalidParameter),
    ("syslog", {"syslog-address": "tcp://[::1"}, errdefs.InvalidParameter),
    ("syslog", {"syslog-format": "rfc1"}, errdefs.InvalidParameter),
    ("syslog", {"syslog-facility": "24"}, errdefs.InvalidParameter),
    ("gelf", {"gelf-address": "tcp://h:1", "gelf-compression-type": "gzip"}, errdefs.InvalidParameter),
    ("gelf", {"gelf-address": "udp://h:1", "gelf-compression-level": "10"}, errdefs.InvalidParameter),
    ("gelf", {"gelf-address": "udp://h:1", "gelf-tcp-max-reconnect": "1"}, errdefs.InvalidParameter),
    ("gelf", {"gelf-address": "tcp://h:1", "gelf-tcp-reconnect-delay": "-1"}, errdefs.InvalidParameter),
    ("gelf", {"gelf-address": "udp://h"}, errdefs.InvalidParameter),
    ("fluentd", {"fluentd-async": "x"}, errdefs.InvalidParameter),
    ("fluentd", {"fluentd-retry-wait": "1"}, errdefs.InvalidParameter),
    ("fluentd", {"fluentd-max-retries": "-1"}, errdefs.InvalidParameter),
    ("fluentd", {"fluentd-address": "http://x"}, errdefs.InvalidParameter),
    ("none", {"max-size": "1m"}, errdefs.InvalidParameter),
    ("journald", {"journald-x": ""}, errdefs.InvalidParameter),
]


@pytest.mark.parametrize(("driver", "config", "error"), BAD)
def test_bad_options_are_refused(driver: str, config: dict[str, str], error: type[errdefs.Error]) -> None:
    with pytest.raises(error):
        validation.validate(driver, config)


@pytest.mark.parametrize(
    ("driver", "config"),
    [
        ("json-file", {"compress": "true", "max-size": "1m", "max-file": "2", "mode": "blocking"}),
        ("local", {"mode": "non-blocking", "max-buffer-size": "4m", "labels": "a"}),
        ("syslog", {"syslog-address": "tcp+tls://host", "syslog-format": "rfc5424", "cache-max-size": "1m"}),
        ("gelf", {"gelf-address": "udp://h:1", "gelf-compression-level": "-1", "gelf-compression-type": "zlib"}),
        ("fluentd", {"fluentd-async": "true", "fluentd-retry-wait": "1m1.5s", "fluentd-buffer-limit": "1k"}),
        ("journald", {"tag": "x", "env-regex": "^A"}),
        ("none", {}),
    ],
)
def test_good_options_are_taken(driver: str, config: dict[str, str]) -> None:
    validation.validate(driver, config)


def test_addresses(tmp_path: Path) -> None:
    assert addresses.syslog("") is None
    assert addresses.syslog("udp://[::1]") == ("udp", "::1", 514, "")
    assert addresses.syslog(f"unixgram://{tmp_path}") == ("unixgram", "", 0, str(tmp_path))
    assert addresses.fluentd("") == ("tcp", "127.0.0.1", 24224, "")
    assert addresses.fluentd("host") == ("tcp", "host", 24224, "")
    assert addresses.fluentd("tls://h:1") == ("tcp+tls", "h", 1, "")
    assert str(addresses.Address("tcp", "::1", 5)) == "[::1]:5"


def test_durations() -> None:
    assert validation.seconds("x", "1h1m1.5s") == 3661.5
    assert validation.seconds("x", "250ms") == 0.25
