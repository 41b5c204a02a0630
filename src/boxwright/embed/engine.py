"""A private engine: roots, socket, bridge, cgroups and firewall tables of its own, owned by this process.

The engine watches its owner through a pidfd, so it ends and takes everything along even when the owner is killed with
SIGKILL; forked children of the owner do not keep it.  When the engine itself has been killed, the owner starts it once
more to clear up what it left.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterable
from types import TracebackType
from typing import IO, Any

from boxwright.client import Client
from boxwright.embed import process
from boxwright.embed.process import EngineError, EngineProcess

END_SECONDS = 120.0  # for an engine to stop and remove all its containers
# What sends docker's clients to another engine.
ELSEWHERE = ("DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION")


def engine(
    *,
    hostfs: bool = True,
    data_root: str | os.PathLike[str] | None = None,
    directory: str | os.PathLike[str] | None = None,
    flags: Iterable[str] = (),
    start_timeout: float = process.READY_SECONDS,
) -> EmbeddedEngine:
    """A private engine for a `with` or `async with` block.

    hostfs: offer this machine's own root as the image `hostfs`.
    data_root: a directory that outlives the engine: its images and named volumes are there next time; its containers
    are removed all the same.  None: a temporary one that goes with the engine.
    directory: where the temporary directory is made; the default is Python's own choice ($TMPDIR, /tmp).
    flags: more flags of `boxwright serve`.
    start_timeout: seconds until the API has to answer.
    """
    return EmbeddedEngine(
        hostfs=hostfs,
        data_root=None if data_root is None else os.path.abspath(data_root),
        directory=None if directory is None else os.path.abspath(directory),
        flags=list(flags),
        start_timeout=start_timeout,
    )


class EmbeddedEngine:
    """One private engine; made by `engine()`.  Between `start` and `close` its API is served at `docker_host`."""

    def __init__(
        self, *, hostfs: bool, data_root: str | None, directory: str | None, flags: list[str], start_timeout: float
    ) -> None:
        self._hostfs, self._kept_root, self._directory = hostfs, data_root, directory
        self._flags, self._start_timeout = flags, start_timeout
        self._home = ""  # also its run directory, so that it takes all of it along when nobody else can
        self._owner = -1  # the process that started it; a fork of it does not end it
        self._process: EngineProcess | None = None

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> EmbeddedEngine:
        """Start it; raises EngineError with the engine's own words when it does not come up."""
        if self._process is not None:
            raise EngineError("this engine has been started already")
        if os.geteuid() != 0:
            raise EngineError("an embedded engine needs root (it makes namespaces, mounts and cgroups)")
        self._home = tempfile.mkdtemp(prefix="boxwright-", dir=self._directory)
        self._owner = os.getpid()
        try:
            self._process = self._execute()
        except BaseException:
            # It has had no container yet: what it made are files.
            shutil.rmtree(self._home, ignore_errors=True)
            raise
        return self

    def close(self) -> None:
        """End it, with its containers and everything else that it made; again does nothing.

        Raises EngineError when something may have been left, with the engine's last words.
        """
        running = self._process
        if running is None or os.getpid() != self._owner:
            return
        self._process = None
        if running.end(END_SECONDS) or self._clear_up():
            shutil.rmtree(self._home, ignore_errors=True)
            return
        raise EngineError(f"the engine did not end well, {self._home} holds what it left:\n{running.said()}")

    def _execute(self) -> EngineProcess:
        owner = os.pidfd_open(os.getpid())
        try:
            return process.start(
                self._serve_flags(), f"{self._home}/engine.log", owner=owner, timeout=self._start_timeout
            )
        finally:
            os.close(owner)

    def _clear_up(self) -> bool:
        """Run an engine that was killed once more, to its orderly end.  Whether nothing is left."""
        try:
            return not os.path.exists(f"{self.data_root}/boxwright.db") or self._execute().end(END_SECONDS)
        except EngineError:
            return False

    def _serve_flags(self) -> list[str]:
        flags = ["--data-root", self.data_root, "--exec-root", self._home, "-H", self.docker_host]
        # A name of its own: two engines must not share a bridge.  The kernel takes 15 characters.
        flags += ["--bridge", f"bwe{self._home[-8:].replace('_', '-')}", "--ephemeral"]
        flags += ["--keep-data"] if self._kept_root else []
        return [*flags, "--hostfs" if self._hostfs else "--no-hostfs", *self._flags]

    def __enter__(self) -> EmbeddedEngine:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> EmbeddedEngine:
        """Start it without blocking the loop."""
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Nobody will leave a block that was never entered.
            await asyncio.wait([starting])
            await asyncio.to_thread(self.close)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self.close)))

    # --- where it is ------------------------------------------------------------------------------------------------

    @property
    def data_root(self) -> str:
        """Directory of images, containers and volumes."""
        return self._kept_root or f"{self._home}/data"

    @property
    def socket(self) -> str:
        """Path of the API's Unix socket."""
        return f"{self._home}/engine.sock"

    @property
    def docker_host(self) -> str:
        """Its address, as DOCKER_HOST takes it."""
        return f"unix://{self.socket}"

    @property
    def environment(self) -> dict[str, str]:
        """A whole environment for child processes in which docker's clients find this engine, and no other."""
        kept = {key: value for key, value in os.environ.items() if key not in ELSEWHERE}
        return {**kept, **self.variables}

    @property
    def variables(self) -> dict[str, str]:
        """What `environment` sets: DOCKER_HOST, and what testcontainers reads to mount the socket."""
        return {"DOCKER_HOST": self.docker_host, "TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE": self.socket}

    @property
    def pid(self) -> int:
        """The engine's process id."""
        return self._running.pid

    @property
    def log(self) -> str:
        """The last lines that the engine has logged."""
        return self._running.said()

    @property
    def _running(self) -> EngineProcess:
        if self._process is None:
            raise EngineError("this engine is not running")
        return self._process

    # --- what to do with it -----------------------------------------------------------------------------------------

    def load(self, archive: str | os.PathLike[str] | IO[bytes]) -> list[str]:
        """Load an image archive (docker-archive or OCI layout, compressed or not): a path or a file open for reading.

        Returns the references or ids of what was loaded.  Raises EngineError, or `boxwright.client.ApiError` when the
        engine refuses the request.
        """
        if isinstance(archive, str | os.PathLike):
            with open(archive, "rb") as file:
                return self.load(file)
        loaded = []
        for message in Client(self.docker_host).lines("POST", "/images/load", {"quiet": 1}, archive):
            if "error" in message:
                raise EngineError(f"the image was not loaded: {message['error']}")
            for words in ("Loaded image: ", "Loaded image ID: "):
                if (said := message.get("stream", "")).startswith(words):
                    loaded.append(said.removeprefix(words).strip())
        return loaded

    def client(self, **options: Any) -> Any:
        """A `docker.DockerClient` of this engine (the package `docker` has to be installed); the caller closes it."""
        try:
            import docker  # type: ignore[import-untyped,unused-ignore]
        except ModuleNotFoundError as error:
            raise EngineError("client() needs docker-py: pip install docker") from error
        return docker.DockerClient(base_url=self.docker_host, **{"version": "auto", **options})
