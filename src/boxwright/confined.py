"""Confined jobs: what needs a root or reads hostile bytes runs in a child of the worker launcher that has nothing else.

Interfaces only.  `launcher/` implements both sides; whoever wires the engine hands `Jobs` to the layers below.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

Args = dict[str, Any]


class Jobs(Protocol):
    """Runs confined jobs; the engine's side."""

    async def run(
        self,
        kind: str,
        args: Args,
        fds: Sequence[int] = (),
        progress: Callable[[Args], None] | None = None,
    ) -> Args:
        """Run the job `kind` in a fresh child; descriptors stay the caller's.

        Raises the errdefs error that the job reported, System when it died without a word.
        """
        ...


class Confinement(Protocol):
    """What a job function is given; the child's side."""

    def emit(self, progress: Args) -> None:
        """Send one progress message to the engine (small, JSON)."""
        ...

    def helper(self, function: Callable[[int], None], keep: Sequence[int]) -> tuple[int, Callable[[], str]]:
        """Run `function(out)` in a forked child that has no rights, no root and only the descriptors of `keep`.

        Returns the other end of the pipe `out`, and a function that waits for the child's end and returns what went
        wrong, "" when nothing did.  Before `enter`.
        """
        ...

    def programs(
        self, function: Callable[[int], None], keep: Sequence[int], work: int, largest: int
    ) -> tuple[int, Callable[[], str]]:
        """As `helper`, but the child may run the host's programs and has its network.

        It is nobody, the first process of its own pid namespace, and sees of the host what programs and name look-ups
        need (/usr, certificates), read-only; the directory `work` is its /work, to write in, and it owns it.
        largest: of any file that it writes, bytes.  Before `enter`, which makes the job nobody, too.
        """
        ...

    def isolate(self, fd: int, *, readonly: bool = False) -> int:
        """A descriptor of the same directory from which no ".." leads up; closes `fd`.  Before `enter`.

        readonly: nothing can be written through it.
        """
        ...

    def enter(self, root_fd: int, *, detached: bool = False, readonly: bool = False) -> int:
        """Give up everything but what the job is for.  Exactly once; every job has to.

        The directory `root_fd` becomes the root (-1: an empty one that cannot be written; detached: `root_fd` is a
        mount that is not attached yet; readonly: it cannot be written to), and what the job's row in the table does not
        name goes: capabilities, new privileges, imports.  Closes `root_fd`, returns a descriptor of the new root.
        """
        ...
