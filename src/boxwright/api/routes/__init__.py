"""The endpoints of the Docker API, one module for each kind of object."""

from itertools import chain

from ..router import Route
from . import (
    archive,
    build,
    containers,
    diskusage,
    exec,
    images,
    leases,
    networks,
    streams,
    system,
    unsupported,
    volumes,
)


def every_route() -> list[Route]:
    """The whole table, the more particular patterns first."""
    objects = (containers, exec, leases, images, volumes, networks)
    tables = (streams, archive, build, unsupported, *objects, diskusage, system)
    return list(chain.from_iterable(table.ROUTES for table in tables))
