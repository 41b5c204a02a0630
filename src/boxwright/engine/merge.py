"""A container's configuration completed from its image's, by Docker's rules."""

from typing import Any

from boxwright.errdefs import InvalidParameter
from boxwright.types.container import ContainerConfig, HealthConfig


def merge(config: ContainerConfig, image: dict[str, Any]) -> None:
    """Complete `config` (changed in place) from the `config` object of an OCI image.

    What the user set wins: single values replace, maps and the environment are joined.  An entrypoint of the user drops
    the image's command with the image's entrypoint.  Raises InvalidParameter when nothing is left to run.
    """
    config.user = config.user or image.get("User") or ""
    config.working_dir = config.working_dir or image.get("WorkingDir") or ""
    config.stop_signal = config.stop_signal or image.get("StopSignal") or ""
    config.exposed_ports = _joined(image.get("ExposedPorts"), config.exposed_ports)
    config.volumes = _joined(image.get("Volumes"), config.volumes)
    config.labels = _joined(image.get("Labels"), config.labels) or {}
    config.on_build = image.get("OnBuild") or None
    config.shell = config.shell or image.get("Shell") or None
    _healthcheck(config, image.get("Healthcheck") or {})
    _environment(config, image.get("Env") or [])
    _command(config, image)


def _joined(below: dict[str, Any] | None, above: dict[str, Any] | None) -> dict[str, Any] | None:
    if not below:
        return above
    return {**below, **(above or {})}


def _healthcheck(config: ContainerConfig, image: dict[str, Any]) -> None:
    """Each value that the user leaves out is the image's."""
    if not image:
        return
    own = config.healthcheck or HealthConfig()
    config.healthcheck = HealthConfig(
        test=own.test or image.get("Test") or None,
        interval=own.interval or image.get("Interval") or 0,
        timeout=own.timeout or image.get("Timeout") or 0,
        start_period=own.start_period or image.get("StartPeriod") or 0,
        start_interval=own.start_interval or image.get("StartInterval") or 0,
        retries=own.retries or image.get("Retries") or 0,
    )


def _environment(config: ContainerConfig, image: list[str]) -> None:
    """The user's variables first, then those of the image that the user does not name."""
    own = list(config.env or ())
    named = {entry.partition("=")[0] for entry in own}
    config.env = own + [entry for entry in image if entry.partition("=")[0] not in named]


def _command(config: ContainerConfig, image: dict[str, Any]) -> None:
    if not config.entrypoint:
        if not config.cmd:
            config.cmd = image.get("Cmd") or config.cmd
        if config.entrypoint is None:
            config.entrypoint = image.get("Entrypoint") or None
    if config.entrypoint == [""]:  # `--entrypoint ""` takes the image's entrypoint away
        config.entrypoint = None
    if not config.entrypoint and not config.cmd:
        raise InvalidParameter("no command specified")
