"""What the options of `docker run` and `docker create` come to, seen from inside the container."""

import re
import shlex
from pathlib import Path

import pytest
from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.network]

# Options and command; exit code; standard output as a regular expression.
INSIDE: list[tuple[str, int, str]] = [
    ("busybox sh -c 'env | sort'", 0, r"HOME=/root\nHOSTNAME=\w{12}\nPATH=\S+\nPWD=/\nSHLVL=1"),
    ("-e A=1 -e PATH=/x:/bin -h hh busybox env", 0, "PATH=/x:/bin\nHOSTNAME=hh\nA=1\nHOME=/root"),
    ("-t busybox sh -c 'echo $TERM'", 0, "xterm"),
    ("-u 1000 busybox grep -e CapEff -e CapBnd /proc/self/status", 0, "CapEff:\t0+\nCapBnd:\t00000000a80425fb"),
    ("busybox grep -e CapInh -e CapEff -e CapAmb /proc/self/status", 0, "CapInh:\t0+\nCapEff:\t00000000a80425fb\nCapAmb:\t0+"),
    ("busybox grep -e NoNewPrivs -e Seccomp: /proc/self/status", 0, "NoNewPrivs:\t0\nSeccomp:\t2"),
    ("--security-opt seccomp=unconfined busybox grep Seccomp: /proc/self/status", 0, "Seccomp:\t0"),
    ("--security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status", 0, "NoNewPrivs:\t1"),
    ("--ulimit nofile=100:200 --ulimit core=0 busybox sh -c 'ulimit -n; ulimit -Hn; ulimit -c'", 0, "100\n200\n0"),
    ("--sysctl net.ipv4.ip_forward=1 busybox cat /proc/sys/net/ipv4/ip_forward", 0, "1"),
    ("--sysctl kernel.shmmax=12345678 busybox cat /proc/sys/kernel/shmmax", 0, "12345678"),
    ("--oom-score-adj 77 busybox cat /proc/self/oom_score_adj", 0, "77"),
    ("--tmpfs /t:size=4m,exec,mode=1770,uid=5 busybox stat -c '%a %u' /t", 0, "1770 5"),
    ("--tmpfs /t:size=4m,exec busybox grep ' /t ' /proc/mounts", 0, r"tmpfs /t tmpfs rw,nosuid,nodev,relatime,.*size=4096k.*"),
    ("--tmpfs /t busybox stat -c %a /t", 0, "1777"),
    ("--mount type=tmpfs,dst=/t,tmpfs-size=2m,tmpfs-mode=700 busybox stat -c %a /t", 0, "700"),
    ("--mount type=tmpfs,dst=/t,ro busybox touch /t/x", 1, ""),
    ("-v /etc:/e:ro busybox sh -c 'test -e /e/passwd && touch /e/x'", 1, ""),
    ("-v /etc/passwd:/etc/hostname busybox head -c 5 /etc/hostname", 0, "root:"),
    ("-v /anon busybox sh -c 'touch /anon/x && ls /anon'", 0, "x"),
    ("--read-only busybox sh -c 'touch /dev/shm/x && touch /etc/hosts'", 1, ""),
    ("--read-only --tmpfs /run busybox sh -c 'touch /run/x && ls /run'", 0, "x"),
    ("busybox grep -o '^overlay / overlay' /proc/mounts", 0, "overlay / overlay"),
    ("busybox sh -c 'stat -c %s%a /.dockerenv; readlink /etc/mtab'", 0, "0755\n/proc/mounts"),
    ("-h myhost --domainname ex.org busybox grep -c 'myhost.ex.org myhost' /etc/hosts", 0, "1"),
    ("-h myhost.ex.org busybox grep -c 'myhost.ex.org myhost$' /etc/hosts", 0, "1"),
    ("--add-host foo:1.2.3.4 busybox grep foo /etc/hosts", 0, "1.2.3.4\tfoo"),
    ("--add-host gw:host-gateway busybox grep -c gw /etc/hosts", 0, "1"),
    ("--dns 1.2.3.4 --dns-search ex.org --dns-option ndots:3 busybox sort /etc/resolv.conf", 0,
     "nameserver 1.2.3.4\noptions ndots:3\nsearch ex.org"),
    ("--network none busybox sh -c 'ip -o link | grep -v -e tunl -e sit -e gre -e ip6 -e erspan -e vti | wc -l'", 0, "1"),
    ("--network none busybox ip -o addr show lo", 0, r"(?s).*127\.0\.0\.1/8.*"),
    ("--pid host busybox cat /proc/1/comm", 0, re.escape(Path("/proc/1/comm").read_text().strip())),
    ("--ipc none busybox ls -d /dev/shm", 1, ""),
    ("--device /dev/null:/dev/mynull:r busybox cat /dev/mynull", 0, ""),
    ("--device-cgroup-rule 'c 1:5 r' busybox true", 0, ""),
    ("--init busybox sh -c 'echo $$ | grep -vx 1 | wc -l'", 0, "1"),
    ("--pids-limit 20 busybox sh -c 'for i in $(seq 30); do sleep 1 & done; wait'", 2, ""),
    ("--entrypoint '' busybox echo x", 0, "x"),
    ("configured:1.0 sh -c 'id -u; pwd; echo $HOSTNAME | wc -c'", 0, r"\d+\n/work\n13"),
    ("--log-driver none busybox echo hi", 0, "hi"),
    ("busybox sh -c 'ls /dev | sort | xargs'", 0,
     "(core )?fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"),
    ("busybox sh -c 'cat /proc/kcore | wc -c; ls /proc/acpi /sys/firmware | wc -l'", 0, r"0\n[0-9]+"),
    ("busybox sh -c 'echo 1 > /proc/sys/kernel/domainname'", 1, ""),
    ("busybox sh -c 'echo b > /proc/sysrq-trigger'", 1, ""),
    ("busybox mknod /dev/sdx b 8 0", 0, ""),
    ("busybox sh -c 'mknod /m c 1 11 && cat /m'", 1, ""),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "out"), INSIDE, ids=[case[0] for case in INSIDE])
def test_inside(engine: Engine, arguments: str, code: int, out: str) -> None:
    ran = engine.docker("run", "--rm", *shlex.split(arguments))
    assert ran.code == code, ran.err
    assert re.fullmatch(out, ran.text.replace("\r", "")), ran.out


# Options and command; exit code of the CLI; a part of what it says.
REFUSED: list[tuple[str, int, str]] = [
    ("--link nope:x busybox true", 125, "could not get container for nope: No such container: nope"),
    ("busybox nonexistent", 127, 'exec: "nonexistent": executable file not found in $PATH'),
    ("busybox /etc", 126, 'exec: "/etc"'),
    ("--user nobody2 busybox true", 125, "unable to find user nobody2: no matching entries in passwd file"),
    ("--mount type=bind,src=/nonexist,dst=/x busybox true", 125,
     'invalid mount config for type "bind": bind source path does not exist: /nonexist'),
    ("-v /etc/passwd:/bin busybox true", 125, "a directory"),
    ("--sysctl kernel.panic=1 busybox true", 125, "kernel.panic"),
    ("--network host --sysctl net.ipv4.ip_forward=1 busybox true", 125, "net.ipv4.ip_forward"),
    ("--device-read-bps /dev/nope:1mb busybox true", 127, "stat /dev/nope: no such file or directory"),
    ("--device /dev/nope busybox true", 127, 'error gathering device information while adding custom device "/dev/nope"'),
    ("--pid container:nope busybox true", 125, "No such container: nope"),
    ("--network container:nope busybox true", 125, "No such container: nope"),
    ("--network nope busybox true", 125, "network nope not found"),
    ("--volumes-from nope busybox true", 125, "No such container: nope"),
    ("--stop-signal ZZ busybox true", 125, "nvalid signal: ZZ"),
    ("-e =x busybox true", 125, "invalid environment variable: =x"),
    ("--memory 1m busybox true", 125, "Minimum memory limit allowed is 6MB"),
    ("--log-driver zz busybox true", 125, 'error looking up logging plugin zz: plugin "zz" not found'),
    ("-v /a:/b -v /c:/b busybox true", 125, "Duplicate mount point: /b"),
    ("--cap-add nope busybox true", 125, 'invalid CapAdd: unknown capability: "CAP_NOPE"'),
    ("-w rel busybox true", 125, "the working directory 'rel' is invalid, it needs to be an absolute path"),
    ("nope:1 true", 125, ""),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "text"), REFUSED, ids=[case[0] for case in REFUSED])
def test_refused(engine: Engine, arguments: str, code: int, text: str) -> None:
    verb = ["run", "--rm", "--pull", "never"]
    ran = engine.docker(*verb, *shlex.split(arguments))
    assert ran.code == code, ran.err
    assert text in ran.err
    assert engine.ok("ps", "-aq") == ""


def test_ports_on_the_hosts_network_are_warned_about(engine: Engine) -> None:
    ran = engine.docker("run", "--rm", "--network", "host", "-p", "80:80", "busybox", "echo", "ran")
    assert (ran.code, ran.text) == (0, "ran")
    assert ran.err.strip() == "WARNING: Published ports are discarded when using host network mode"
    assert engine.docker("run", "--rm", "--network", "host", "busybox", "true").err == ""


def test_volumes_take_the_images_files_and_keep_them(engine: Engine) -> None:
    engine.ok("run", "--rm", "-v", "opt-etc:/etc", "busybox", "touch", "/etc/mine")
    listed = engine.ok("run", "--rm", "-v", "opt-etc:/x:ro", "busybox", "ls", "/x").split()
    assert {"passwd", "mine"} <= set(listed)
    assert engine.docker("run", "--rm", "-v", "opt-etc:/x:ro", "busybox", "touch", "/x/y").code == 1
    assert engine.ok("run", "--rm", "-v", "opt-empty:/bin2:nocopy", "busybox", "ls", "/bin2") == ""
    engine.ok("volume", "rm", "opt-etc", "opt-empty")


def test_what_containers_share(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("bound")
    bind = f"{tmp_path}:/b"
    engine.ok(
        "run",
        "-d",
        "--name",
        "donor",
        "--ipc",
        "shareable",
        "-h",
        "dd",
        "-v",
        bind,
        "-v",
        "/anon",
        "busybox",
        "sleep",
        "1000",
    )
    try:
        run = ("run", "--rm")
        assert (
            engine.ok(*run, "--ipc", "container:donor", "busybox", "sh", "-c", "echo x > /dev/shm/f; ls /dev/shm")
            == "f"
        )
        assert engine.ok("exec", "donor", "ls", "/dev/shm") == "f"
        assert engine.ok(*run, "--pid", "container:donor", "busybox", "sh", "-c", "ps -o comm | grep -c sleep") == "1"
        assert engine.ok(*run, "--network", "container:donor", "busybox", "hostname") == "dd"
        assert engine.ok(*run, "--volumes-from", "donor", "busybox", "cat", "/b/file") == "bound"
        assert engine.docker(*run, "--volumes-from", "donor:ro", "busybox", "touch", "/b/x").code == 1
        linked = engine.ok(
            *run,
            "--link",
            "donor:al",
            "busybox",
            "sh",
            "-c",
            "env | grep -c ^AL_NAME=/; grep -c 'al dd donor' /etc/hosts",
        )
        assert linked.split() == ["1", "1"]
        assert (
            engine.docker(
                *run, "--ipc", "container:donor", "--network", "container:donor", "-h", "x", "busybox", "true"
            ).code
            == 125
        )
    finally:
        engine.ok("rm", "-fv", "donor")


@pytest.mark.parametrize("mode", ["", "bridge", "host"])
def test_a_disabled_network_is_lo_alone(engine: Engine, mode: str) -> None:
    made = engine.api(
        "POST",
        "/containers/create",
        {
            "Image": "busybox",
            "Cmd": ["sh", "-c", "ip -o link; ip -o addr; ip route; ping -c1 -W5 127.0.0.1 >/dev/null && echo pinged"],
            "NetworkDisabled": True,
            "ExposedPorts": {"80/tcp": {}},
            "HostConfig": {"NetworkMode": mode, "PublishAllPorts": True},
        },
    )
    assert made.status == 201, made.raw
    id = made.json["Id"]
    try:
        assert engine.ok("start", "-a", id).endswith("pinged")
        printed = engine.ok("logs", id)
        assert {line.split()[1] for line in printed.splitlines()[:-1]} == {"lo:", "lo"}
        assert "127.0.0.1/8" in printed
        shown = engine.inspect(id)
        assert shown["Config"]["NetworkDisabled"] is True
        assert shown["NetworkSettings"]["Networks"] == {}
        assert engine.ok("port", id) == ""
    finally:
        engine.ok("rm", "-f", id)
