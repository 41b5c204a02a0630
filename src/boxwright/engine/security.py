"""`--security-opt`, `--cap-add`, `--cap-drop` and `--privileged`: parsed once, used by the checks and by the spec."""

from collections.abc import Iterable

import msgspec

from boxwright.errdefs import InvalidParameter
from boxwright.linux.capabilities import NUMBERS

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
_KNOWN = frozenset(NUMBERS)
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class SecurityOptions(msgspec.Struct, kw_only=True):
    """What `--security-opt` says.  None: not mentioned.

    seccomp: "unconfined", "builtin" or a profile's JSON text.  labels: SELinux settings, without effect here.
    """

    no_new_privileges: bool | None = None
    seccomp: str | None = None
    apparmor: str | None = None
    labels: list[str] = msgspec.field(default_factory=list)
    writable_cgroups: bool = False


def parse_options(options: Iterable[str]) -> SecurityOptions:
    """Docker's reading of `SecurityOpt`; ":" is accepted for "=" as in old clients.  Raises InvalidParameter."""
    parsed = SecurityOptions()
    for option in options:
        if option == "no-new-privileges":
            parsed.no_new_privileges = True
        elif option == "disable":
            parsed.labels.append(option)
        else:
            _parse(option, parsed)
    return parsed


def _parse(option: str, parsed: SecurityOptions) -> None:
    key, separator, value = option.partition("=")
    if not separator:
        key, separator, value = option.partition(":")
    if not separator:
        raise InvalidParameter(f'invalid --security-opt 1: "{option}"')
    if key == "label":
        parsed.labels.append(value)
    elif key == "apparmor":
        parsed.apparmor = value
    elif key == "seccomp":
        parsed.seccomp = value
    elif key == "no-new-privileges" and value in _TRUE | _FALSE:
        parsed.no_new_privileges = value in _TRUE
    elif key == "writable-cgroups" and value in _TRUE | _FALSE:
        parsed.writable_cgroups = value in _TRUE
    else:
        raise InvalidParameter(f'invalid --security-opt 2: "{option}"')


def normalise(field: str, names: Iterable[str]) -> list[str]:
    """Capability names in full capitals with "CAP_", "ALL" kept, in order and once each; unknown ones are refused."""
    found: dict[str, None] = {}
    for name in names:
        upper = name.upper()
        if upper not in ("ALL", "CAP_ALL") and not upper.startswith("CAP_"):
            upper = f"CAP_{upper}"
        upper = "ALL" if upper == "CAP_ALL" else upper
        if upper != "ALL" and upper not in _KNOWN:
            raise InvalidParameter(f'invalid {field}: unknown capability: "{upper}"')
        found[upper] = None
    return list(found)


def capabilities(add: Iterable[str], drop: Iterable[str], privileged: bool, available: Iterable[str]) -> list[str]:
    """The capabilities of a container by Docker's rules of ALL, add and drop; never more than `available`."""
    adding, dropping, offered = set(normalise("CapAdd", add)), set(normalise("CapDrop", drop)), list(available)
    if privileged:
        return offered
    if "ALL" in adding:
        chosen = set(offered) - dropping
    elif "ALL" in dropping:
        chosen = adding
    else:
        chosen = (set(DEFAULT_CAPABILITIES) - dropping) | adding
    return [name for name in offered if name in chosen]
