"""The engine's aiohttp has no certificates of its own, and nothing else lost any."""

import subprocess
import sys

LOOK = """
from boxwright.cli import leanimport
leanimport.import_aiohttp()
import ssl
from aiohttp import connector
print(len(connector._SSL_CONTEXT_VERIFIED.get_ca_certs()), connector._SSL_CONTEXT_VERIFIED.verify_mode.name,
      connector._SSL_CONTEXT_VERIFIED.check_hostname, len(ssl.create_default_context().get_ca_certs()) > 0)
"""


def test_the_contexts_that_nobody_uses_are_empty_and_verify() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["0", "CERT_REQUIRED", "True", "True"], done.stderr
