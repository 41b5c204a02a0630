"""A seccomp filter, made short: the same verdict for every call, with ranges of numbers instead of single ones.

The kernel checks, converts and compiles a filter each time that a process installs it, which costs as the filter is
long.  libseccomp compares number by number.  Here its program is run on all numbers of an architecture at once: what
that gives is a verdict for each range, or the comparisons of arguments that are left to be made.  From these a new
program is written, with a binary search over the ranges' bounds and with equal ends shared.

Only what libseccomp and `seccomp_filter` write is understood, and only programs of a bounded amount of work; any other
stays as it is.
"""

import struct
from collections.abc import Iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    # (operation, operand) of a return; (offset, mask, operation, operand, then, otherwise) of a comparison.
    Tree = tuple[Any, ...]
    # Ranges of system call numbers, both ends included, ascending.
    Ranges = tuple[tuple[int, int], ...]

# Classic BPF (include/uapi/linux/bpf_common.h) as seccomp takes it; offsets in struct seccomp_data.
_LOAD, _STORE, _RELOAD, _AND, _JUMP, _RETURN = 0x20, 0x02, 0x60, 0x54, 0x05, 0x06
_EQUAL, _GREATER, _AT_LEAST, _ANY_BIT = 0x15, 0x25, 0x35, 0x45
_NUMBER, _ARCH = 0, 4
_ALL = 0xFFFFFFFF

_MOST_STEPS = 20_000  # of the symbolic run; the default policy takes 2,400
_DEEPEST = 150  # calls within calls, well below Python's own limit
_CHAIN = 3  # single numbers looked at one after the other at an end of the search
_FAR = 255  # instructions that a conditional jump reaches


class _NotUnderstood(Exception):
    """The program stays as it is."""


def shorten(program: bytes) -> bytes:
    """A program with the verdict of `program` for every architecture, number and arguments; never a longer one."""
    run, writer = _Run(list(struct.iter_unpack("=HBBI", program))), _Writer()
    try:
        otherwise = run.verdicts(None)
        # Each run may meet more architectures that the program asks for.
        known: dict[int, list[tuple[int, int, Tree]]] = {}
        while unknown := [token for token in run.asked if token not in known]:
            known |= {token: run.verdicts(token) for token in unknown}
        shorter = writer.program(known, otherwise)
    except _NotUnderstood:
        return program
    return shorter if len(shorter) < len(program) else program


class _Run:
    """Runs a program on sets of system call numbers, on one architecture at a time."""

    def __init__(self, code: "list[tuple[int, ...]]") -> None:
        self._code = code
        self._steps = 0
        self.asked: dict[int, None] = {}
        """The architectures that the program has compared with so far, in that order."""

    def verdicts(self, arch: int | None) -> "list[tuple[int, int, Tree]]":
        """(first number, last number, what to do), covering all numbers; None: an architecture that nothing names."""
        found = self._from(0, ("arch", _ALL), {}, ((0, _ALL),), arch, 0)
        pieces = sorted((first, last, tree) for ranges, tree in found for first, last in ranges)
        merged: list[tuple[int, int, Tree]] = []
        for first, last, tree in pieces:
            if merged and merged[-1][2] == tree:
                first = merged.pop()[0]
            merged.append((first, last, tree))
        return merged

    def _from(
        self, at: int, held: "Any", memory: "dict[int, Any]", numbers: "Ranges", arch: int | None, depth: int
    ) -> "list[tuple[Ranges, Tree]]":
        """What becomes of `numbers` from instruction `at` on.

        held: what the accumulator has, as (what, mask); memory: the same of the scratch cells.
        """
        if depth > _DEEPEST:
            raise _NotUnderstood
        done: list[tuple[Ranges, Tree]] = []
        while numbers:
            self._steps += 1
            if self._steps > _MOST_STEPS or at >= len(self._code):
                raise _NotUnderstood
            operation, then, otherwise, k = self._code[at]
            at += 1
            if operation == _LOAD:
                held = (k, _ALL)
            elif operation == _STORE:
                memory = {**memory, k: held}
            elif operation == _RELOAD and k in memory:
                held = memory[k]
            elif operation == _AND:
                held = (held[0], held[1] & k)
            elif operation == _JUMP:
                at += k
            elif operation == _RETURN:
                return [*done, (numbers, (_RETURN, k))]
            elif operation not in (_EQUAL, _GREATER, _AT_LEAST, _ANY_BIT):
                raise _NotUnderstood
            elif held == (_ARCH, _ALL) and operation == _EQUAL:
                self.asked[k] = None
                at += then if k == arch else otherwise
            elif held == (_NUMBER, _ALL) and operation != _ANY_BIT:
                yes, no = _split(numbers, operation, k)
                if yes:
                    done += self._from(at + then, held, memory, yes, arch, depth + 1)
                at, numbers = at + otherwise, no
            elif held[0] in (_NUMBER, _ARCH, "arch"):
                raise _NotUnderstood
            else:
                yes_ends = self._from(at + then, held, memory, numbers, arch, depth + 1)
                no_ends = self._from(at + otherwise, held, memory, numbers, arch, depth + 1)
                self._steps += len(yes_ends) * len(no_ends)
                return done + [
                    (common, yes if yes == no else (*held, operation, k, yes, no))
                    for some, yes in yes_ends
                    for others, no in no_ends
                    if (common := _common(some, others))
                ]
        return done


def _split(numbers: "Ranges", operation: int, k: int) -> "tuple[Ranges, Ranges]":
    """Those for which the comparison holds, and the others."""
    first = k + 1 if operation == _GREATER else k
    last = k if operation == _EQUAL else _ALL
    holds = ((first, last),) if first <= last else ()
    fails = tuple(r for r in ((0, first - 1), (last + 1, _ALL)) if r[0] <= r[1])
    return _common(numbers, holds), _common(numbers, fails)


def _common(some: "Ranges", others: "Ranges") -> "Ranges":
    """The numbers that are in both."""
    found = []
    i = j = 0
    while i < len(some) and j < len(others):
        first, last = max(some[i][0], others[j][0]), min(some[i][1], others[j][1])
        if first <= last:
            found.append((first, last))
        if some[i][1] < others[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


class _Writer:
    """Writes a program from its end: jumps lead forward only, so that where they lead to is there already."""

    def __init__(self) -> None:
        self._code: list[bytes] = []  # the last instruction first
        self._written: dict[Tree, int] = {}  # its length when the tree's first instruction had been written

    def program(
        self, known: "dict[int, list[tuple[int, int, Tree]]]", otherwise: "list[tuple[int, int, Tree]]"
    ) -> bytes:
        """Everything: the verdicts of each architecture, the first to be asked for first, and of all others."""
        at = self._block(otherwise)
        for token, block in [(token, self._block(known[token])) for token in reversed(known)]:
            at = self._branch(_EQUAL, token, block, at)
        self._line(_LOAD, _ARCH)
        return b"".join(reversed(self._code))

    def _block(self, verdicts: "list[tuple[int, int, Tree]]") -> int:
        """The part of one architecture; returns where it is."""
        if len(verdicts) == 1:
            return self._tree(verdicts[0][2])
        self._search(list(_ends(verdicts)))
        return self._line(_LOAD, _NUMBER)

    def _search(self, ends: "list[tuple[int, list[tuple[int, Tree]], Tree]]") -> int:
        """The number is in the accumulator: find its end among `ends`, ascending by first number."""
        if len(ends) > 1:
            middle = len(ends) // 2
            below = self._search(ends[:middle])
            above = self._search(ends[middle:])
            return self._branch(_AT_LEAST, ends[middle][0], above, below)
        _, singles, tree = ends[0]
        at = self._tree(tree)
        for number, other in singles:
            at = self._branch(_EQUAL, number, self._tree(other), at)
        return at

    def _tree(self, tree: "Tree") -> int:
        """Comparisons of arguments, or a return; equal ones are written once, and a return anew where it is far."""
        at = self._written.get(tree)
        if at is not None and (tree[0] != _RETURN or len(self._code) - at < _FAR // 2):
            return at
        if len(tree) == 2:
            at = self._line(_RETURN, tree[1])
        else:
            offset, mask, operation, k, yes, no = tree
            no_at = self._tree(no)
            at = self._branch(operation, k, self._tree(yes), no_at)
            if mask != _ALL:
                at = self._line(_AND, mask)
            at = self._line(_LOAD, offset)
        self._written[tree] = at
        return at

    def _branch(self, operation: int, k: int, then: int, otherwise: int) -> int:
        """A conditional jump to two places that are written."""
        if len(self._code) - otherwise > _FAR - 1:
            otherwise = self._line(_JUMP, len(self._code) - otherwise)
        if len(self._code) - then > _FAR:
            then = self._line(_JUMP, len(self._code) - then)
        here = len(self._code)
        return self._line(operation, k, here - then, here - otherwise)

    def _line(self, operation: int, k: int, then: int = 0, otherwise: int = 0) -> int:
        self._code.append(struct.pack("=HBBI", operation, then, otherwise, k))
        return len(self._code)


def _ends(verdicts: "list[tuple[int, int, Tree]]") -> "Iterator[tuple[int, list[tuple[int, Tree]], Tree]]":
    """(first number, single numbers with ends of their own, the end of all others): what a search leads to.

    One number that differs from both its neighbours takes one comparison there, and two bounds in the search.
    """
    at = 0
    while at < len(verdicts):
        first, _, tree = verdicts[at]
        singles: list[tuple[int, Tree]] = []
        while (
            len(singles) < _CHAIN
            and at + 2 < len(verdicts)
            and verdicts[at + 1][0] == verdicts[at + 1][1]
            and verdicts[at + 2][2] == tree
        ):
            singles.append((verdicts[at + 1][0], verdicts[at + 1][2]))
            at += 2
        yield first, singles, tree
        at += 1
