"""The peers that figures are compared with: Debian's dockerd (with containerd and runc), unpacked and started by hand.

Nothing is installed: the packages are unpacked under .build/peer, and dockerd runs in its own network and mount
namespace with its own roots, so that its bridge, rules and mounts end with it.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

BUILD = Path(__file__).parents[1] / ".build"
PACKAGES = ("docker.io", "containerd", "runc", "crun", "tini", "iptables", "libdevmapper1.02.1", "libyajl2")


def unpack() -> Path:
    """Download and unpack the peers' packages once; returns the root they were unpacked to."""
    root = BUILD / "peer"
    if not (root / "done").exists():
        downloads = BUILD / "peer-packages"
        downloads.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["apt-get", "download", "-q", *PACKAGES],
            cwd=downloads,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for package in downloads.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)
        shutil.rmtree(downloads)
        (root / "done").touch()
    return root


def environment() -> dict[str, str]:
    """PATH and library path that find the unpacked peers first."""
    root = unpack()
    path = f"{root}/usr/sbin:{root}/usr/bin:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "LD_LIBRARY_PATH": f"{root}/usr/lib/{os.uname().machine}-linux-gnu"}


@contextlib.contextmanager
def dockerd(network: bool = True) -> Iterator[str]:
    """A running dockerd; yields its `unix://` address and ends it with all that it made.

    network: with one of its own, and a bridge in it; without, it has none for containers and sees the host's loopback.
    """
    home = Path(tempfile.mkdtemp(prefix="bwpeer", dir="/tmp"))
    host = f"unix://{home}/d.sock"
    daemon = (
        f"{'ip link set lo up && ' if network else ''}exec dockerd --data-root {home}/data --exec-root {home}/exec"
        f" -H {host} --pidfile {home}/pid --storage-driver overlay2"
        f"{'' if network else ' --bridge none --iptables=false'}"
    )
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(
            ["unshare", *(["-n"] if network else []), "-m", "--propagation", "private", "sh", "-c", daemon],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(), start_new_session=True,
        )  # fmt: skip
    try:
        for _ in range(600):
            if subprocess.run(["docker", "-H", host, "version"], capture_output=True).returncode == 0:
                break
            if process.poll() is not None:
                raise RuntimeError(f"dockerd ended: {(home / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield host
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def boxwright(*flags: str) -> Iterator[str]:
    """Our own engine with roots of its own; yields its `unix://` address."""
    home = Path(tempfile.mkdtemp(prefix="bwbench", dir="/tmp"))
    host = f"unix://{home}/d.sock"
    read, write = os.pipe()
    roots = ["--data-root", f"{home}/data", "--exec-root", f"{home}/exec", "-H", host, "--bridge", home.name[:15]]
    ends = ["--ephemeral", "--ready-fd", str(write)]
    serve = [sys.executable, "-m", "boxwright.cli.main", "serve", *roots, *ends, *flags]
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(
            serve, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[write], start_new_session=True
        )
    os.close(write)
    try:
        if os.read(read, 16) != b"ready\n":
            raise RuntimeError(f"the engine ended: {(home / 'log').read_text()[-2000:]}")
        yield host
    finally:
        os.close(read)
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        shutil.rmtree(home, ignore_errors=True)
