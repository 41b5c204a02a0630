"""The journald driver beside a real systemd-journald, run by hand in a mount namespace with a /run of its own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

JOURNALD = "/usr/lib/systemd/systemd-journald"
LONG = 600_000  # bytes of a line: past what a datagram takes

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not (Path(JOURNALD).exists() and shutil.which("journalctl")), reason="no systemd-journald here"),
]

# $1: the interpreter, $2: what it runs.
APART = f"""
mount -t tmpfs none /run
mkdir -p /run/systemd/journald.conf.d /run/systemd/journal /run/log/journal
printf '[Journal]\\nStorage=volatile\\nReadKMsg=no\\nAudit=no\\nForwardToSyslog=no\\n' > /run/systemd/journald.conf.d/own.conf
{JOURNALD} >/dev/null 2>&1 &
daemon=$!
trap 'kill $daemon; wait $daemon' EXIT
"$1" -c "$2"
"""
SAY = f"""
import select, subprocess, sys, time
from boxwright.logger.journald import Journald
from boxwright.logger.lines import Partial
from boxwright.logger.remote import Record, Source

deadline = time.monotonic() + 30

def patiently(ready):
    while not (value := ready()):
        assert time.monotonic() < deadline
        select.select([], [], [], 0.02)
    return value

def connected():
    labels = {{"team": "blue", "_PID": "1", "UNIT": "sshd.service"}}
    driver = Journald(Source("0123456789ab" * 5, "web", "busybox", "sha256:x", "true", "", "host", "tag", labels))
    try:
        driver.connect()
    except OSError:
        return None
    return driver

def read():
    command = ["journalctl", "-q", "-D", "/run/log/journal", "-o", "json", "--all", "CONTAINER_NAME=web"]
    shown = subprocess.run(command, capture_output=True, text=True).stdout
    return shown if shown.count("\\n") == 4 else ""

driver = patiently(connected)
driver.send([
    Record("stdout", 10**18, b"plain", None),
    Record("stderr", 10**18 + 1, b"two\\nlines", Partial("p", 1, False)),
    Record("stdout", 10**18, b"x" * {LONG}, None),
    Record("stdout", 10**18, b"last \\xc3\\xa9", None),
])
driver.close()
sys.stdout.write(patiently(read))
"""


def test_a_real_journal_takes_every_entry() -> None:
    command = ["unshare", "-m", "--propagation", "private", "bash", "-c", APART, "bash", sys.executable, SAY]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    entries: list[dict[str, Any]] = [json.loads(line) for line in ran.stdout.splitlines()]
    plain, partial, long, last = entries
    assert (plain["MESSAGE"], plain["PRIORITY"], plain["SYSLOG_IDENTIFIER"]) == ("plain", "6", "tag")
    assert (plain["CONTAINER_ID"], plain["CONTAINER_ID_FULL"]) == ("0123456789ab", "0123456789ab" * 5)
    assert plain["SYSLOG_TIMESTAMP"] == "2001-09-09T01:46:40Z"
    assert (plain["TEAM"], plain["_UID"]) == ("blue", "0")
    assert plain["_PID"] != "1" and "UNIT" not in plain  # what labels must not say
    assert (partial["MESSAGE"], partial["PRIORITY"]) == ("two\nlines", "3")
    assert (partial["CONTAINER_PARTIAL_ORDINAL"], partial["CONTAINER_PARTIAL_MESSAGE"]) == ("1", "true")
    assert long["MESSAGE"] == "x" * LONG
    assert last["MESSAGE"] == "last é"
