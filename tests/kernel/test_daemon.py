"""`boxwright serve` as a process: its signals, its lock, its files, and what it leaves."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine import DEADLINE, Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network]


class Daemon(Engine):
    """An engine that is not ephemeral unless a flag says so."""

    def start(self, *flags: str) -> "Daemon":
        read, write = os.pipe()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(*flags, "--ready-fd", str(write)),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[write], start_new_session=True,
            )  # fmt: skip
        os.close(write)
        ready, _, _ = select.select([read], [], [], DEADLINE)
        said = os.read(read, 16) if ready else b""
        os.close(read)
        assert said == b"ready\n", self.log.read_text()
        return self

    def command(self, *flags: str) -> list[str]:
        roots = ["--data-root", str(self.data_root), "--exec-root", str(self.exec_root), "-H", self.host]
        return [sys.executable, "-m", "boxwright.cli.main", "serve", *roots, "--bridge", self.bridge, *flags]

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    made = Daemon()
    yield made
    if made.process and made.process.poll() is None:
        made.end()
    made.start("--ephemeral")
    made.close()


def running(executable: str) -> list[int]:
    """Pids of the processes whose command line holds `executable`."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and executable.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found


def test_containers_outlive_an_orderly_stop(daemon: Daemon) -> None:
    pidfile = daemon.home / "pid"
    daemon.start("--pidfile", str(pidfile)).load()
    assert daemon.process
    assert int(pidfile.read_text()) == daemon.process.pid
    daemon.ok(
        "run",
        "-d",
        "--name",
        "goes-on",
        "busybox",
        "sh",
        "-c",
        "i=0; while :; do echo $i; i=$((i+1)); usleep 9999; done",
    )
    before = daemon.inspect("goes-on")["State"]["Pid"]
    assert daemon.end() == 0
    assert not pidfile.exists() and not os.path.exists(daemon.socket)
    assert os.path.exists(f"/proc/{before}")
    daemon.start()
    assert daemon.inspect("goes-on")["State"]["Pid"] == before
    seen = daemon.ok("logs", "goes-on").split()
    assert seen == [str(n) for n in range(len(seen))]


def test_one_engine_for_a_data_root(daemon: Daemon) -> None:
    daemon.start()
    ran = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=DEADLINE)
    assert ran.returncode == 1
    assert f"another engine is using {daemon.data_root}" in ran.stderr


def test_nothing_runs_on_for_nobody(daemon: Daemon) -> None:
    daemon.start().load()
    daemon.ok("run", "--rm", "busybox", "true")
    assert running(str(daemon.exec_root))
    daemon.end()
    wait_for(lambda: not running(str(daemon.exec_root)), "launcher and worker go when nobody needs them")


def test_an_idle_engine_ends(daemon: Daemon) -> None:
    daemon.start("--idle-timeout", "0.5").load()
    daemon.ok("run", "-d", "--name", "keeps", "busybox", "sleep", "2")
    assert daemon.process
    assert daemon.process.poll() is None
    wait_for(lambda: daemon.process and daemon.process.poll() == 0, "an engine that nobody needs ends")
    daemon.start()
    assert daemon.inspect("keeps")["State"]["Status"] == "exited"


def test_an_ephemeral_engine_takes_everything_along(daemon: Daemon) -> None:
    daemon.start("--ephemeral").load()
    daemon.ok(
        "run",
        "-d",
        "--name",
        "web",
        "-v",
        "vol:/v",
        "-p",
        "127.0.0.1:0:80",
        "--restart",
        "always",
        "busybox",
        "httpd",
        "-f",
    )
    instance = (daemon.data_root / "instance").read_text().split()[0]
    pid = daemon.inspect("web")["State"]["Pid"]
    assert daemon.end(signal.SIGINT) == 0
    assert not os.path.exists(f"/proc/{pid}")
    assert not daemon.data_root.exists() and not daemon.exec_root.exists()
    assert not os.path.exists(f"/sys/class/net/{daemon.bridge}")
    tables = json.loads(subprocess.run(["nft", "-j", "list", "tables"], capture_output=True, check=True).stdout)
    assert instance not in json.dumps(tables)
    assert not list(Path("/sys/fs/cgroup").glob(f"*/boxwright-{instance}"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--add-runtime", "x"], "expected NAME=VALUE"),
        (["--default-address-pool", "base=10.0.0.0/8"], "expected base=CIDR,size=BITS"),
        (["--default-runtime", "nosuch"], "nosuch"),
        (["--config-file", "/nonexistent"], "unable to read the configuration file /nonexistent"),
        (["--log-level", "loud"], "loud"),
        (["--bip", "not-an-address"], "not-an-address"),
        (["-H", "ftp://x"], "ftp://x"),
    ],
)
def test_flags_that_cannot_be(daemon: Daemon, flags: list[str], said: str) -> None:
    ran = subprocess.run(daemon.command(*flags), capture_output=True, text=True, timeout=DEADLINE)
    assert ran.returncode in (1, 2)
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_reload(daemon: Daemon) -> None:
    """SIGHUP: what may change does, for the next container too, and an event tells; a wrong file changes nothing."""
    path = daemon.home / "daemon.json"
    path.write_text('{"labels": ["stage=one"]}')
    daemon.start("--config-file", str(path)).load()
    assert daemon.api("GET", "/info").json["Labels"] == ["stage=one"]
    path.write_text(
        '{"labels": ["stage=two"], "debug": true, "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 77, "Hard": 88}}}'
    )
    assert daemon.process
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: daemon.api("GET", "/info").json["Labels"] == ["stage=two"], "the labels are those of the file")
    assert daemon.api("GET", "/info").json["Debug"] is True
    assert daemon.ok("run", "--rm", "busybox", "sh", "-c", "ulimit -Sn; ulimit -Hn").split() == ["77", "88"]
    shown = daemon.api("GET", f"/events?since=0&until={time.time():.9f}&filters=%7B%22type%22%3A%5B%22daemon%22%5D%7D")
    [event] = [json.loads(line) for line in shown.raw.splitlines()]
    assert event["Action"] == "reload" and event["Actor"]["Attributes"]["labels"] == '["stage=two"]'
    path.write_text('{"labels": ["stage=three"], "no-such-key": 1}')
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "no-such-key" in daemon.log.read_text(), "the refusal is in the log")
    assert daemon.api("GET", "/info").json["Labels"] == ["stage=two"]


def test_the_storage_driver_describes_itself(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.api("GET", "/info").json["DriverStatus"][0][0] == "Backing Filesystem"
