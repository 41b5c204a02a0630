"""A real registry on loopback: Debian's docker-registry, and skopeo as one more client; unpacked, not installed."""

import contextlib
import os
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

BUILD = Path(__file__).parents[2] / ".build" / "registry"
PACKAGES = ("docker-registry", "skopeo")
DEADLINE = 30.0  # seconds until a registry answers
USER, PASSWORD = "user", "secret"
# bcrypt of the password, cost 5: what makes it slow is not under test.
_BCRYPT = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"


def unpack() -> Path:
    """Download and unpack the packages once, with those of the libraries that this machine lacks; returns the root."""
    if not BUILD.exists():
        BUILD.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="registry-", dir=BUILD.parent))
        (made / "debs" / "partial").mkdir(parents=True)
        # apt knows what they need: the libraries' packages have other names on each Debian.
        only = ["--download-only", "--reinstall", "--no-install-recommends", "-o", f"Dir::Cache::archives={made}/debs"]
        command = ["apt-get", "install", "-q", "-y", "-o", "APT::Sandbox::User=root", *only, *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(made)
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        for package in (made / "debs").glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(made)], check=True)
        shutil.rmtree(made / "debs")
        made.chmod(0o755)
        try:
            made.rename(BUILD)
        except OSError:  # somebody else was first
            shutil.rmtree(made)
    return BUILD


def skopeo(*arguments: str) -> str:
    """Run skopeo to its end; returns its output.  Raises CalledProcessError."""
    root = unpack()
    machine = f"{os.uname().machine}-linux-gnu"
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{root}/usr/lib/{machine}:{root}/lib/{machine}"}
    command = [f"{root}/usr/bin/skopeo", "--insecure-policy", *arguments]
    cache = Path("/var/lib/containers")  # root's, and not to be moved by a flag
    there = cache.exists()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    finally:
        if not there:
            shutil.rmtree(cache, ignore_errors=True)
    if done.returncode:
        raise RuntimeError(f"skopeo {' '.join(arguments)}: {done.stderr}")
    return done.stdout


class Registry:
    """A running docker-registry.  address: "HOST:PORT"; scheme: http or https."""

    def __init__(self, process: "subprocess.Popen[bytes]", address: str, scheme: str, home: Path) -> None:
        self.process, self.address, self.scheme, self.home = process, address, scheme, home

    def name(self, repository: str) -> str:
        """The repository as docker calls it."""
        return f"{self.address}/{repository}"


@contextlib.contextmanager
def registry(
    *,
    certificate: Path | None = None,
    clients: Path | None = None,
    password: bool = False,
    host: str = "127.0.0.1",
) -> Iterator[Registry]:
    """A docker-registry that ends with the block.

    certificate: directory with cert.pem and key.pem, for TLS.  clients: authority of the clients that may come.
    password: only `USER` may come, by Basic.
    """
    root = unpack()
    home = Path(tempfile.mkdtemp(prefix="bwreg", dir="/tmp"))
    address = f"{host}:{_free_port(host)}"
    http = [f"  addr: {address}"]
    if certificate is not None:
        http += ["  tls:", f"    certificate: {certificate}/cert.pem", f"    key: {certificate}/key.pem"]
        if clients is not None:
            http += ["    clientcas:", f"      - {clients}"]
    lines = ["version: 0.1", "log:", "  level: warn", "storage:", "  filesystem:", f"    rootdirectory: {home}/data"]
    lines += ["  delete:", "    enabled: true", "http:", *http]
    if password:
        (home / "htpasswd").write_text(f"{USER}:{_BCRYPT}\n")
        lines += ["auth:", "  htpasswd:", "    realm: test", f"    path: {home}/htpasswd"]
    (home / "config.yml").write_text("\n".join(lines) + "\n")
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(
            [f"{root}/usr/bin/docker-registry", "serve", str(home / "config.yml")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )  # fmt: skip
    made = Registry(process, address, "https" if certificate else "http", home)
    try:
        _wait(made)
        yield made
    finally:
        process.kill()
        process.wait(30)
        shutil.rmtree(home, ignore_errors=True)


def _free_port(host: str) -> int:
    with socket.socket() as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


def _wait(made: Registry) -> None:
    host, _, port = made.address.partition(":")
    end = time.monotonic() + DEADLINE
    while True:
        with socket.socket() as sock:
            if sock.connect_ex((host, int(port))) == 0:
                return
        if made.process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"docker-registry does not answer: {(made.home / 'log').read_text()[-2000:]}")
        select.select([], [], [], 0.02)
