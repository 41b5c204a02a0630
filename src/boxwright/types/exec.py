"""Exec sessions: what create and start take."""

from typing import ClassVar

from .base import ConsoleSize, Int64, Model, StrSlice


class ExecConfig(Model):
    """Body of POST /containers/{id}/exec; `timeout` is ours: seconds after which it is killed, 0 for never."""

    omitempty: ClassVar = frozenset({"timeout"})
    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: ConsoleSize | None = None
    attach_stdin: bool = False
    attach_stderr: bool = False
    attach_stdout: bool = False
    detach: bool = False
    detach_keys: str = ""
    env: list[str] | None = None
    working_dir: str = ""
    cmd: StrSlice | None = None
    timeout: Int64 = 0


class ExecStartConfig(Model):
    """Body of POST /exec/{id}/start; `console_size` is (height, width)."""

    detach: bool = False
    tty: bool = False
    console_size: ConsoleSize | None = None
