"""The device policy of a v2 group: an eBPF program, since v2 has no devices controller."""

import os

from boxwright.libcontainer.cgroups import files
from boxwright.linux import bpf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxwright.libcontainer.devices import Policy

# include/uapi/linux/bpf.h, struct bpf_cgroup_dev_ctx: access_type is access << 16 | type.
_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_ALL = 7

# Registers: the verdict, the context, then what is taken out of it, and a scratch register.
_R0, _CONTEXT, _TYPE, _WANTED, _MAJOR, _MINOR, _SCRATCH = range(7)


def program(policy: "Policy") -> bytes:
    """The instructions for a policy: each exception in turn, then the default.  1 permits, 0 denies."""
    code = [
        bpf.load32(_TYPE, _CONTEXT, 0),
        bpf.mov(_WANTED, _TYPE),
        bpf.and_imm(_TYPE, 0xFFFF),
        bpf.rsh_imm(_WANTED, 16),
        bpf.load32(_MAJOR, _CONTEXT, 4),
        bpf.load32(_MINOR, _CONTEXT, 8),
    ]
    for (kind, major, minor), access in policy.exceptions.items():
        code += _exception(policy.allow, kind, major, minor, access)
    code += [bpf.mov_imm(_R0, int(policy.allow)), bpf.exit_()]
    return b"".join(code)


def _exception(default: bool, kind: str, major: int, minor: int, access: str) -> list[bytes]:
    """Conditions that jump over the verdict when they do not hold, then the verdict."""
    mask = sum(_ACCESS[letter] for letter in access)
    # Each condition is (instructions before the jump, jump as a function of its distance).
    steps: list[tuple[list[bytes], bytes]] = [([], bpf.jump_not_imm(_TYPE, _TYPES[kind], 0))]
    test = [bpf.mov(_SCRATCH, _WANTED), bpf.and_imm(_SCRATCH, mask)]
    if default:
        # Taking away: any of the access asked for is enough.
        steps.append((test, bpf.jump_is_imm(_SCRATCH, 0, 0)))
    elif mask != _ALL:
        # Granting: all of it must be covered.
        steps.append((test, bpf.jump_not(_SCRATCH, _WANTED, 0)))
    if major >= 0:
        steps.append(([], bpf.jump_not_imm(_MAJOR, major, 0)))
    if minor >= 0:
        steps.append(([], bpf.jump_not_imm(_MINOR, minor, 0)))
    verdict = [bpf.mov_imm(_R0, int(not default)), bpf.exit_()]
    left = sum(len(before) + 1 for before, _ in steps) + len(verdict)
    code: list[bytes] = []
    for before, jump in steps:
        left -= len(before) + 1
        code += [*before, bpf.with_offset(jump, left)]
    return code + verdict


def attach(directory: str, policy: "Policy") -> None:
    """Make the group's device program that of `policy`; an earlier one of the group is replaced in one step.

    Nothing is attached for a policy that allows all unless there is one to replace.  Raises StepError.
    """
    try:
        group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            old = bpf.query(group, bpf.CGROUP_DEVICE, directory)
            if not old and policy.allow and not policy.exceptions:
                return
            _attach(group, directory, program(policy), old)
        finally:
            os.close(group)
    except OSError as error:
        raise files.failure("attach the device program to", directory, error) from error


def _attach(group: int, directory: str, code: bytes, old: list[int]) -> None:
    new = bpf.load(bpf.PROG_TYPE_CGROUP_DEVICE, bpf.CGROUP_DEVICE, code, "boxwright_dev")
    try:
        if len(old) == 1:
            replaced = bpf.by_id(old[0])
            try:
                bpf.attach(group, new, bpf.CGROUP_DEVICE, bpf.F_ALLOW_MULTI | bpf.F_REPLACE, directory, replaced)
            finally:
                os.close(replaced)
            return
        bpf.attach(group, new, bpf.CGROUP_DEVICE, bpf.F_ALLOW_MULTI, directory)
        for one in old:
            previous = bpf.by_id(one)
            try:
                bpf.detach(group, previous, bpf.CGROUP_DEVICE, directory)
            finally:
                os.close(previous)
    finally:
        # The group holds the program from here on.
        os.close(new)
