"""OCI `linux.resources` as both versions read it: typed access, checks and conversions.

A plan is a list of groups; a group is a list of `(controller, file, value)` that are written in order.  Files of one
group bound each other (a limit and limit-with-swap): when the kernel refuses the first with EINVAL, because the value
that the second still has is in the way, the group is written in reverse.
"""

from errno import EINVAL

from boxwright.errdefs import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Resources = dict[str, Any]
    Group = list[tuple[str, str, str]]


def section(resources: "Resources", key: str) -> "Resources":
    """A sub-object of the resources, {} when absent or null."""
    found = resources.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise refused(f"linux.resources.{key}", found, "it must be an object")
    return found


def integer(values: "Resources", key: str) -> int | None:
    """An integer of a section, None when absent or null."""
    found = values.get(key)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int):
        raise refused(key, found, "it must be an integer")
    return found


def items(values: "Resources", key: str) -> "list[Resources]":
    """An array of objects, [] when absent or null."""
    found = values.get(key) or []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise refused(key, found, "it must be an array of objects")
    return found


def refused(setting: str, value: object, why: str) -> StepError:
    """The error for a setting that cannot be honoured."""
    return StepError(
        f'cgroup: cannot set {setting} to "{value}": {why}',
        step="cgroup",
        operation="check",
        path=setting,
        errno=EINVAL,
    )


def limit(value: int) -> str:
    """A v2 limit: below zero means none."""
    return "max" if value < 0 else str(value)


def shares(cpu: "Resources") -> int | None:
    """cpu.shares, None when unset (0 counts as unset).  The kernel would clamp to 2..262144 in silence."""
    value = integer(cpu, "shares")
    if not value:
        return None
    if value < 2:
        raise refused("cpu.shares", value, "the minimum allowed cpu-shares is 2")
    if value > 262144:
        raise refused("cpu.shares", value, "the maximum allowed cpu-shares is 262144")
    return value


def check_use(memory: "Resources", used: "Callable[[], int]") -> None:
    """`checkBeforeUpdate`: refuse a memory limit below what is in use; it would kill, or hang in reclaim."""
    limit = integer(memory, "limit")
    if memory.get("checkBeforeUpdate") and limit is not None and limit > 0 and (now := used()) > limit:
        raise refused("memory.limit", limit, f"{now} bytes are in use")


def device(item: "Resources") -> str:
    """The "major:minor" of a block I/O entry."""
    major, minor = integer(item, "major"), integer(item, "minor")
    if major is None or minor is None:
        raise refused("blockIO device", item, "major and minor are needed")
    return f"{major}:{minor}"


def page_size(item: "Resources") -> str:
    """A huge page size as the kernel's file names spell it ("2MB", "1GB")."""
    size = item.get("pageSize")
    if not isinstance(size, str) or not size or not size.isalnum():
        raise refused("hugepageLimits.pageSize", size, "no such page size")
    return size


def rdma(resources: "Resources") -> "list[Group]":
    """rdma.max is the same file in both versions."""
    plan = []
    for name, item in section(resources, "rdma").items():
        fields = {"hca_handle": integer(item, "hcaHandles"), "hca_object": integer(item, "hcaObjects")}
        text = " ".join(f"{k}={v}" for k, v in fields.items() if v is not None)
        plan.append([("rdma", "rdma.max", f"{name} {text}")])
    return plan
