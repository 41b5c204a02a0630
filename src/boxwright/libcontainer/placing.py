"""What a process gets through the host's cgroupfs and procfs, which the container cannot redirect: its cgroup, its OOM
score, the maps of its user namespace."""

import os

from boxwright.libcontainer import faults

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxwright.libcontainer.cgroups import Manager


def enter(cgroup: "Manager | None", score: int | None) -> None:
    """Move the calling process, of one thread, to `cgroup` (v1) and set its OOM score."""
    if cgroup is not None:
        cgroup.enter()
    adjust_oom_score("self", score)


def adjust_oom_score(pid: "int | str", value: int | None) -> None:
    """Set /proc/PID/oom_score_adj, in the host's procfs: the container cannot redirect it."""
    if value is not None:
        message = f"cannot set oom_score_adj to {value}"
        _write(f"/proc/{pid}/oom_score_adj", str(value), "oom_score_adj", message)


def write_id_maps(pid: int, uids: "list[dict[str, int]]", gids: "list[dict[str, int]]") -> None:
    """Give the user namespace of `pid` its maps (OCI `uidMappings`, `gidMappings`); one write each, by the kernel's
    rule."""
    for name, mappings in (("uid_map", uids), ("gid_map", gids)):
        lines = [f"{m['containerID']} {m['hostID']} {m['size']}\n" for m in mappings]
        _write(f"/proc/{pid}/{name}", "".join(lines), "namespaces", f"cannot set {name} to {'; '.join(lines)}")


def _write(path: str, text: str, step: str, message: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        hint = "lowering it needs CAP_SYS_RESOURCE in the engine" if step == "oom_score_adj" else ""
        raise faults.step_error(error, step, message, path, hint) from error
