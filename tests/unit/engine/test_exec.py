"""Exec sessions against a fake driver."""

import asyncio
import os
from pathlib import Path

import pytest
from support.life import Life, lived

from boxwright.engine import exec, pause, start, stop
from boxwright.errdefs import Conflict, InvalidParameter, NotFound, StepError
from boxwright.types import ExecConfig


class Client:
    """A hijacked connection that sees what it is sent."""

    def __init__(self) -> None:
        self.opened: bool | None = None
        self.seen = b""
        self.closed = asyncio.Event()
        self.ended = False

    async def open(self, multiplexed: bool) -> None:
        self.opened = multiplexed

    async def read(self, n: int) -> bytes:
        return b""

    def write(self, data: bytes) -> None:
        self.seen += data

    async def drain(self) -> None: ...

    async def close(self) -> None:
        self.ended = True


def test_a_session_from_create_to_its_exit_code(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create()
        await start.start(life.eng, "c")
        made = await exec.create(life.eng, "c", ExecConfig(cmd=["ls", "-l"], attach_stdout=True, user="1"))
        before = exec.inspect(life.eng, made["Id"])
        assert (before["Running"], before["ExitCode"], before["ContainerID"]) == (False, None, c.id)
        assert before["ProcessConfig"] == {
            "tty": False, "entrypoint": "ls", "arguments": ["-l"], "privileged": False, "user": "1",
        }  # fmt: skip
        client = Client()
        await exec.start(life.eng, made["Id"], False, False, None, client)
        assert client.opened is True and client.ended
        assert exec.inspect(life.eng, made["Id"])["Running"] is True
        with pytest.raises(Conflict, match=f"Error: Exec command {made['Id']} is already running"):
            await exec.start(life.eng, made["Id"], True, False, None, None)
        life.driver.lives[0].hooks.event("exec_exit", {"exec_id": made["Id"], "exit_code": 4})
        after = exec.inspect(life.eng, made["Id"])
        assert (after["Running"], after["ExitCode"], after["Pid"]) == (False, 4, 4343)
        with pytest.raises(Conflict, match="has already run"):
            await exec.start(life.eng, made["Id"], True, False, None, None)
        assert life.events[2:] == ["exec_create: ls -l", "exec_start: ls -l", "exec_die"]
        await stop.kill(life.eng, "c", None)

    lived(tmp_path, work)


def test_refusals(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create()
        with pytest.raises(NotFound, match="No such exec instance: nosuch"):
            exec.inspect(life.eng, "nosuch")
        with pytest.raises(InvalidParameter, match="No exec command specified"):
            await exec.create(life.eng, "c", ExecConfig())
        with pytest.raises(Conflict, match=f"container {c.id} is not running"):
            await exec.create(life.eng, "c", ExecConfig(cmd=["true"]))
        await start.start(life.eng, "c")
        with pytest.raises(InvalidParameter, match="Invalid escape keys"):
            await exec.create(life.eng, "c", ExecConfig(cmd=["true"], detach_keys="ctrl-"))
        made = await exec.create(life.eng, "c", ExecConfig(cmd=["true"]))
        await pause.pause(life.eng, "c")
        text = f"container {c.id} is paused, unpause the container before exec"
        with pytest.raises(Conflict, match=text):
            await exec.create(life.eng, "c", ExecConfig(cmd=["true"]))
        with pytest.raises(Conflict, match=text):
            await exec.start(life.eng, made["Id"], True, False, None, None)
        await stop.kill(life.eng, "c", None)

    lived(tmp_path, work)


@pytest.mark.parametrize("attached", [True, False])
def test_a_program_that_is_not_there(tmp_path: Path, attached: bool) -> None:
    async def work(life: Life) -> None:
        life.create()
        await start.start(life.eng, "c")
        life.driver.lives[0].exec_error = StepError('exec: "x": executable file not found in $PATH', exit_code=127)
        made = await exec.create(life.eng, "c", ExecConfig(cmd=["x"], attach_stdout=True))
        if attached:
            client = Client()
            await exec.start(life.eng, made["Id"], False, False, None, client)
            length = int.from_bytes(client.seen[4:8], "big")
            assert client.seen[:4] == b"\1\0\0\0" and length == len(client.seen) - 8
            assert b"executable file not found in $PATH: unknown\r\n" in client.seen
        else:
            with pytest.raises(InvalidParameter, match="OCI runtime exec failed: "):
                await exec.start(life.eng, made["Id"], True, False, None, None)
        assert exec.inspect(life.eng, made["Id"])["ExitCode"] == 127
        await stop.kill(life.eng, "c", None)

    lived(tmp_path, work)


def test_sessions_end_with_their_container(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create()
        await start.start(life.eng, "c")
        made = await exec.create(life.eng, "c", ExecConfig(cmd=["sleep"]))
        await exec.start(life.eng, made["Id"], True, False, None, None)
        await stop.kill(life.eng, "c", None)
        assert exec.inspect(life.eng, made["Id"])["ExitCode"] == 137
        exec.forget_all(life.eng, c)
        assert life.eng.sessions == {} and c.exec_ids == []

    lived(tmp_path, work)


def test_no_descriptor_stays(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        life.create()
        await start.start(life.eng, "c")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            made = await exec.create(life.eng, "c", ExecConfig(cmd=["true"], attach_stdout=True))
            await exec.start(life.eng, made["Id"], False, True, None, Client())
        assert len(os.listdir("/proc/self/fd")) == before
        await stop.kill(life.eng, "c", None)

    lived(tmp_path, work)
