"""The log driver that keeps nothing (`--log-driver none`)."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class NoneWriter:
    """Takes what a container writes and forgets it."""

    __slots__ = ("dropped", "error")
    ready = True

    def __init__(self) -> None:
        self.dropped = 0
        self.error = ""

    def write(self, stream: str, data: bytes, now: int = 0) -> None:
        """Forget."""

    def flush(self, stream: str) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""

    def finish(self, done: "Callable[[], None]") -> None:
        """Nothing is to be waited for."""
        done()
