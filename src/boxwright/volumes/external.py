"""Volume drivers that are processes of their own: Docker's VolumeDriver protocol, spoken to a plugin.

What a plugin answers is checked before it is used or shown: a mount point is an absolute path in its shortest spelling,
a name is one that the API can spell.  Where on the host the mount point lies is the plugin's affair: it was installed
by root, and the protocol leaves it free.
"""

import asyncio
import os
from typing import Any, NamedTuple

import msgspec

from boxwright import plugins
from boxwright.errdefs import Error, NotFound, System

# Seconds that a plugin may take, as with dockerd: what makes or mounts something is given longer.
LONG, SHORT = 120.0, 60.0
_LISTING = 10.0  # nobody waits a minute for `docker volume ls`
_LONGEST_PATH = 4095


class Known(NamedTuple):
    """A volume as its driver tells of it.  mountpoint: "" while it is not mounted."""

    name: str
    mountpoint: str
    status: dict[str, Any] | None
    created: str


class _Volume(msgspec.Struct):
    Name: str | None = None
    Mountpoint: str | None = None
    Status: dict[str, Any] | None = None
    CreatedAt: str | None = None


class External:
    """One driver.  Every method raises NotFound without the plugin, plugins.Refused for what the plugin refuses, and
    System for a plugin that does not answer, or answers nonsense."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._plugin = plugins.Plugin(name, "VolumeDriver", keep=False)
        self._scope = ""

    async def create(self, volume: str, options: dict[str, str] | None) -> None:
        """Make the volume."""
        await self._ask("Create", LONG, Name=volume, Opts=options or {})

    async def remove(self, volume: str) -> None:
        """Remove it with all that is in it."""
        await self._ask("Remove", SHORT, Name=volume)

    async def mount(self, volume: str, id: str) -> str:
        """Mount it for the user `id`, and return where on the host it is."""
        answer = await self._ask("Mount", LONG, Name=volume, ID=id)
        return _path("Mount", answer.get("Mountpoint"), required=True)

    async def unmount(self, volume: str, id: str) -> None:
        """The user `id` has it no longer."""
        await self._ask("Unmount", SHORT, Name=volume, ID=id)

    async def get(self, volume: str) -> Known | None:
        """What the driver knows of it; None: it has no such volume."""
        try:
            answer = await self._ask("Get", SHORT, Name=volume)
        except plugins.Refused:
            return None  # the protocol has no other way to say so
        known = _known("Get", answer.get("Volume"))
        if known is not None and known.name != volume:
            raise System(f"VolumeDriver.Get: asked for {volume!r}, told of {known.name!r}")
        if known is not None and not known.mountpoint:
            answer = await self._ask("Path", SHORT, Name=volume)
            known = known._replace(mountpoint=_path("Path", answer.get("Mountpoint")))
        return known

    async def list(self) -> list[Known]:
        """All of its volumes; those with names that no client could ask for are left out."""
        volumes = (await self._ask("List", _LISTING)).get("Volumes") or []
        if not isinstance(volumes, list):
            raise System("VolumeDriver.List: Volumes is not a list")
        found = (_known("List", volume) for volume in volumes)
        return [known for known in found if known is not None and _can_be_asked_for(known.name)]

    async def scope(self) -> str:
        """ "local", or "global" for volumes that other hosts see too; a plugin that cannot say is local."""
        if not self._scope:
            try:
                answer = await self._ask("Capabilities", _LISTING)
            except Error:
                return "local"
            capabilities = answer.get("Capabilities")
            told = capabilities.get("Scope") if isinstance(capabilities, dict) else None
            self._scope = "global" if str(told).lower() == "global" else "local"
        return self._scope

    async def check(self) -> None:
        """Find out whether it is there; raises NotFound, and System for another kind of plugin."""
        try:
            await self._plugin.call("VolumeDriver.Capabilities", {}, _LISTING)
        except plugins.Refused:
            pass  # it is there; the verb is younger than the protocol

    async def _ask(self, verb: str, seconds: float, **arguments: Any) -> dict[str, Any]:
        answer = await self._plugin.call(f"VolumeDriver.{verb}", arguments, seconds)
        if refusal := answer.get("Err"):
            raise plugins.Refused(f"VolumeDriver.{verb}: {refusal}")
        return answer


class Externals:
    """The drivers that have been named so far, and those that the plugin directories name."""

    def __init__(self) -> None:
        self._drivers: dict[str, External] = {}

    @property
    def names(self) -> list[str]:
        """Those that have answered."""
        return sorted(self._drivers)

    def get(self, name: str) -> External:
        """The driver `name`, which may not exist."""
        return self._drivers.get(name) or External(name)

    async def find(self, name: str) -> External:
        """The driver `name`.  Raises NotFound and System with dockerd's text."""
        driver = self.get(name)
        try:
            await driver.check()
        except (NotFound, System) as error:
            raise type(error)(f"error looking up volume plugin {name}: {error}") from error
        return self._drivers.setdefault(name, driver)

    async def all(self, mentioned: set[str]) -> list[External]:
        """Those that have answered, those that are `mentioned`, and whatever has a socket and may be one."""
        there = await asyncio.to_thread(plugins.names)
        return [self.get(name) for name in sorted({*there, *mentioned, *self._drivers})]


def _known(verb: str, told: Any) -> Known | None:
    if told is None:
        return None
    try:
        volume = msgspec.convert(told, _Volume)
    except msgspec.ValidationError as error:
        raise System(f"VolumeDriver.{verb}: {error}") from error
    return Known(volume.Name or "", _path(verb, volume.Mountpoint), volume.Status, volume.CreatedAt or "")


def _path(verb: str, told: Any, required: bool = False) -> str:
    """A mount point that is safe to use; raises System."""
    if not told and not required:
        return ""
    good = (
        isinstance(told, str) and told.startswith("/") and "\0" not in told and len(os.fsencode(told)) < _LONGEST_PATH
    )
    if not good or ".." in str(told).split("/") or not str(told).strip("/"):
        raise System(f"VolumeDriver.{verb}: the mount point {str(told)[:200]!r} is not an absolute path below /")
    return os.path.normpath(str(told))


def _can_be_asked_for(name: str) -> bool:
    return 0 < len(name) <= 255 and name.isprintable() and "/" not in name
