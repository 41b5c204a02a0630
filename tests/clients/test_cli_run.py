"""docker run, as a person types it: output, exit code, streams, settings of the process."""

import re
import signal

import pytest
from support.engine import Engine, wait_for
from support.terminal import Terminal

pytestmark = [pytest.mark.root, pytest.mark.network]


@pytest.mark.parametrize(
    ("arguments", "code", "out"),
    [
        (["busybox", "echo", "hello"], 0, r"hello"),
        (["busybox", "true"], 0, r""),
        (["busybox", "false"], 1, r""),
        (["busybox", "sh", "-c", "exit 42"], 42, r""),
        (["busybox", "sh", "-c", "kill -9 $$; echo PID 1 is immune"], 0, r"PID 1 is immune"),
        (["--init", "busybox", "sh", "-c", "kill -9 $$"], 137, r""),
        (["--entrypoint", "echo", "busybox", "from", "entrypoint"], 0, r"from entrypoint"),
        (["-e", "A=1", "-e", "B=two words", "busybox", "sh", "-c", "echo $A $B"], 0, r"1 two words"),
        (["-w", "/tmp", "busybox", "pwd"], 0, r"/tmp"),
        (["-w", "/made/up", "busybox", "pwd"], 0, r"/made/up"),
        (["-u", "1000", "busybox", "id"], 0, r"uid=1000(\(user\))? gid=1000(\(user\))?.*"),
        (["-u", "user", "busybox", "id", "-G"], 0, r"1000 2000"),
        (["-u", "1:2000", "busybox", "sh", "-c", "id -u; id -g"], 0, r"1\n2000"),
        (["-u", "4242", "busybox", "id", "-u"], 0, r"4242"),
        (
            ["--group-add", "extra", "--group-add", "777", "busybox", "id", "-G"],
            0,
            r"0 .*2000 777|0 .*777 2000|0 777 2000|0 2000 777",
        ),
        (["-h", "box", "busybox", "hostname"], 0, r"box"),
        (
            [
                "-h",
                "box",
                "--domainname",
                "example.org",
                "busybox",
                "sh",
                "-c",
                "hostname; cat /proc/sys/kernel/domainname",
            ],
            0,
            r"box\nexample\.org",
        ),
        (["--read-only", "busybox", "touch", "/x"], 1, r""),
        (["--read-only", "--tmpfs", "/scratch", "busybox", "touch", "/scratch/x"], 0, r""),
        (["--tmpfs", "/t:size=64k", "busybox", "df", "-k", "/t"], 0, r"(?s).*tmpfs +64 .*"),
        (["--shm-size", "1m", "busybox", "df", "-k", "/dev/shm"], 0, r"(?s).* 1024 .*"),
        (["--cap-drop", "ALL", "busybox", "grep", "CapEff", "/proc/self/status"], 0, r"CapEff:\s+0000000000000000"),
        (["busybox", "grep", "CapEff", "/proc/self/status"], 0, r"CapEff:\s+00000000a80425fb"),
        (["busybox", "grep", "CapInh", "/proc/self/status"], 0, r"CapInh:\s+0000000000000000"),
        (
            ["--cap-add", "NET_ADMIN", "busybox", "grep", "CapEff", "/proc/self/status"],
            0,
            r"CapEff:\s+00000000a80435fb",
        ),
        (
            ["--security-opt", "no-new-privileges", "busybox", "grep", "NoNewPrivs", "/proc/self/status"],
            0,
            r"NoNewPrivs:\s+1",
        ),
        (["busybox", "grep", "-w", "Seccomp", "/proc/self/status"], 0, r"Seccomp:\s+2"),
        (
            ["--security-opt", "seccomp=unconfined", "busybox", "grep", "-w", "Seccomp", "/proc/self/status"],
            0,
            r"Seccomp:\s+0",
        ),
        (["--ulimit", "nofile=123:456", "busybox", "sh", "-c", "ulimit -n; ulimit -Hn"], 0, r"123\n456"),
        (["--sysctl", "net.ipv4.ip_default_ttl=99", "busybox", "cat", "/proc/sys/net/ipv4/ip_default_ttl"], 0, r"99"),
        (["--oom-score-adj", "500", "busybox", "cat", "/proc/self/oom_score_adj"], 0, r"500"),
        (["-m", "64m", "busybox", "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes"], 0, r"67108864"),
        (["--pids-limit", "33", "busybox", "sh", "-c", "cat /sys/fs/cgroup/pids/pids.max"], 0, r"33"),
        (["--cpu-shares", "512", "busybox", "sh", "-c", "cat /sys/fs/cgroup/cpu/cpu.shares"], 0, r"512"),
        (["--cpus", "0.5", "busybox", "sh", "-c", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us"], 0, r"50000"),
        (
            ["--cpuset-cpus", "0", "busybox", "grep", "Cpus_allowed_list", "/proc/self/status"],
            0,
            r"Cpus_allowed_list:\s+0",
        ),
        (["--network", "none", "busybox", "ls", "/sys/class/net"], 0, r"lo"),
        (["busybox", "sh", "-c", "ip -o -4 addr show eth0"], 0, r".*inet 172\.\d+\.\d+\.\d+/\d+.*"),
        (["--pid", "host", "busybox", "sh", "-c", "test $$ -gt 1"], 0, r""),
        (["busybox", "sh", "-c", "echo $$"], 0, r"1"),
        (["--init", "busybox", "sh", "-c", "test $$ -gt 1 && exit 3"], 3, r""),
        (
            [
                "--privileged",
                "busybox",
                "sh",
                "-c",
                "mount -t tmpfs none /mnt 2>/dev/null || mkdir /mnt && mount -t tmpfs x /mnt",
            ],
            0,
            r"",
        ),
        (
            ["--device", "/dev/zero:/dev/nothing", "busybox", "sh", "-c", "head -c 3 /dev/nothing | od -An -tx1"],
            0,
            r" *00 00 00",
        ),
        (["busybox", "sh", "-c", "mount -t tmpfs none /tmp"], 1, r""),
        (["--add-host", "db:10.1.2.3", "busybox", "grep", "-w", "db", "/etc/hosts"], 0, r"10\.1\.2\.3\s+db"),
        (
            [
                "--dns",
                "9.9.9.9",
                "--dns-search",
                "corp",
                "--dns-option",
                "ndots:3",
                "busybox",
                "cat",
                "/etc/resolv.conf",
            ],
            0,
            r"(?s).*nameserver 9\.9\.9\.9.*",
        ),
        (
            ["--mac-address", "02:42:ac:11:00:99", "busybox", "cat", "/sys/class/net/eth0/address"],
            0,
            r"02:42:ac:11:00:99",
        ),
        (["layers", "cat", "/layer0", "/layer11"], 0, r"0\n11"),
        (["configured:1.0", "sh", "-c", "id -un; pwd; cat /data/seed"], 0, r"user\n/work\nfrom the image"),
        (["--env", "HOME", "busybox", "sh", "-c", "echo ${HOME:-unset}"], 0, r"/.*"),
        (["busybox", "sh", "-c", "echo $HOME; echo $HOSTNAME | wc -c"], 0, r"/root\n13"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_run(engine: Engine, arguments: list[str], code: int, out: str) -> None:
    ran = engine.docker("run", "--rm", *arguments)
    assert ran.code == code, ran
    assert re.fullmatch(out, ran.text), ran


def test_stdout_and_stderr_stay_apart(engine: Engine) -> None:
    ran = engine.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (ran.out, ran.err, ran.code) == ("out\n", "err\n", 0)


def test_stdin_reaches_the_program(engine: Engine) -> None:
    assert engine.ok("run", "--rm", "-i", "busybox", "cat", stdin=b"through\n") == "through"


def test_a_large_stream_comes_back_whole(engine: Engine) -> None:
    data = bytes(range(256)) * 40_000  # 10 MB, more than any buffer on the way
    ran = engine.spawn("run", "--rm", "-i", "busybox", "cat")
    out, err = ran.communicate(data, timeout=60)
    assert (ran.returncode, err) == (0, b"")
    assert out == data


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["busybox", "no-such-program"], 127, r'exec: "no-such-program": executable file not found in \$PATH'),
        (["busybox", "/etc"], 126, r"permission denied|is a directory"),
        (["busybox", "/etc/passwd"], 126, r"exec format error"),
        (["busybox", "/no/such"], 127, r"no such file or directory"),
        (["no-such-image:1"], 125, r"(?i)Unable to find image 'no-such-image:1' locally"),
        (["-v", "relative/path:/x", "busybox", "true"], 125, r"includes invalid characters"),
        (["-m", "1k", "busybox", "true"], 125, r"(?i)minimum memory limit allowed is 6MB"),
        (["--network", "container:nobody", "busybox", "true"], 125, r"No such container: nobody"),
        (
            ["--link", "nobody:x", "busybox", "true"],
            125,
            r"(?i)could not get container for nobody|No such container: nobody",
        ),
        (["--name", "-bad", "busybox", "true"], 125, r"Invalid container name \(-bad\)"),
        (
            ["-u", "nobodyknows", "busybox", "true"],
            126,
            r"unable to find user nobodyknows|no matching entries in passwd",
        ),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_failures_say_why(engine: Engine, arguments: list[str], code: int, message: str) -> None:
    ran = engine.docker("run", "--rm", *arguments)
    assert re.search(message, ran.err), ran
    # The CLI knows 126 and 127 by the words of the error; what it has no words for it calls 125.
    assert ran.code == code or (code == 126 and ran.code == 125), ran


def test_detached_prints_the_id(engine: Engine) -> None:
    cid = engine.ok("run", "-d", "--name", "sleeper", "busybox", "sleep", "600")
    assert re.fullmatch(r"[0-9a-f]{64}", cid)
    assert engine.ok("ps", "-q", "--no-trunc", "--filter", "name=^sleeper$") == cid
    assert engine.ok("rm", "-f", "sleeper") == "sleeper"


def test_name_conflict(engine: Engine) -> None:
    engine.ok("create", "--name", "taken", "busybox")
    ran = engine.docker("create", "--name", "taken", "busybox")
    assert ran.code == 1
    assert 'Conflict. The container name "/taken" is already in use by container' in ran.err
    engine.ok("rm", "taken")


def test_cidfile_and_rm_leave_nothing(engine: Engine) -> None:
    path = engine.home / "cid"
    engine.ok("run", "--rm", "--cidfile", str(path), "busybox", "true")
    wait_for(lambda: engine.docker("inspect", path.read_text()).code == 1, "the container is removed")


def test_on_a_terminal(engine: Engine) -> None:
    with Terminal(["docker", "-H", engine.host, "run", "--rm", "-it", "busybox", "sh"], rows=31, columns=97) as person:
        person.expect(r"# ")
        person.type("stty size; tty\n")
        person.expect(r"31 97")
        person.expect(r"/dev/pts/0")
        person.expect(r"# ")
        person.resize(12, 44)
        person.process.send_signal(signal.SIGWINCH)
        person.type("sleep 0.3; stty size\n")
        person.expect(r"12 44")
        person.type("exit 5\n")
        assert person.wait() == 5


def test_interrupt_reaches_the_program_on_a_terminal(engine: Engine) -> None:
    script = "trap 'echo caught; exit 9' INT; echo up; while :; do sleep 1; done"
    with Terminal(["docker", "-H", engine.host, "run", "--rm", "-it", "busybox", "sh", "-c", script]) as person:
        person.expect("up")
        person.type("\x03")
        person.expect("caught")
        assert person.wait() == 9


def test_signals_are_proxied_without_a_terminal(engine: Engine) -> None:
    script = "trap 'echo got it; exit 7' TERM; echo up; while :; do sleep 0.1; done"
    ran = engine.spawn("run", "--rm", "busybox", "sh", "-c", script)
    assert ran.stdout
    assert ran.stdout.readline() == b"up\n"
    ran.send_signal(signal.SIGTERM)
    out, _ = ran.communicate(timeout=30)
    assert (out, ran.returncode) == (b"got it\n", 7)


def test_detach_and_attach_again(engine: Engine) -> None:
    with Terminal(["docker", "-H", engine.host, "run", "-it", "--name", "detached", "busybox", "sh"]) as person:
        person.expect("# ")
        person.type("\x10\x11")  # ctrl-p ctrl-q
        person.wait()
    assert engine.inspect("detached")["State"]["Running"]
    with Terminal(["docker", "-H", engine.host, "attach", "detached"]) as person:
        person.type("echo back again\n")
        person.expect("back again\r\n")
        person.type("exit\n")
        person.wait()
    engine.ok("rm", "-f", "detached")
