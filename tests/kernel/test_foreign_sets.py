"""Sets of a newer nftables, which an older libnftables dies of: the engine says so, and lives.

What nftables 1.1.7 notes with its sets is written here by hand, in network namespaces of the tests' own.
"""

import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support import below
from support.engine import wait_for

pytestmark = [pytest.mark.root, pytest.mark.network]

FRAGILE = not hasattr(ctypes.CDLL("libnftables.so.1"), "nft_ctx_input_get_flags")
# What 1.1.7 notes with `type ipv4_addr`, `type inet_service : ipv4_addr . inet_service`, and
# `type ipv4_addr . inet_proto . inet_service : verdict`.
PLAIN = "00040200000003080004040000000100"
DNAT = "00040200000001040000000003080004040000000100041200040d000000010a00000004040000000100060400000000"
VERDICTS = "000400000000010400000000031200040d000000010a0000000404000000010004080004040000000100060400000000"
# `typeof ip saddr . tcp dport` of 1.1.7; the verdict maps of 1.0.6 with parts of plain types, and with one plain type.
TYPEOF = "000400000000033400040d000000012c0014000407000000010c00040c00000001040b0000000114000407000000010c000408000000010402000000"
OLD_PARTS = "000400000000010400000000030800040d0000000100060400000000"
OLD = "00040100000001040000000004080004010000000100060400000000"

WRITE = """
import socket, struct, sys

def attribute(kind, value):
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

def message(kind, flags, family, resource, *attributes):
    body = struct.pack(">BBH", family, 0, resource) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, flags | 1, 1, 0) + body

number = lambda n: struct.pack(">I", n)
table, notes = attribute(1, b"theirs\\0"), bytes.fromhex(sys.argv[1])
like = [attribute(2, b"odd\\0"), attribute(3, number(0)), attribute(4, number(7)), attribute(5, number(4)), attribute(10, number(1))]
sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
sock.send(message(0x10, 0, 0, 10) + message(0xA00, 0x400, 2, 0, table)
          + message(0xA09, 0x404, 2, 0, table, *like, attribute(13, notes)) + message(0x11, 0, 0, 10))
assert struct.unpack_from("=HHIIi", sock.recv(4096), 4)[-1] == 0
"""
ASK = """
from boxwright.network.firewall import Firewall
from boxwright.network.nftables import NftablesError
wall = Firewall("0011eeff")
if sys.argv[2] == "unguarded":
    wall.nft._sets = None
try:
    wall.write([], [], False)
    print("written")
    wall.remove()
except NftablesError as error:
    print(error)
wall.close()
"""


def apart(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python script in a network namespace of its own."""
    command = ["unshare", "-n", sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("notes", [PLAIN, DNAT, VERDICTS])
def test_a_set_that_the_library_dies_of_is_named(notes: str) -> None:
    ran = apart(WRITE + ASK, notes, "guarded")
    assert ran.returncode == 0, ran.stderr
    if FRAGILE:
        assert "set 'theirs odd' was written by a newer nftables" in ran.stdout
    else:
        assert ran.stdout == "written\n"


@pytest.mark.skipif(not FRAGILE, reason="this libnftables reads every set")
@pytest.mark.parametrize("notes", [PLAIN, DNAT, VERDICTS])
def test_the_library_does_die_of_it(notes: str) -> None:
    assert apart(WRITE + ASK, notes, "unguarded").returncode == -11


@pytest.mark.parametrize("notes", ["", TYPEOF, OLD, OLD_PARTS])
def test_a_set_that_every_library_reads_is_nothing(notes: str) -> None:
    ran = apart(WRITE + ASK, notes, "guarded")
    assert (ran.returncode, ran.stdout) == (0, "written\n"), ran.stderr


@pytest.mark.skipif(not FRAGILE, reason="this libnftables reads every set")
def test_an_engine_does_not_start_beside_it_and_says_why() -> None:
    with tempfile.TemporaryDirectory(prefix="bwt", dir="/tmp") as home:
        serve = [
            "serve",
            "--data-root",
            f"{home}/d",
            "--exec-root",
            f"{home}/e",
            "-H",
            f"unix://{home}/s",
            "--bridge",
            "bwsets0",
        ]
        run = f"sys.argv = ['boxwright', *{[*serve, '--ephemeral']!r}]\nfrom boxwright.cli.main import main\nmain()"
        ran = apart(WRITE + run, PLAIN)
        assert ran.returncode == 1, ran.stderr
        assert "set 'theirs odd' was written by a newer nftables" in ran.stderr
        assert not Path(f"{home}/s").exists()
        # Its launcher has yet to see that nobody needs it, and works in there.
        wait_for(lambda: not below.of_run_directory(f"{home}/e"), "the launcher has ended")
