"""A spec against what this runtime and this host can do, before anything is made.

`check` raises errdefs.InvalidParameter for what contradicts itself or would change the host, errdefs.NotImplemented_
for what is not supported (by name, and only where it is not zero), and returns warnings for what is left out.
"""

import os

from boxwright import errdefs
from boxwright.libcontainer import sysctls
from boxwright.linux import capabilities, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Spec = dict[str, Any]

_OOM_SCORES = range(-1000, 1001)
_MAX_HOSTNAME = 64  # __NEW_UTS_LEN
# Not supported, each by its path in the spec.
_UNSUPPORTED: tuple[tuple[str, ...], ...] = (
    ("process", "apparmorProfile"),
    ("process", "selinuxLabel"),
    ("process", "scheduler"),
    ("process", "ioPriority"),
    ("process", "execCPUAffinity"),
    ("linux", "mountLabel"),
    ("linux", "intelRdt"),
    ("linux", "personality"),
    ("linux", "timeOffsets"),
    ("linux", "netDevices"),
    ("linux", "memoryPolicy"),
    ("hooks",),
    ("vm",),
)
# sysctls that belong to an IPC namespace (Documentation/admin-guide/sysctl/kernel.rst, fs.rst).
_IPC_SYSCTLS = frozenset(
    (
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    )
)


def check(spec: "Spec") -> list[str]:
    """Warnings about `spec`; raises for what cannot be honoured."""
    process = spec.get("process") or {}
    linux = spec.get("linux") or {}
    own = {item.get("type") for item in linux.get("namespaces") or ()}
    _check_process(process)
    _check_names(spec, own)
    _check_namespaces(linux, own)
    for key in linux.get("sysctl") or {}:
        _check_sysctl(key, linux.get("namespaces") or [])
    for mount in spec.get("mounts") or ():
        _check_mount(mount)
    for names in (linux.get("maskedPaths") or (), linux.get("readonlyPaths") or ()):
        for path in names:
            if not path.startswith("/"):
                raise errdefs.InvalidParameter(f"masked and read-only paths must be absolute: {path}")
    _check_unsupported(spec)
    return _missing_capabilities(process)


def _check_process(process: "Spec") -> None:
    if not process.get("args"):
        raise errdefs.InvalidParameter("no command specified")
    cwd = process.get("cwd") or "/"
    if not cwd.startswith("/"):
        raise errdefs.InvalidParameter(f"the working directory '{cwd}' is invalid, it needs to be an absolute path")
    score = process.get("oomScoreAdj")
    if score is not None and score not in _OOM_SCORES:
        raise errdefs.InvalidParameter(f"Invalid value {score}, range for oom score adj is [-1000, 1000]")
    seen = set()
    for limit in process.get("rlimits") or ():
        name, soft, hard = limit.get("type"), limit.get("soft"), limit.get("hard")
        if name in seen:
            raise errdefs.InvalidParameter(f"resource limit {name} is named twice")
        seen.add(name)
        if not isinstance(soft, int) or not isinstance(hard, int):
            raise errdefs.InvalidParameter(f"resource limit {name} needs a soft and a hard value")
    for kind, names in (process.get("capabilities") or {}).items():
        for name in names or ():
            if name not in capabilities.NUMBERS:
                raise errdefs.InvalidParameter(f"unknown capability in {kind}: {name}")
    for text in (*process["args"], cwd):
        if "\0" in text:
            raise errdefs.InvalidParameter("arguments and working directory cannot hold NUL bytes")


def _check_names(spec: "Spec", own: "set[Any]") -> None:
    for key in ("hostname", "domainname"):
        name = spec.get(key) or ""
        if name and "uts" not in own:
            raise errdefs.InvalidParameter(f"unable to set {key} without a private UTS namespace")
        if len(os.fsencode(name)) > _MAX_HOSTNAME:
            raise errdefs.InvalidParameter(f"{key} is longer than {_MAX_HOSTNAME} bytes: {name}")


def _check_namespaces(linux: "Spec", own: "set[Any]") -> None:
    for kind in own:
        if kind not in namespaces.KINDS:
            raise errdefs.InvalidParameter(f"unknown namespace type: {kind}")
    if "mount" not in own:
        raise errdefs.InvalidParameter("a container needs a mount namespace of its own")
    made = {item.get("type") for item in linux.get("namespaces") or () if not item.get("path")}
    maps = (linux.get("uidMappings"), linux.get("gidMappings"))
    if "user" in made and not all(maps):
        raise errdefs.InvalidParameter("a user namespace needs uidMappings and gidMappings")
    if "user" not in made and any(maps):
        raise errdefs.InvalidParameter("id mappings need a new user namespace")


def _check_sysctl(key: str, items: "list[Spec]") -> None:
    """Only what belongs to a namespace of the container's own may be set: the rest is the host's."""
    path = sysctls.path_of(key)
    if ".." in path.split("/"):
        raise errdefs.InvalidParameter(f"sysctl {key!r} is not a name")
    kind = "network" if path.startswith("net/") else ""
    if path in _IPC_SYSCTLS or path.startswith("fs/mqueue/"):
        kind = "ipc"
    if path == "kernel/domainname":
        kind = "uts"
    if path == "kernel/hostname":
        raise errdefs.InvalidParameter('sysctl "kernel.hostname" is set by the hostname')
    if not kind or not any(item.get("type") == kind and not _is_host(kind, item.get("path")) for item in items):
        raise errdefs.InvalidParameter(f'sysctl "{key}" is not in a separate kernel namespace')


def _is_host(kind: str, path: str | None) -> bool:
    """Whether a namespace path leads to our own namespace: named by path, it is still the host's."""
    if not path:
        return False
    try:
        return os.stat(path).st_ino == os.stat(f"/proc/self/ns/{namespaces.KINDS[kind][1]}").st_ino
    except OSError:
        return False


def _check_mount(mount: "Spec") -> None:
    destination = mount.get("destination") or ""
    if not destination.startswith("/"):
        raise errdefs.InvalidParameter(f"mount destination {destination} is not an absolute path")
    if mount.get("uidMappings") or mount.get("gidMappings"):
        raise errdefs.NotImplemented_(f"id-mapped mounts are not supported: {destination}")


def _check_unsupported(spec: "Spec") -> None:
    for path in _UNSUPPORTED:
        value: Any = spec
        for name in path:
            value = (value or {}).get(name)
        if isinstance(value, dict):
            value = any(value.values())
        if value:
            raise errdefs.NotImplemented_(f"{'.'.join(path)} is not supported")


def _missing_capabilities(process: "Spec") -> list[str]:
    """Capabilities that the engine itself does not have cannot be given on."""
    wanted = {name for names in (process.get("capabilities") or {}).values() for name in names or ()}
    ours = capabilities.permitted()
    missing = sorted(name for name in wanted if not ours >> capabilities.NUMBERS[name] & 1)
    return [f"{name} is not available on this host and left out" for name in missing]
