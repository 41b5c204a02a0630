"""ARG: which variables of a build have a value where (Dockerfile reference, "Scope" and "Predefined ARGs")."""

from collections.abc import Mapping

from boxwright.builder.dockerfile import expand
from boxwright.builder.dockerfile.errors import Wrong, at
from boxwright.builder.dockerfile.instructions import Arg, Instruction
from boxwright.images.distribution import platforms
from boxwright.specs.image import Platform

# Known to RUN without being declared, and no part of the cache's key then.
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
PREDEFINED = frozenset((*_PROXIES, *map(str.lower, _PROXIES)))
EPOCH = "SOURCE_DATE_EPOCH"
KEEP_GIT_DIR = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"  # "1": a context that is a Git repository has its .git, too
HOSTNAME = "BUILDKIT_SANDBOX_HOSTNAME"  # of the containers of RUN
CACHE_NAMESPACE = "BUILDKIT_CACHE_MOUNT_NS"  # cache mounts of builds with another one are others
# Those that nobody has to declare; the ones that are not named above change nothing here.
_BUILT_IN = frozenset(
    {
        EPOCH, KEEP_GIT_DIR, HOSTNAME, CACHE_NAMESPACE, "BUILDKIT_BUILD_NAME", "BUILDKIT_GIT_ADVICE",
        "BUILDKIT_INLINE_CACHE", "BUILDKIT_MULTI_PLATFORM", "BUILDKIT_SYNTAX",
    }
)  # fmt: skip


class Global:
    """The arguments before the first FROM, those of the request, and those of the platform."""

    def __init__(self, given: Mapping[str, str | None], host: Platform, target: Platform) -> None:
        """host, target: what the build runs on, and what the image is for."""
        self.given = {name: value for name, value in given.items() if value is not None}
        self.used: set[str] = set()
        self.values: dict[str, str] = {}
        self.platform: dict[str, str] = {}
        for kind, of in (("BUILD", host), ("TARGET", target)):
            parts = (
                ("PLATFORM", platforms.text(of)),
                ("OS", of.os),
                ("ARCH", of.architecture),
                ("VARIANT", of.variant),
            )
            self.platform |= {kind + name: value for name, value in parts}

    def declare(self, instructions: list[Instruction], escape: str) -> None:
        """Those of a Dockerfile.  Raises InvalidParameter."""
        for line, value in instructions:
            assert isinstance(value, Arg)
            for name, default in value.pairs:
                try:
                    found = None if default is None else expand.word(default, self.variables, escape)
                except Wrong as problem:
                    raise at(line.number, problem) from None
                self.used.add(name)
                found = self.given.get(name, self.platform.get(name) if found is None else found)
                if found is not None:
                    self.values[name] = found

    @property
    def variables(self) -> dict[str, str]:
        """What FROM sees."""
        return {**self.platform, **self.values}

    def unused(self) -> list[str]:
        """Names that the request gives and nobody has asked for."""
        return sorted(set(self.given) - self.used - PREDEFINED - _BUILT_IN - set(self.platform))


class Scope:
    """The arguments of one stage: declared ones, in order."""

    def __init__(self, everywhere: Global, above: "Scope | None" = None) -> None:
        """above: of the stage that this one begins from."""
        self._global = everywhere
        self.values: dict[str, str] = dict(above.values) if above else {}

    def declare(self, name: str, default: str | None) -> None:
        """ARG name[=default]."""
        everywhere = self._global
        everywhere.used.add(name)
        fallback = default
        if default is None:
            fallback = everywhere.values.get(name, everywhere.platform.get(name))
        value = everywhere.given.get(name, fallback)
        if value is not None:
            self.values[name] = value

    def environment(self, above: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """What RUN gets beside the image's environment `above`: (everything, what counts for the cache)."""
        predefined = {name: value for name, value in self._global.given.items() if name in PREDEFINED}
        everything = {**predefined, **self.values}
        everything = {name: value for name, value in sorted(everything.items()) if name not in above}
        return everything, {name: value for name, value in everything.items() if name in self.values}
