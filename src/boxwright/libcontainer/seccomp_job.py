"""Compile a profile that came with a request, in a confined job: libseccomp does not finish with every one.

Rules with three comparisons of one call, say, can keep libseccomp 2.5.4 busy for good, and its C code hears no signal
handler: the kernel ends the job.
"""

from boxwright.libcontainer import rlimits, seccomp_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from boxwright.confined import Confinement

PROCESSOR_SECONDS = 5  # Docker's default profile takes 0.012
MEMORY_BYTES = 1 << 29  # of address space, the interpreter's included


def compile_apart(args: "dict[str, Any]", _: list[int], confinement: "Confinement") -> "dict[str, Any]":
    """{"config": an OCI `linux.seccomp` object} → {"filter": `seccomp_filter.compile` of it, as hexadecimal digits}."""
    limits = (("RLIMIT_CPU", PROCESSOR_SECONDS), ("RLIMIT_AS", MEMORY_BYTES))
    rlimits.apply(0, [{"type": name, "soft": value, "hard": value} for name, value in limits])
    confinement.enter(-1)
    return {"filter": seccomp_filter.compile(args["config"]).hex()}
