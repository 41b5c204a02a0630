"""The networks `host` and `none`: there is nothing to make.

With `host` a container stays in the host's network namespace.  With `none` it has its own, in which init has brought
the loopback interface up, as in every one.
"""

from boxwright.network.endpoint import Endpoint
from boxwright.network.model import Network


class PassiveDriver:
    """Makes nothing: an endpoint only shows in lists which containers use the network.  name: "host" or "null"."""

    addresses = False

    def __init__(self, name: str) -> None:
        self.name = name

    async def open(self, network: Network) -> None:
        return

    async def close(self, network: Network) -> None:
        return

    async def connect(self, network: Network, endpoint: Endpoint, netns_fd: int, netlink_fd: int) -> None:
        return

    async def disconnect(self, network: Network, endpoint: Endpoint) -> None:
        return
