"""How many clients may be inside at once, counted for each door: a flood over TCP leaves the Unix sockets open."""

# Connections of one listening TCP socket, those in their handshake among them.
MAX_REMOTE = 1024


class Door:
    """Counts who is inside."""

    def __init__(self) -> None:
        self._limit = MAX_REMOTE
        self._inside: set[object] = set()

    def enter(self, who: object) -> bool:
        """Count one more; False when it is full."""
        if len(self._inside) >= self._limit:
            return False
        self._inside.add(who)
        return True

    def leave(self, who: object) -> None:
        """One less; nothing for somebody who was not let in."""
        self._inside.discard(who)
