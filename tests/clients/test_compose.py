"""Debian's docker-compose 1.29.2 on the default network: a project's whole life."""

import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine import Engine, Ran, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network]
COMPOSE = Path(__file__).parents[2] / ".build/compose/docker-compose"

PROJECT = """
version: "2.4"
services:
  web:
    image: busybox
    network_mode: bridge
    command: httpd -f -v -h /site
    ports: ["127.0.0.1::80"]
    volumes: ["./site:/site:ro", "data:/data"]
    environment: {COLOUR: "${COLOUR:-blue}"}
    labels: {role: front}
    init: true
  worker:
    image: busybox
    network_mode: bridge
    links: ["web:front"]
    depends_on: [web]
    command: sh -c 'trap "exit 0" TERM; echo "worker $$COLOUR started"; while :; do sleep 0.05; done'
    environment: [COLOUR]
    volumes: ["data:/data", "/scratch"]
    tmpfs: ["/fast:size=1m"]
    mem_limit: 64m
    cap_drop: [NET_RAW]
    restart: on-failure:2
    stop_grace_period: 5s
    logging: {driver: json-file, options: {max-size: 1m}}
volumes:
  data:
    labels: {kept: "by compose"}
"""


class Project:
    """One compose project in a directory of its own."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.engine, self.directory, self.name = engine, directory, "proj"
        (directory / "docker-compose.yml").write_text(PROJECT)
        (directory / "site").mkdir()
        (directory / "site/index.html").write_text("served by compose\n")

    def __call__(self, *arguments: str, code: int = 0, env: dict[str, str] | None = None) -> Ran:
        """Run docker-compose to its end; AssertionError when it does not exit with `code`."""
        environment = {
            "DOCKER_HOST": self.engine.host,
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.directory),
        }
        done = subprocess.run(
            [str(COMPOSE), "--ansi", "never", "-p", self.name, *arguments], cwd=self.directory, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=90, env={**environment, "COLOUR": "blue", **(env or {})},
        )  # fmt: skip
        ran = Ran(done.returncode, done.stdout, done.stderr)
        assert ran.code == code, f"docker-compose {' '.join(arguments)}: {ran}"
        return ran

    def containers(self, service: str, *flags: str) -> list[str]:
        label = f"label=com.docker.compose.service={service}"
        return self.engine.ok("ps", *flags, "-q", "--no-trunc", "-f", label).split()


@pytest.fixture
def project(engine: Engine, tmp_path: Path) -> Iterator[Project]:
    if not COMPOSE.exists():
        pytest.skip("docker-compose 1.29.2 is not there: scripts/setup --dev unpacks it on Debian 12")
    made = Project(engine, tmp_path)
    yield made
    for remove, left in (("rm", engine.ok("ps", "-aq")), ("volume", engine.ok("volume", "ls", "-q"))):
        if left:
            engine.ok(*((remove, "-fv") if remove == "rm" else (remove, "rm", "-f")), *left.split())


def test_up_ps_port_logs_down(project: Project) -> None:
    project("config", "-q")
    project("up", "-d")
    listed = project("ps").out
    assert re.search(r"proj_web_1\s+httpd -f -v -h /site\s+Up\s+127\.0\.0\.1:\d+->80/tcp", listed)
    assert re.search(r"proj_worker_1\s+.*Up", listed)
    assert project("ps", "--services").out.split() == ["web", "worker"]
    assert sorted(project("ps", "-q").out.split()) == sorted(project.containers("web") + project.containers("worker"))
    address = project("port", "web", "80").out.strip()
    assert urllib.request.urlopen(f"http://{address}", timeout=10).read() == b"served by compose\n"
    wait_for(lambda: "worker blue started" in project("logs", "worker").out, "its line is logged")
    assert (
        project("logs", "--no-color", "--tail", "1", "worker").out.splitlines()[-1] == "worker_1  | worker blue started"
    )
    assert "busybox" in project("images").out
    assert "httpd -f -v -h /site" in project("top", "web").out
    down = project("down", "-t", "1").err
    assert "Removing proj_web_1" in down and "Stopping proj_worker_1" in down
    assert project.engine.ok("ps", "-aq") == ""
    assert project.engine.ok("volume", "ls", "-q", "-f", "label=kept=by compose") == "proj_data"
    project("up", "-d", "web")
    project("down", "-v", "-t", "1")
    assert project.engine.ok("ps", "-aq") == project.engine.ok("volume", "ls", "-q", "-f", "dangling=false") == ""
    assert "proj_data" not in project.engine.ok("volume", "ls", "-q").split()


def test_exec_and_run(project: Project) -> None:
    project("up", "-d")
    assert project("exec", "-T", "web", "sh", "-c", "echo $COLOUR").out == "blue\n"
    assert project(
        "exec", "-T", "-e", "X=1", "-u", "user", "-w", "/tmp", "worker", "sh", "-c", "id -un; echo $X $PWD"
    ).out == ("user\n1 /tmp\n")
    project("exec", "-T", "web", "sh", "-c", "exit 7", code=7)
    assert project("run", "--rm", "-T", "worker", "wget", "-qO-", "http://front").out == "served by compose\n"
    assert project("run", "--rm", "-T", "--no-deps", "-e", "A=b", "web", "sh", "-c", "echo $A; id -u").out == "b\n0\n"
    project("run", "--rm", "-T", "web", "sh", "-c", "exit 3", code=3)
    assert project("run", "-d", "--name", "once", "worker", "true").out.strip() == "once"
    assert project.engine.ok("wait", "once") == "0"
    assert len(project.containers("worker")) == 1


def test_volumes_are_shared_and_survive_a_new_container(project: Project) -> None:
    project("up", "-d")
    project("exec", "-T", "web", "sh", "-c", "echo kept > /data/file")
    assert project("exec", "-T", "worker", "cat", "/data/file").out == "kept\n"
    project("exec", "-T", "worker", "sh", "-c", "echo mine > /scratch/file")
    (before,) = project.containers("worker")
    assert "Recreating proj_worker_1" in project("up", "-d", env={"COLOUR": "green"}).err
    (after,) = project.containers("worker")
    assert after != before
    wait_for(lambda: "worker green started" in project("logs", "worker").out, "with its new environment")
    assert project("exec", "-T", "worker", "cat", "/data/file", "/scratch/file").out == "kept\nmine\n"
    assert "proj_web_1 is up-to-date" in project("up", "-d", "web", env={"COLOUR": "green"}).err
    assert (
        "Recreating proj_web_1"
        in project("up", "-d", "--force-recreate", "--no-deps", "web", env={"COLOUR": "green"}).err
    )


def test_scale(project: Project) -> None:
    project("up", "-d", "--scale", "worker=3")
    assert len(project.containers("worker")) == 3
    assert project("exec", "-T", "--index=3", "worker", "hostname").out
    project("scale", "worker=1")
    assert len(project.containers("worker", "-a")) == 1
    project("up", "-d", "--scale", "worker=0")
    assert project.containers("worker", "-a") == []


def test_stop_start_restart_pause_kill_rm(project: Project) -> None:
    project("up", "-d")
    (web,) = project.containers("web")
    started = project.engine.inspect(web)["State"]["StartedAt"]
    project("restart", "-t", "1", "web")
    assert project.containers("web") == [web]
    assert project.engine.inspect(web)["State"]["StartedAt"] > started
    project("pause", "web")
    assert "Paused" in project("ps").out
    project("unpause", "web")
    project("stop", "worker")
    assert project.engine.inspect(project.containers("worker", "-a")[0])["State"]["ExitCode"] == 0
    assert "Exit 0" in project("ps", "-a", "worker").out
    project("start", "worker")
    assert len(project.containers("worker")) == 1
    project("kill", "-s", "SIGKILL", "web")
    wait_for(lambda: not project.containers("web"), "it is killed")
    project("rm", "-f", "web")
    assert project.containers("web", "-a") == []
    assert len(project.containers("worker")) == 1


def test_create_then_start_and_orphans(project: Project) -> None:
    project("up", "--no-start")
    assert project.containers("web") == [] and len(project.containers("web", "-a")) == 1
    project("start")
    assert len(project.containers("web")) == 1
    (project.directory / "docker-compose.yml").write_text(PROJECT.split("  worker:")[0] + "volumes: {data: {}}\n")
    assert "Found orphan containers (proj_worker_1)" in project("up", "-d").err
    assert "Removing orphan container" in project("up", "-d", "--remove-orphans").err
    assert project.containers("worker", "-a") == []


def test_up_in_the_foreground_ends_with_its_container(project: Project) -> None:
    project.directory.joinpath("docker-compose.yml").write_text(
        'version: "2.4"\nservices: {job: {image: busybox, network_mode: bridge, command: sh -c "echo done; exit 5"}}\n'
    )
    ran = project("up", "--exit-code-from", "job", code=5)
    assert "job_1  | done" in ran.out
    assert "proj_job_1 exited with code 5" in ran.out


def test_what_cannot_be_is_told(project: Project) -> None:
    file = project.directory / "docker-compose.yml"
    file.write_text(
        'version: "2.4"\nservices: {job: {image: busybox, network_mode: bridge, command: no-such-program}}\n'
    )
    ran = project("up", "-d", code=1)
    assert "executable file not found" in ran.err
    assert "No such service: nobody" in project("up", "-d", "nobody", code=1).err
