"""`run` in the foreground: pass signals on, copy between our terminal and the container's, wait for the end."""

import errno
import fcntl
import os
import select
import struct
import termios

from boxwright.libcontainer import console
from boxwright.linux import pidfd, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from boxwright.libcontainer.process import InitProcess

_KEPT = {signals.SIGCHLD, signals.SIGKILL, signals.SIGSTOP, signals.SIGPIPE, signals.SIGURG}
_CHUNK = 32768
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6  # of tcgetattr's list


class Watch:
    """Signals and terminal from before the program runs until it has ended; a context manager."""

    __slots__ = ("_before", "_notify", "_wake", "process", "with_terminal")

    def __init__(self, process: "InitProcess", with_terminal: bool) -> None:
        self.process, self.with_terminal = process, with_terminal

    def __enter__(self) -> "Watch":
        self._wake, self._notify = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signals.wake(self._notify)
        for number in signals.ALL - _KEPT:
            signals.handle(number, _note)
        self._before = _make_raw() if self.with_terminal else None
        if self.with_terminal:
            _copy_size(self.process.console_fd)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._before is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._before)
        signals.wake(-1)
        os.close(self._wake)
        os.close(self._notify)

    def wait(self) -> int:
        """Until the program ends; its exit code (128 plus the signal's number when killed)."""
        _loop(self.process, self._wake, self.with_terminal)
        return pidfd.wait(self.process.pidfd)


def _note(number: int, frame: "Any") -> None:
    """The wakeup descriptor has told the loop already."""


def _loop(process: "InitProcess", wake: int, with_terminal: bool) -> None:
    poller = select.poll()
    poller.register(process.pidfd, select.POLLIN)
    poller.register(wake, select.POLLIN)
    if with_terminal:
        poller.register(0, select.POLLIN)
        poller.register(process.console_fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if wake in ready:
            _pass_signals(process, os.read(wake, 512), with_terminal)
        if with_terminal and 0 in ready and not _copy(0, process.console_fd):
            poller.unregister(0)
        if with_terminal and process.console_fd in ready and not _copy(process.console_fd, 1):
            poller.unregister(process.console_fd)
            with_terminal = False
        if process.pidfd in ready:
            while with_terminal and poller.poll(0) and _copy(process.console_fd, 1):
                pass
            return


def _pass_signals(process: "InitProcess", numbers: bytes, with_terminal: bool) -> None:
    for number in numbers:
        if number == signals.SIGWINCH and with_terminal:
            _copy_size(process.console_fd)
            continue
        try:
            pidfd.send_signal(process.pidfd, number)
        except ProcessLookupError:
            return


def _copy(source: int, target: int) -> bool:
    """One read, written whole; False at the end (a pty whose slaves are closed gives EIO)."""
    try:
        data = os.read(source, _CHUNK)
    except OSError as error:
        if error.errno == errno.EIO:
            return False
        raise
    left = memoryview(data)
    while left:
        left = left[os.write(target, left) :]
    return bool(data)


def _make_raw() -> "list[Any] | None":
    """Our terminal without line editing, echo and signals: those happen in the container's.  None without one."""
    if not os.isatty(0):
        return None
    before = termios.tcgetattr(0)
    raw = termios.tcgetattr(0)
    raw[_IFLAG] &= ~(termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON)
    raw[_OFLAG] &= ~termios.OPOST
    raw[_CFLAG] = raw[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    raw[_LFLAG] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
    raw[_CC][termios.VMIN], raw[_CC][termios.VTIME] = 1, 0
    termios.tcsetattr(0, termios.TCSADRAIN, raw)
    return before


def _copy_size(master: int) -> None:
    if os.isatty(0):
        height, width, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
        console.resize(master, height, width)
