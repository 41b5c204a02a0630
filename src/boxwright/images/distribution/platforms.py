"""Which manifest of an index runs here: platforms as clients write them, and as indexes name them."""

from collections.abc import Sequence

from boxwright.errdefs import InvalidParameter
from boxwright.images.image import host_architecture
from boxwright.specs.image import Descriptor, Platform

_ARCHITECTURES = {
    "x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "i686": "386", "armhf": "arm",
    "armel": "arm",
}  # fmt: skip
_SYSTEMS = {"macos": "darwin"}
_KNOWN_SYSTEMS = ("linux", "windows", "darwin", "freebsd", "wasip1")
_KNOWN_ARCHITECTURES = (
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64",
    "s390x", "wasm",
)  # fmt: skip
# Variants that run what was built for those behind them, best first.
_ARM = ("v8", "v7", "v6", "v5")
_AMD64 = ("v4", "v3", "v2", "v1")


def parse(text: str) -> Platform:
    """Read "OS", "ARCHITECTURE", "OS/ARCHITECTURE" or "OS/ARCHITECTURE/VARIANT"; "" is this machine.

    Raises InvalidParameter.
    """
    if not text:
        return host()
    parts = text.lower().split("/")
    if len(parts) > 3 or not all(part and part.replace("_", "").replace("-", "").isalnum() for part in parts):
        raise InvalidParameter(f'"{text}" is an invalid platform: expected os[/arch[/variant]]')
    if len(parts) == 1 and parts[0] not in (*_KNOWN_SYSTEMS, *_SYSTEMS):
        if parts[0] not in (*_KNOWN_ARCHITECTURES, *_ARCHITECTURES):
            raise InvalidParameter(f'"{text}": unknown operating system or architecture')
        parts.insert(0, "linux")
    system = _SYSTEMS.get(parts[0], parts[0])
    named = parts[1] if len(parts) > 1 else host_architecture()
    variant = parts[2] if len(parts) > 2 else {"armel": "v6", "armhf": "v7"}.get(named, "")
    return normalised(Platform(architecture=named, os=system, variant=variant))


def host() -> Platform:
    """What this machine runs."""
    return normalised(Platform(architecture=host_architecture(), os="linux"))


def normalised(platform: Platform) -> Platform:
    """With the names that mean the same made one; variants that go without saying are left out."""
    architecture = _ARCHITECTURES.get(platform.architecture.lower(), platform.architecture.lower())
    variant = platform.variant.lower()
    if architecture in ("arm", "arm64") and variant.isdigit():
        variant = f"v{variant}"
    if (architecture, variant) in (("arm64", "v8"), ("amd64", "v1")):
        variant = ""
    if (architecture, variant) == ("arm", ""):
        variant = "v7"
    system = platform.os.lower()
    return Platform(architecture=architecture, os=_SYSTEMS.get(system, system), variant=variant)


def text(platform: Platform) -> str:
    """As people write it."""
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


def rank(wanted: Platform, offered: Platform) -> int | None:
    """How well `offered` does for `wanted`, 0 the best; None when it does not.  Both normalised."""
    if (wanted.os, wanted.architecture) != (offered.os, offered.architecture):
        return None
    if wanted.variant == offered.variant:
        return 0
    order = {"arm": _ARM, "amd64": _AMD64}.get(wanted.architecture, ())
    own, other = wanted.variant or "v1", offered.variant or "v1"
    if own in order and other in order[order.index(own) :]:
        return order.index(other) - order.index(own)
    return None


def choose(descriptors: Sequence[Descriptor], wanted: Platform) -> Descriptor | None:
    """The entry of an index that fits best, the first of equals; None when none does."""
    best: tuple[int, Descriptor] | None = None
    for descriptor in descriptors:
        if descriptor.platform is None:
            continue
        found = rank(wanted, normalised(descriptor.platform))
        if found is not None and (best is None or found < best[0]):
            best = (found, descriptor)
    return best[1] if best else None
