"""The bridge driver: a bridge for each network, a veth for each endpoint, NAT and published ports in our own tables."""

import asyncio

from boxwright.errdefs import StepError
from boxwright.network.endpoint import Endpoint
from boxwright.network.firewall import Firewall
from boxwright.network.interfaces import Host
from boxwright.network.model import Network
from boxwright.network.netlink_thread import Worker


class BridgeDriver:
    """netlink and filter: the threads on which `host` and `firewall` do their blocking work."""

    name = "bridge"
    addresses = True

    def __init__(self, host: Host, netlink: Worker, firewall: Firewall, filter: Worker) -> None:
        self._host, self._netlink = host, netlink
        self._firewall, self._filter = firewall, filter

    async def open(self, network: Network) -> None:
        await self._netlink.submit(self._host.make_bridge, network)

    async def close(self, network: Network) -> None:
        if network.ours:
            await self._netlink.submit(self._host.remove_bridge, network.bridge)

    async def connect(self, network: Network, endpoint: Endpoint, netns_fd: int, netlink_fd: int) -> None:
        work: list[asyncio.Future[None]] = []
        if _filtered(network, endpoint):
            work.append(self._filter.submit(self._firewall.add, endpoint, not network.icc))
        work.append(self._netlink.submit(self._host.join, network, endpoint, netns_fd, netlink_fd))
        # Both must have ended before the caller closes the descriptors or takes anything back.
        results = await asyncio.gather(*work, return_exceptions=True)
        for failure in results:
            if isinstance(failure, OSError):
                raise StepError(
                    f"failed to set up the network of endpoint {endpoint.container_name}: {failure}",
                    step="network",
                    operation=(failure.strerror or "").partition(":")[0],
                    path=str(failure.filename or endpoint.link),
                    errno=failure.errno or 0,
                ) from failure
            if failure is not None:
                raise failure

    async def disconnect(self, network: Network, endpoint: Endpoint) -> None:
        if _filtered(network, endpoint):
            await self._filter.submit(self._firewall.delete, endpoint, not network.icc)


def _filtered(network: Network, endpoint: Endpoint) -> bool:
    return bool(endpoint.published) or not network.icc
