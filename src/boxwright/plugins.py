"""A plugin process, asked over its Unix socket by Docker's plugin protocol: JSON in, JSON out, bounded both ways."""

import asyncio
import os
import re
from typing import Any

import aiohttp
import msgspec

from boxwright.errdefs import NotFound, System

# Where dockerd looks: a socket of the plugin's name, or a file that names one.
SOCKETS = "/run/docker/plugins"
SPECS = ("/etc/docker/plugins", "/usr/lib/docker/plugins")
# Seconds for one answer.  A plugin that is silent for longer has failed.
DEADLINE = 10.0
MAX_ANSWER = 1024 * 1024
MOST = 64  # plugins that are looked for in the directories
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_MEDIA_TYPE = "application/vnd.docker.plugins.v1.2+json"


class Refused(System):
    """The plugin is there, and its answer is an error."""


class WrongKind(System):
    """The plugin is there, and is one for something else."""


class Plugin:
    """One plugin by its name; found and activated by the first call."""

    def __init__(self, name: str, kind: str, keep: bool = True) -> None:
        """kind: what it has to implement, "authz" or "VolumeDriver".

        keep: connections stay open between calls.  Without it each call has its own, there is nothing to close, and a
        plugin that was restarted is not met through a connection to its former life.
        """
        self.name = name
        self._kind = kind
        self._keep = keep
        self._path = ""
        self._session: aiohttp.ClientSession | None = None
        self._lock = asyncio.Lock()

    async def call(self, method: str, body: dict[str, Any], deadline: float | None = None) -> dict[str, Any]:
        """POST /`method`, which may take `deadline` seconds; raises NotFound when there is no such plugin, Refused,
        WrongKind, and System for whatever else goes wrong."""
        seconds = deadline or DEADLINE
        try:
            async with asyncio.timeout(seconds):
                if not self._keep:
                    async with _connect(await self._found()) as session:
                        return await _post(session, method, body)
                return await _post(self._session or await self._activated(), method, body)
        except TimeoutError:
            raise System(f"no answer to {method} within {seconds:g} seconds") from None
        except aiohttp.ClientConnectorError as error:
            await self.close()
            reason = os.strerror(error.errno or 0).lower()
            raise System(f"{method}: plugin {self.name}: its socket cannot be connected to: {reason}") from error
        except (aiohttp.ClientError, OSError, msgspec.MsgspecError, RecursionError) as error:
            # It may have been restarted and have another socket: the next request looks for it afresh.
            await self.close()
            raise System(f"{method}: {error}") from error

    async def close(self) -> None:
        """Disconnect."""
        self._path = ""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _activated(self) -> aiohttp.ClientSession:
        async with self._lock:
            if self._session is not None:
                return self._session
            session = _connect(await asyncio.to_thread(_socket_of, self.name))
            try:
                await self._activate(session)
            except BaseException:
                await session.close()
                raise
            self._session = session
            return session

    async def _found(self) -> str:
        """The socket of the plugin, which has been activated."""
        async with self._lock:
            if not self._path:
                path = await asyncio.to_thread(_socket_of, self.name)
                async with _connect(path) as session:
                    await self._activate(session)
                self._path = path
            return self._path

    async def _activate(self, session: aiohttp.ClientSession) -> None:
        manifest = await _post(session, "Plugin.Activate", {})
        kinds = manifest.get("Implements")
        if not isinstance(kinds, list) or self._kind not in kinds:
            raise WrongKind(f"plugin {self.name} does not implement {self._kind}")


def names() -> list[str]:
    """The plugins that have a socket or a file in the directories, of any kind; the first few of a flood."""
    found = set()
    for directory in (SOCKETS, *SPECS):
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    name, dot, kind = entry.name.rpartition(".")
                    if dot and kind in (("sock",) if directory == SOCKETS else ("spec", "json")):
                        found.add(name)
                    elif directory == SOCKETS and os.path.exists(f"{directory}/{entry.name}/{entry.name}.sock"):
                        found.add(entry.name)
        except OSError:
            continue  # a directory that is not there has none
    return sorted(name for name in found if _NAME.fullmatch(name))[:MOST]


def _connect(path: str) -> aiohttp.ClientSession:
    # Not decompressed: a small answer could become a large one.
    return aiohttp.ClientSession(connector=aiohttp.UnixConnector(path, limit=0), auto_decompress=False)


async def _post(session: aiohttp.ClientSession, method: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", "Accept": _MEDIA_TYPE, "Accept-Encoding": "identity"}
    data = msgspec.json.encode(body)
    async with session.post(f"http://plugin/{method}", data=data, headers=headers, allow_redirects=False) as answer:
        said = bytearray()
        async for piece in answer.content.iter_any():
            said += piece
            if len(said) > MAX_ANSWER:
                raise System(f"{method}: the answer is longer than {MAX_ANSWER} bytes")
        if answer.status != 200:
            raise Refused(f"{method}: {_reason(bytes(said)) or f'status {answer.status}'}")
        return msgspec.json.decode(bytes(said), type=dict[str, Any])


def _reason(said: bytes) -> str:
    """Why the plugin refuses: the Err of its answer, or what it said."""
    try:
        reason = msgspec.json.decode(said, type=dict[str, Any]).get("Err")
    except (msgspec.MsgspecError, RecursionError):
        reason = None
    return reason if isinstance(reason, str) else said[:200].decode(errors="replace").strip()


def _socket_of(name: str) -> str:
    """The path of a plugin's socket; raises NotFound, and System for an address that cannot be used."""
    if not _NAME.fullmatch(name):
        raise NotFound(f'plugin "{name}" not found')
    for path in (f"{SOCKETS}/{name}.sock", f"{SOCKETS}/{name}/{name}.sock"):
        if os.path.exists(path):
            return path
    for directory in SPECS:
        for kind in ("spec", "json"):
            path = f"{directory}/{name}.{kind}"
            try:
                with open(path, "rb") as file:
                    address = _address(file.read(4096), kind)
            except FileNotFoundError:
                continue
            except (OSError, ValueError, RecursionError) as error:
                raise System(f"plugin {name}: {path}: {error}") from error
            if not address.startswith("unix:///"):
                raise System(f"plugin {name}: {path}: only unix:// addresses are known")
            return address.removeprefix("unix://")
    raise NotFound(f'plugin "{name}" not found')


def _address(text: bytes, kind: str) -> str:
    """The address in a .spec file, which holds nothing else, or in a .json file; raises ValueError."""
    if kind == "spec":
        return text.decode().strip()
    address = msgspec.json.decode(text, type=dict[str, Any]).get("Addr")
    return address if isinstance(address, str) else ""
