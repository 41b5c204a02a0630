"""A program on a pseudo-terminal: what a person at a keyboard sees and types."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time


class Terminal:
    """Run `command` on a pty of `rows` by `columns`; `expect` waits for a pattern in what has not been matched yet."""

    def __init__(
        self, command: list[str], rows: int = 24, columns: int = 80, env: dict[str, str] | None = None
    ) -> None:
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env={**os.environ, **(env or {})},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, pattern: str, deadline: float = 20) -> re.Match[str]:
        """Wait for `pattern`; AssertionError with what came instead. What was matched is consumed."""
        end = time.monotonic() + deadline
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            try:
                data = os.read(self.master, 65536) if ready else b""
            except OSError:  # EIO: the last process of the terminal is gone
                data = b""
            if not data:
                raise AssertionError(f"no {pattern!r} on the terminal, but {self.seen!r}")
            self.seen += data.decode(errors="replace")
        self.seen = self.seen[found.end() :]
        return found

    def wait(self, deadline: float = 20) -> int:
        """Exit code of the program; output is drained, so that a full pty does not hold it."""
        end = time.monotonic() + deadline
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise AssertionError(f"still running; the terminal shows {self.seen!r}")
            if select.select([self.master], [], [], 0.02)[0]:
                try:
                    self.seen += os.read(self.master, 65536).decode(errors="replace")
                except OSError:
                    continue
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
