"""A container's seccomp profile → a file with its compiled filter.

Docker's profile language is resolved against the container's capabilities, this machine and this kernel to an OCI
`linux.seccomp` object, which `libcontainer.seccomp_filter` compiles.  Compiled filters are kept under
`<data_root>/seccomp/` by what went into them, and their paths in memory: a start only looks one up.  A profile that is
not the built-in one is compiled by a confined job, which is ended when libseccomp does not finish with it.
"""

import asyncio
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterable
from typing import Any

from boxwright.confined import Jobs
from boxwright.errdefs import InvalidParameter, StepError
from boxwright.launcher.jobs import JobDied
from boxwright.libcontainer import seccomp, seccomp_filter, seccomp_job
from boxwright.linux import libseccomp
from boxwright.specs import seccomp_default

UNCONFINED = "unconfined"
BUILTIN = ("builtin", "default")

# How many compiled filters stay, on disk and in memory: profiles come with requests.
KEEP = 256
# Raised when this code would compile the same profile to something else.
_FORMAT = "2"

# uname -m → the names that profiles use for it: Docker's (Go's) and libseccomp's.
_MACHINES = {
    "x86_64": ("amd64", "X86_64"),
    "aarch64": ("arm64", "AARCH64"),
    "ppc64le": ("ppc64le", "PPC64LE"),
    "s390x": ("s390x", "S390X"),
    "riscv64": ("riscv64", "RISCV64"),
    "loongarch64": ("loong64", "LOONGARCH64"),
    "mips64": ("mips64", "MIPS64"),
    "i686": ("386", "X86"),
    "armv7l": ("arm", "ARM"),
}
_OPERATORS = {"==": "SCMP_CMP_EQ", "&": "SCMP_CMP_MASKED_EQ"}


class Host:
    """What a profile is resolved against.

    machine: as `uname -m` has it.  kernel: (major, minor).
    """

    __slots__ = ("kernel", "machine")

    def __init__(self, machine: str = "", kernel: tuple[int, int] | None = None) -> None:
        uname = os.uname()
        self.machine = machine or uname.machine
        self.kernel = kernel or kernel_version(uname.release)


class Seccomp:
    """Compiles profiles and keeps what it compiled."""

    def __init__(self, data_root: str, jobs: Jobs, default: str = "", host: Host | None = None) -> None:
        """default: the daemon's profile for containers that name none: "" (the built-in), "unconfined" or JSON."""
        self.directory = os.path.join(data_root, "seccomp")
        self.default = default
        self.host = host or Host()
        self._jobs = jobs
        self._known: dict[tuple[str, tuple[str, ...]], str] = {}
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        self._prune()

    async def compile(self, profile: str, capabilities: Iterable[str]) -> str | None:
        """The path of the compiled filter; None for no filter.

        profile: "" (the daemon's default), "builtin", "unconfined", or the JSON text of a profile in Docker's or the
        OCI's form.
        capabilities: the bounding set ("CAP_CHOWN", ...).
        Does not wait when the filter is known.  Raises InvalidParameter for a bad profile.
        """
        text = profile or self.default
        if text == UNCONFINED:
            return None
        key = (text, tuple(sorted(capabilities)))
        path = self._known.get(key)
        if path is None or not os.path.exists(path):
            path = await self._compile(*key)
            if len(self._known) >= KEEP:
                self._known.clear()
            self._known[key] = path
        return path or None

    async def _compile(self, text: str, capabilities: tuple[str, ...]) -> str:
        config, path, there = await asyncio.to_thread(self._look, text, capabilities)
        if config is not None and not there:
            ours = text == "" or text in BUILTIN
            program = await (asyncio.to_thread(seccomp_filter.compile, config) if ours else self._apart(config))
            await asyncio.to_thread(_replace, path, program)
        return path

    def _look(self, text: str, capabilities: tuple[str, ...]) -> tuple[dict[str, Any] | None, str, bool]:
        """What is to be compiled, the path of its filter, and whether that is there."""
        config = resolve(load(text), set(capabilities), self.host)
        if config is None:
            return None, "", False
        what = json.dumps([_FORMAT, libseccomp.version(), os.uname().release, self.host.machine, config])
        path = os.path.join(self.directory, hashlib.sha256(what.encode()).hexdigest() + ".bpf")
        return config, path, _usable(path)

    async def _apart(self, config: dict[str, Any]) -> bytes:
        try:
            result = await self._jobs.run("seccomp.compile", {"config": config})
        except JobDied:
            version, limit = libseccomp.version(), seccomp_job.PROCESSOR_SECONDS
            raise InvalidParameter(
                f"seccomp: libseccomp {version} does not finish compiling the profile within {limit} s"
            ) from None
        return bytes.fromhex(result["filter"])

    def _prune(self) -> None:
        """Remove what has not been used for longest, and what a crash left half-written."""
        used = []
        for entry in os.scandir(self.directory):
            if entry.name.endswith(".bpf"):
                used.append((entry.stat().st_mtime, entry.path))
            else:
                os.unlink(entry.path)
        for _, path in sorted(used)[: max(0, len(used) - KEEP)]:
            os.unlink(path)


def load(text: str) -> dict[str, Any]:
    """The profile that `text` names or is.  Raises InvalidParameter with Docker's words."""
    if text == "" or text in BUILTIN:
        return builtin()
    try:
        found: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"Decoding seccomp profile failed: {error}") from error
    check(found)
    return found


def check(profile: Any) -> None:
    """Raises InvalidParameter when a profile is not of the form that Docker decodes; compiling checks the values."""
    _expect(profile, dict, "the profile")
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidParameter(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, "
            "use either 'architectures' or 'archMap'"
        )
    _strings(profile, "architectures", "flags")
    for entry in _objects(profile, "archMap"):
        _strings(entry, "subArchitectures")
    for call in _objects(profile, "syscalls"):
        _check_call(call)


def _check_call(call: dict[str, Any]) -> None:
    _strings(call, "names")
    _objects(call, "args")
    if call.get("name") and call.get("names"):
        raise InvalidParameter(
            "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'"
        )
    if not call.get("names"):
        _expect(call.get("name"), str, "name")
    for key in ("includes", "excludes"):
        conditions = call.get(key) or {}
        _expect(conditions, dict, key)
        _strings(conditions, "arches", "caps")
        if conditions.get("minKernel") is not None:
            _expect(conditions["minKernel"], str, "minKernel")


def _strings(holder: dict[str, Any], *keys: str) -> None:
    for key in keys:
        values = holder.get(key) or []
        _expect(values, list, key)
        for value in values:
            _expect(value, str, key)


def _objects(holder: dict[str, Any], key: str) -> list[dict[str, Any]]:
    values: list[dict[str, Any]] = holder.get(key) or []
    _expect(values, list, key)
    for value in values:
        _expect(value, dict, key)
    return values


_KINDS: dict[type, str] = {dict: "an object", list: "an array", str: "a string"}


def _expect(value: object, kind: type, what: str) -> None:
    if not isinstance(value, kind):
        raise InvalidParameter(f"Decoding seccomp profile failed: {what} must be {_KINDS[kind]}")


def builtin() -> dict[str, Any]:
    """Docker's default policy in Docker's profile form."""
    return {
        "defaultAction": seccomp_default.DEFAULT_ACTION,
        "defaultErrnoRet": seccomp_default.DEFAULT_ERRNO,
        "archMap": [
            {"architecture": f"SCMP_ARCH_{name}", "subArchitectures": [f"SCMP_ARCH_{sub}" for sub in subs]}
            for name, subs in seccomp_default.ARCHITECTURES.items()
        ],
        "syscalls": [
            *({"names": names.split(), "action": "SCMP_ACT_ALLOW"} for names in seccomp_default.ALLOWED.values()),
            *(_rule(rule) for rule in seccomp_default.RULES),
        ],
    }


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    call: dict[str, Any] = {"names": rule["names"].split(), "action": "SCMP_ACT_ALLOW"}
    if "errno" in rule:
        call |= {"action": "SCMP_ACT_ERRNO", "errnoRet": rule["errno"]}
    call["args"] = [
        {"index": index, "op": _OPERATORS[operator], **dict(zip(("value", "valueTwo"), values, strict=False))}
        for index, operator, *values in rule.get("args", ())
    ]
    conditions = {
        "includes": {"arches": rule.get("arch"), "caps": rule.get("caps")},
        "excludes": {"arches": rule.get("not_arch"), "caps": rule.get("not_caps")},
    }
    for name, found in conditions.items():
        call[name] = {k: [f"CAP_{c}" for c in v] if k == "caps" else list(v) for k, v in found.items() if v}
    if "kernel" in rule:
        call["includes"]["minKernel"] = ".".join(map(str, rule["kernel"]))
    return call


def resolve(profile: dict[str, Any], capabilities: set[str], host: Host) -> dict[str, Any] | None:
    """The OCI `linux.seccomp` object of a profile for these capabilities on this host; None when it says nothing."""
    calls = profile.get("syscalls") or []
    if not profile.get("defaultAction") and not calls:
        return None
    config: dict[str, Any] = {"defaultAction": profile.get("defaultAction")}
    for key in ("defaultErrnoRet", "flags"):
        if profile.get(key) is not None:
            config[key] = profile[key]
    config["architectures"] = profile.get("architectures") or _architectures(profile, host)
    config["syscalls"] = [_call(call) for call in calls if _counts(call, capabilities, host)]
    return config


def _architectures(profile: dict[str, Any], host: Host) -> list[str]:
    own = f"SCMP_ARCH_{_MACHINES.get(host.machine, ('', ''))[1]}"
    for entry in profile.get("archMap") or []:
        if entry.get("architecture") == own:
            return [own, *(entry.get("subArchitectures") or [])]
    return []


def _call(call: dict[str, Any]) -> dict[str, Any]:
    names = call.get("names") or [call["name"]]
    result = {"names": names, "action": call.get("action"), "args": call.get("args") or []}
    if call.get("errnoRet") is not None:
        result["errnoRet"] = call["errnoRet"]
    return result


def _counts(call: dict[str, Any], capabilities: set[str], host: Host) -> bool:
    """Whether a rule counts: no exclusion holds, and every kind of inclusion does."""
    architecture = _MACHINES.get(host.machine, (host.machine, ""))[0]
    excludes, includes = call.get("excludes") or {}, call.get("includes") or {}
    if architecture in (excludes.get("arches") or []) or capabilities & set(excludes.get("caps") or []):
        return False
    if excludes.get("minKernel") and host.kernel >= kernel_version(excludes["minKernel"]):
        return False
    if includes.get("arches") and architecture not in includes["arches"]:
        return False
    if not set(includes.get("caps") or []) <= capabilities:
        return False
    return not includes.get("minKernel") or host.kernel >= kernel_version(includes["minKernel"])


def kernel_version(text: str) -> tuple[int, int]:
    """(major, minor) of "6.1.0-13-amd64" or "4.8"."""
    found = re.match(r"(\d{1,9})\.(\d{1,9})", text)
    if found is None:
        raise InvalidParameter(f"invalid kernel version: {text}")
    return int(found[1]), int(found[2])


def _usable(path: str) -> bool:
    """Whether a whole compiled filter is there; marks it as used now."""
    try:
        with open(path, "rb") as file:
            seccomp.unpack(file.read())
        os.utime(path)
    except (OSError, StepError):
        return False
    return True


def _replace(path: str, content: bytes) -> None:
    """Write by rename: a killed engine leaves a whole file or none."""
    temporary = f"{path}.{os.getpid()}.{threading.get_ident()}"
    with open(temporary, "wb", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
        file.write(content)
    os.rename(temporary, path)
