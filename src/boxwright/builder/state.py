"""Where a stage stands: the image so far, the configuration that the next step starts from, the arguments."""

from collections.abc import Sequence

import msgspec

from boxwright.builder.arguments import Global, Scope
from boxwright.builder.dockerfile import expand
from boxwright.images.image import Image
from boxwright.specs.image import Defaults, ImageConfig, Platform

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHELL = ["/bin/sh", "-c"]


class State:
    """Of one stage.  image: None before the first step of a stage from scratch, whose image is for `platform` then."""

    def __init__(
        self,
        image: Image | None,
        arguments: Global,
        platform: Platform,
        above: Scope | None = None,
        escape: str = "\\",
    ) -> None:
        self.image = image
        self.platform = platform
        self.scope = Scope(arguments, above)
        self.escape = escape
        self.author = image.parsed.author if image else ""
        self.config = msgspec.structs.replace(image.parsed.config) if image else Defaults()
        self.config.on_build = None
        self.command_set = False
        if not any(entry.startswith("PATH=") for entry in self.config.env or ()):
            self.config.env = [*(self.config.env or []), PATH]

    @property
    def shell(self) -> Sequence[str]:
        """What shell forms are run by."""
        return self.config.shell or SHELL

    @property
    def environment(self) -> dict[str, str]:
        """ENV so far; of a name that is there twice the first counts."""
        entries = (entry.partition("=") for entry in reversed(self.config.env or []))
        return {name: value for name, _, value in entries}

    @property
    def variables(self) -> dict[str, str]:
        """What variables in instructions stand for: ENV before ARG."""
        return {**self.scope.environment({})[0], **self.environment}

    @property
    def parsed(self) -> ImageConfig:
        """The configuration of the image so far."""
        if self.image is not None:
            return self.image.parsed
        of = self.platform
        return ImageConfig(architecture=of.architecture, os=of.os, variant=of.variant)

    def word(self, text: str) -> str:
        """A text with its quotes and variables replaced.  Raises Wrong."""
        return expand.word(text, self.variables, self.escape)

    def absolute(self, path: str) -> str:
        """A path, perhaps below the working directory; what it ends with stays."""
        if path.startswith("/"):
            return path
        return f"{(self.config.working_dir or '/').rstrip('/')}/{path}"
