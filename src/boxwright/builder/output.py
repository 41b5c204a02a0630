"""What a build says, in order: stages run side by side, and are told one after the other as their lines stand."""

import asyncio
from typing import Any

Message = dict[str, Any]
# Characters that a stage may say before its turn; then it waits.
_HELD = 1 << 20
_QUEUED = 64


class Console:
    """The messages of one build; who reads them slowly slows the build down."""

    def __init__(self, quiet: bool) -> None:
        """quiet: nothing is said but the last word."""
        self.messages: asyncio.Queue[Message | None] = asyncio.Queue(_QUEUED)
        self.quiet = quiet

    async def send(self, message: Message) -> None:
        """Say something."""
        await self.messages.put(message)

    async def say(self, text: str) -> None:
        """Say a text, unless the build is a quiet one."""
        if text and not self.quiet:
            await self.send({"stream": text})


class Voice:
    """One stage's part of a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._turn = asyncio.Event()
        self._held: list[Message] = []
        self._size = 0

    @property
    def has_turn(self) -> bool:
        """Whether what it says is passed on at once."""
        return self._turn.is_set()

    async def turn(self) -> None:
        """Wait for it."""
        await self._turn.wait()

    async def say(self, text: str) -> None:
        """Say a text."""
        if text and not self._console.quiet:
            await self.send({"stream": text}, len(text))

    async def tell(self, message: Message) -> None:
        """Say how something goes on, unless the build is a quiet one."""
        if not self._console.quiet:
            await self.send(message, len(str(message)))

    async def send(self, message: Message, size: int = 0) -> None:
        """Say something of `size` characters; it is kept until it is this stage's turn."""
        if not self._turn.is_set():
            self._held.append(message)
            self._size += size
            if self._size < _HELD:
                return
            await self._turn.wait()
            return
        await self._console.send(message)

    async def take_turn(self) -> None:
        """Everything before has been said."""
        while self._held:
            held, self._held = self._held, []
            for message in held:
                await self._console.send(message)
        self._turn.set()
