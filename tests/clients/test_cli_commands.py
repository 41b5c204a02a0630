"""Commands of the docker CLI over one small world: every verb's flags and forms, outputs, exit codes and refusals.

The world: `run` runs, `off` has exited with 3, `new` was never started, `held` is paused; a volume `vol`, an image
`mine:1`.  No command here changes it.
"""

import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.network]


@pytest.fixture(scope="module")
def world(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Path]]:
    directory = tmp_path_factory.mktemp("world")
    (directory / "env").write_text("# a comment\nFROM_FILE=yes\nHOME\n")
    (directory / "labels").write_text("one=1\ntwo=2\n")
    engine.ok("volume", "create", "--label", "kind=test", "vol")
    engine.ok("tag", "busybox", "mine:1")
    engine.ok("run", "-d", "--name", "run", "--label", "tier=front", "-e", "K=v", "-p", "127.0.0.1::80", "-v", "vol:/v",
              "-h", "inner", "busybox", "sh", "-c", "echo started; echo problem >&2; exec sleep 600")  # fmt: skip
    engine.docker("run", "--name", "off", "--label", "tier=back", "busybox", "sh", "-c", "echo last; exit 3")
    engine.ok("create", "--name", "new", "--label", "tier=back", "mine:1", "true")
    engine.ok("run", "-d", "--name", "held", "--network", "none", "busybox", "sleep", "600")
    engine.ok("pause", "held")
    yield engine, directory
    engine.docker("unpause", "held")
    engine.docker("rm", "-fv", "run", "off", "new", "held")
    engine.docker("volume", "rm", "vol")
    engine.docker("rmi", "mine:1")


# Command, exit code, standard output as a regular expression, part of standard error.
COMMANDS: list[tuple[str, int, str, str]] = [
    # ps
    ("ps -q", 0, r"[0-9a-f]{12}\n[0-9a-f]{12}", ""),
    ("ps -a --format {{.Names}}", 0, "held\nnew\noff\nrun", ""),
    ("ps --no-trunc -q -f name=^/run$", 0, r"[0-9a-f]{64}", ""),
    ("ps -a -f status=exited --format '{{.Names}} {{.Status}}'", 0, r"off Exited \(3\) .* ago", ""),
    ("ps -a -f status=created --format '{{.Names}} {{.Status}}'", 0, "new Created", ""),
    ("ps -f status=paused --format '{{.Names}} {{.Status}}'", 0, r"held Up .* \(Paused\)", ""),
    ("ps -a -f exited=3 --format {{.Names}}", 0, "off", ""),
    ("ps -a -f label=tier=back --format {{.Names}}", 0, "new\noff", ""),
    ("ps -a -f label=tier --format '{{.Label \"tier\"}}'", 0, "back\nback\nfront", ""),
    ("ps -a -f ancestor=mine:1 --format {{.Names}}", 0, "held\nnew\noff\nrun", ""),
    ("ps -a -f volume=vol --format '{{.Names}} {{.Mounts}}'", 0, "run vol", ""),
    ("ps -f network=none --format {{.Names}}", 0, "held", ""),
    ("ps -f publish=80 -q", 0, "", ""),
    ("ps -f expose=80/tcp --format {{.Names}}", 0, "run", ""),
    ("ps -a -f since=off --format {{.Names}}", 0, "held\nnew", ""),
    ("ps -a -f before=off --format {{.Names}}", 0, "run", ""),
    ("ps -n 1 --format {{.Names}}", 0, "held", ""),
    ("ps -l --format {{.Names}}", 0, "held", ""),
    ("ps -a -s -f name=run --format '{{.Names}} {{.Size}}'", 0, r"run \d+.*B \(virtual .*B\)", ""),
    ("ps -f name=run --format '{{json .}}'", 0, r'\{"Command":.*"Names":"run".*\}', ""),
    ("ps -f name=run --format 'table {{.Names}}\t{{.Image}}'", 0, r"NAMES\s+IMAGE\s+run\s+busybox", ""),
    ("ps -f name=run --format {{.Ports}}", 0, r"127\.0\.0\.1:\d+->80/tcp", ""),
    ("ps -f status=nonsense", 1, "", "invalid"),
    ("ps -f nonsense=1", 1, "", "invalid filter 'nonsense'"),
    ("container ls -aq -f name=new", 0, r"[0-9a-f]{12}", ""),
    # inspect
    ("inspect -f '{{.State.Status}} {{.State.ExitCode}}' run off new held", 0, "running 0\nexited 3\ncreated 0\npaused 0", ""),
    ("inspect --type container -f {{.Config.Hostname}} run", 0, "inner", ""),
    ("image inspect --platform linux/amd64 -f {{.Id}} busybox", 0, r"sha256:[0-9a-f]{64}", ""),
    ("image inspect --platform linux/s390x busybox", 1, r"\[\]", "does not match the specified platform: wanted linux/s390x"),
    ("image inspect --platform nonsense/ busybox", 1, "", "platform"),
    ("inspect --type image -f '{{.Os}}' busybox", 0, "linux", ""),
    ("inspect --type volume -f '{{.Labels.kind}}' vol", 0, "test", ""),
    ("inspect --type network -f '{{.Driver}}' bridge", 0, "bridge", ""),
    ("inspect -s -f '{{.SizeRootFs}}' run", 0, r"\d+", ""),
    ("inspect -f '{{range .Mounts}}{{.Name}} {{.Destination}} {{.RW}}{{end}}' run", 0, "vol /v true", ""),
    ("inspect -f '{{index .Config.Labels \"tier\"}}' run", 0, "front", ""),
    ("inspect -f '{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostIp}}' run", 0, r"127\.0\.0\.1", ""),
    ("inspect -f '{{.NoSuchField}}' run", 1, "", "NoSuchField"),
    ("inspect nobody", 1, r"\[\]", "No such object: nobody"),
    ("inspect run nobody", 1, r"(?s)\[\s+\{.*\}\s+\]", "No such object: nobody"),
    ("container inspect nobody", 1, r"\[\]", "No such container: nobody"),
    # logs
    ("logs run", 0, "started", "problem"),
    ("logs --tail 0 run", 0, "", ""),
    ("logs -n 1 off", 0, "last", ""),
    ("logs -t off", 0, r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z last", ""),
    ("logs --since 1h off", 0, "last", ""),
    ("logs --until 1h off", 0, "", ""),
    ("logs --since 2099-01-01T00:00:00Z off", 0, "", ""),
    ("logs -f off", 0, "last", ""),
    ("logs --details off", 0, r"\s*last", ""),
    ("logs new", 0, "", ""),
    ("logs nobody", 1, "", "No such container: nobody"),
    ("logs --since nonsense run", 1, "", "invalid value for \"since\""),
    # top, port
    ("top run", 0, r"(?s)UID\s+PID.*sleep 600", ""),
    ("top run -o pid,comm", 0, r"(?s)\s*PID\s+COMMAND.*sleep", ""),
    ("top off", 1, "", "is not running"),
    ("port run", 0, r"80/tcp -> 127\.0\.0\.1:\d+", ""),
    ("port run 80/tcp", 0, r"127\.0\.0\.1:\d+", ""),
    ("port run 81", 1, "", "No public port '81"),
    # exec
    ("exec run sh -c 'echo $K; hostname'", 0, "v\ninner", ""),
    ("exec -e K=w -e L=x run sh -c 'echo $K$L'", 0, "wx", ""),
    ("exec -w /v -u 1000:2000 run sh -c 'pwd; id -u; id -g'", 0, "/v\n1000\n2000", ""),
    ("exec --env-file {dir}/env run sh -c 'echo $FROM_FILE'", 0, "yes", ""),
    ("exec --privileged run grep CapEff /proc/self/status", 0, r"CapEff:\t[0-9a-f]*[1-9a-f][0-9a-f]*", ""),
    ("exec -d run true", 0, "", ""),
    ("exec run sh -c 'exit 9'", 9, "", ""),
    ("exec run nothing-here", 127, r".*executable file not found.*|", ""),
    ("exec -w /nowhere run true", 127, ".*|", ""),
    ("exec -u nobody-known run true", 126, "unable to find user nobody-known.*", ""),
    ("exec off true", 1, "", "is not running"),
    ("exec held true", 1, "", "is paused"),
    ("exec nobody true", 1, "", "No such container: nobody"),
    # verbs that are refused, or that have nothing to do
    ("start run", 0, "run", ""),
    ("start nobody", 1, "", "No such container: nobody"),
    ("start held", 1, "", "cannot start a paused container, try unpause instead"),
    ("stop off", 0, "off", ""),
    ("stop new", 0, "new", ""),
    ("kill off", 1, "", "is not running"),
    ("kill -s NONSENSE run", 1, "", "nvalid signal: NONSENSE"),
    ("kill -s WINCH run", 0, "run", ""),
    ("pause off", 1, "", "is not running"),
    ("pause held", 1, "", "is already paused"),
    ("unpause run", 1, "", "is not paused"),
    ("wait off", 0, "3", ""),
    ("wait new", 0, "0", ""),
    ("wait off nobody", 1, "3", "No such container: nobody"),
    ("rm run", 1, "", "container is running: stop the container before removing or force remove"),
    ("rm held", 1, "", "container is paused"),
    ("rm nobody", 1, "", "No such container: nobody"),
    ("rm -f nobody", 0, "", ""),
    ("rename run off", 1, "", "is already in use by container"),
    ("rename run run", 1, "", "Renaming a container with the same name as its current name"),
    ("rename run 'not valid'", 1, "", "Invalid container name (not valid)"),
    ("attach off", 1, "", "cannot attach to a stopped container, start it first"),
    ("attach held", 1, "", "cannot attach to a paused container, unpause it first"),
    # create and run
    ("create --name run busybox", 1, "", "is already in use by container"),
    ("create --name x -v vol:relative busybox", 1, "", "invalid"),
    ("create --pull never nothing-here", 1, "", "No such image: nothing-here"),
    ("run --rm --env-file {dir}/env busybox sh -c 'echo $FROM_FILE'", 0, "yes", ""),
    ("run --rm --label-file {dir}/labels busybox true", 0, "", ""),
    ("run --rm --volumes-from run busybox grep -c ' /v ' /proc/mounts", 0, "1", ""),
    ("run --rm --volumes-from run:ro busybox touch /v/x", 1, "", "Read-only file system"),
    ("run --rm --network container:run busybox hostname", 0, "inner", ""),
    ("run --rm --pid container:run busybox ps -o pid,args", 0, r"(?s)PID\s+COMMAND\s+1 sleep 600.*", ""),
    ("run --rm --ipc container:run busybox true", 125, "", "non-shareable IPC"),
    ("run --rm --link run:alias busybox grep -c alias /etc/hosts", 0, "1", ""),
    ("run --rm --link run:alias busybox sh -c 'echo $ALIAS_ENV_K'", 0, "v", ""),
    ("run --rm --network container:off busybox true", 125, "", "cannot join network namespace of a non running container"),
    # images
    ("images -q mine", 0, r"[0-9a-f]{12}", ""),
    ("images --format '{{.Repository}}:{{.Tag}}' -f reference=mine", 0, "mine:1", ""),
    ("images --no-trunc -q mine:1", 0, r"sha256:[0-9a-f]{64}", ""),
    ("images -f dangling=true -q", 0, "", ""),
    ("images -f before=mine:1 -f nonsense=1", 1, "", "invalid filter 'nonsense'"),
    ("image ls --digests --format '{{.Digest}}' mine", 0, r"<none>|sha256:.*", ""),
    ("image inspect -f '{{join .RepoTags \",\"}}' mine:1", 0, r"busybox:latest,mine:1|mine:1,busybox:latest", ""),
    ("image inspect nothing", 1, r"\[\]", "No such image: nothing"),
    ("history -q --no-trunc mine:1", 0, r"sha256:[0-9a-f]{64}", ""),
    ("history --format '{{.Size}}' -H=false busybox", 0, r"\d+", ""),
    ("tag nothing other", 1, "", "No such image: nothing"),
    ("tag busybox UPPER", 1, "", "invalid reference format"),
    ("rmi mine:2", 1, "", "No such image: mine:2"),
    ("rmi -f nothing", 0, "", "No such image: nothing"),
    # volumes, networks
    ("volume ls -q", 0, "vol", ""),
    ("volume ls -f label=kind=test --format '{{.Driver}} {{.Name}} {{.Scope}}'", 0, "local vol local", ""),
    ("volume ls -f dangling=true -q", 0, "", ""),
    ("volume inspect -f '{{.Mountpoint}}' vol", 0, r".*/volumes/vol/_data", ""),
    ("volume inspect nothing", 1, r"\[\]", "no such volume"),
    ("volume create vol", 0, "vol", ""),
    ("volume create 'no good'", 1, "", "invalid characters for a local volume name"),
    ("volume create -d nothing other", 1, "", "nothing"),
    ("volume rm vol", 1, "", "volume is in use"),
    ("volume rm nothing", 1, "", "no such volume"),
    ("volume rm -f nothing", 0, "nothing", ""),
    ("network ls --format '{{.Name}} {{.Driver}}'", 0, "bridge bridge\nhost host\nnone null", ""),
    ("network ls -f driver=null -q --no-trunc", 0, r"[0-9a-f]{64}", ""),
    ("network inspect -f '{{range .Containers}}{{.Name}} {{end}}' bridge", 0, r"run\s*", ""),
    ("network inspect nothing", 1, r"\[\]", "network nothing not found"),
    ("network rm host", 1, "", "is a pre-defined network and cannot be removed"),
    # the engine
    ("version -f '{{.Server.APIVersion}} {{.Server.Os}}'", 0, r"1\.\d+ linux", ""),
    ("info -f '{{.ContainersRunning}} {{.ContainersPaused}} {{.ContainersStopped}}'", 0, "1 1 2", ""),
    ("info -f '{{.Swarm.LocalNodeState}}'", 0, "inactive", ""),
    ("system info -f '{{.OSType}}'", 0, "linux", ""),
    ("swarm join --token x localhost:1", 1, "", "swarm"),
    ("node ls", 1, "", "not a swarm manager"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "code", "out", "err"), COMMANDS, ids=[row[0][:60] for row in COMMANDS])
def test_command(world: tuple[Engine, Path], command: str, code: int, out: str, err: str) -> None:
    engine, directory = world
    ran = engine.docker(*shlex.split(command.replace("{dir}", str(directory))))
    assert ran.code == code, ran
    assert re.fullmatch(out, ran.text), ran
    assert err in ran.err, ran


def test_events_of_a_life_by_filters(engine: Engine) -> None:
    engine.ok("volume", "create", "told")
    assert engine.docker("run", "--rm", "--name", "told", "-v", "told:/v", "busybox", "sh", "-c", "exit 3").code == 3
    engine.ok("volume", "rm", "told")

    def events(*filters: str, format: str) -> list[str]:
        options = [part for text in filters for part in ("-f", text)]
        return engine.ok(
            "events", "--since", "1m", "--until", f"{time.time():.9f}", *options, "--format", format
        ).split()

    assert events("container=told", "event=die", format="{{.Actor.Attributes.exitCode}}") == ["3"]
    actions = events("container=told", "type=container", format="{{.Action}}")
    assert [action for action in actions if action in ("create", "start", "die", "destroy")] == [
        "create", "start", "die", "destroy",
    ]  # fmt: skip
    # With dockerd 20.10 a use of a volume tells of its creation once more, if only to say that it was there.
    told = events("volume=told", "type=volume", format="{{.Action}}")
    assert list(dict.fromkeys(told)) == ["create", "mount", "unmount", "destroy"]
    assert set(events("type=network", "event=connect", "network=bridge", format="{{.Actor.Attributes.type}}")) == {
        "bridge"
    }
