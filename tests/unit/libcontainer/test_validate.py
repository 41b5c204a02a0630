"""What is refused, and by which words, before anything is made."""

from typing import Any

import pytest

from boxwright import errdefs
from boxwright.libcontainer import validate

ALL = ("mount", "pid", "network", "uts", "ipc", "cgroup")


def spec(**parts: Any) -> dict[str, Any]:
    """A valid spec with parts replaced: `process__cwd="x"` is spec["process"]["cwd"]."""
    made: dict[str, Any] = {
        "process": {"args": ["true"], "cwd": "/"},
        "linux": {"namespaces": [{"type": kind} for kind in ALL]},
        "mounts": [],
    }
    for name, value in parts.items():
        place = made
        *path, last = name.split("__")
        for step in path:
            place = place.setdefault(step, {})
        place[last] = value
    return made


def test_valid() -> None:
    assert validate.check(spec(hostname="x", linux__sysctl={"net.core.somaxconn": "1", "kernel.shmmax": "1"})) == []


def without(kind: str) -> list[dict[str, str]]:
    return [{"type": other} for other in ALL if other != kind]


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"process__args": []}, "no command specified"),
        ({"process__args": None}, "no command specified"),
        ({"process__args": ["a\0b"]}, "NUL"),
        ({"process__cwd": "x"}, "the working directory 'x' is invalid, it needs to be an absolute path"),
        ({"process__cwd": "/\0"}, "NUL"),
        ({"process__oomScoreAdj": 1001}, "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
        ({"process__oomScoreAdj": -1001}, "Invalid value -1001, range for oom score adj is [-1000, 1000]"),
        ({"process__rlimits": [{"type": "RLIMIT_CPU", "soft": 1}]}, "RLIMIT_CPU"),
        ({"process__rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2}, "named twice"),
        ({"process__capabilities": {"bounding": ["CAP_FLY"]}}, "unknown capability in bounding: CAP_FLY"),
        ({"hostname": "x", "linux__namespaces": without("uts")}, "unable to set hostname without a private UTS"),
        ({"hostname": "x" * 65}, "longer than 64 bytes"),
        ({"linux__namespaces": without("mount")}, "mount namespace"),
        ({"linux__namespaces": [*without(""), {"type": "moon"}]}, "unknown namespace type: moon"),
        ({"linux__namespaces": [*without(""), {"type": "user"}]}, "uidMappings"),
        ({"linux__uidMappings": [{}]}, "id mappings need a new user namespace"),
        ({"linux__sysctl": {"vm.swappiness": "1"}}, 'sysctl "vm.swappiness" is not in a separate kernel namespace'),
        ({"linux__sysctl": {"kernel.hostname": "x"}}, "kernel.hostname"),
        ({"linux__sysctl": {"net/../../kernel/core_pattern": "x"}}, "is not a name"),
        ({"linux__sysctl": {"net/a/../..": "x"}}, "is not a name"),
        ({"linux__sysctl": {"net.x": "1"}, "linux__namespaces": without("network")}, "separate kernel namespace"),
        ({"linux__sysctl": {"kernel.sem": "1"}, "linux__namespaces": without("ipc")}, "separate kernel namespace"),
        (
            {
                "linux__sysctl": {"net.x": "1"},
                "linux__namespaces": [*without("network"), {"type": "network", "path": "/proc/self/ns/net"}],
            },
            "separate kernel namespace",
        ),
        ({"mounts": [{"destination": "x", "type": "tmpfs"}]}, "mount destination x is not an absolute path"),
        ({"linux__maskedPaths": ["proc"]}, "must be absolute"),
        ({"linux__readonlyPaths": ["x"]}, "must be absolute"),
    ],
)
def test_contradictions(parts: dict[str, Any], text: str) -> None:
    with pytest.raises(errdefs.InvalidParameter) as caught:
        validate.check(spec(**parts))
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ({"process__apparmorProfile": "x"}, "process.apparmorProfile"),
        ({"process__selinuxLabel": "x"}, "process.selinuxLabel"),
        ({"process__ioPriority": {"class": "IOPRIO_CLASS_IDLE"}}, "process.ioPriority"),
        ({"linux__mountLabel": "x"}, "linux.mountLabel"),
        ({"linux__intelRdt": {"closID": "x"}}, "linux.intelRdt"),
        ({"linux__personality": {"domain": "LINUX32"}}, "linux.personality"),
        ({"hooks": {"prestart": [{"path": "/x"}]}}, "hooks"),
        ({"mounts": [{"destination": "/x", "uidMappings": [{}]}]}, "/x"),
    ],
)
def test_what_is_not_supported_is_named(parts: dict[str, Any], name: str) -> None:
    with pytest.raises(errdefs.NotImplemented_) as caught:
        validate.check(spec(**parts))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "parts",
    [
        {"process__apparmorProfile": ""},
        {"linux__intelRdt": {}},
        {"linux__intelRdt": {"closID": ""}},
        {"linux__personality": None},
        {"hooks": {}},
        {"hooks": {"prestart": []}},
    ],
)
def test_zero_values_are_not_refused(parts: dict[str, Any]) -> None:
    assert validate.check(spec(**parts)) == []
