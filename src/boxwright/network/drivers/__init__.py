"""What every network driver does; `tests/testsuite/network_drivers.py` holds them to it."""

from typing import Protocol

from boxwright.network.endpoint import Endpoint
from boxwright.network.model import Network


class Driver(Protocol):
    """Makes the kernel objects of networks and endpoints.  Everything planned is in the database before a call.

    addresses: endpoints of this driver's networks get an IPv4 address and a host interface name.
    """

    name: str
    addresses: bool

    async def open(self, network: Network) -> None:
        """Make or adopt the network's kernel objects; idempotent."""

    async def close(self, network: Network) -> None:
        """Remove the network's kernel objects; nothing happens when they are not there."""

    async def connect(self, network: Network, endpoint: Endpoint, netns_fd: int, netlink_fd: int) -> None:
        """Join a network namespace to the network; the descriptors stay the caller's.  Raises System."""

    async def disconnect(self, network: Network, endpoint: Endpoint) -> None:
        """Take back what `connect` made, except what ends with the namespace; idempotent."""
