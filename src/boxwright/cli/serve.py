"""`boxwright serve`: docker's flags over the settings file, then the engine (`daemon.py`) until a signal ends it."""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import Any

import click

from boxwright.cli.configuration import CONFIG_FILE
from boxwright.errdefs import Error, host_failure
from boxwright.linux import allocator

EARLY_SECONDS = 5.0  # for a launcher that is being executed, when this process ends

# Flags that set one field of Settings: (declarations, type, help).  None leaves what the file says.
_ONE: list[tuple[tuple[str, ...], Any, str]] = [
    (("--data-root",), str, "Directory of everything that persists."),
    (("--exec-root",), str, "Directory of sockets and what a reboot may lose."),
    (("-p", "--pidfile"), str, "File to write the engine's pid to."),
    (("--log-format",), click.Choice(["text", "json"]), "Form of the engine's own log."),
    (("--metrics-addr",), str, "Loopback ADDRESS:PORT to serve Prometheus' metrics at, besides the API."),
    (("-l", "--log-level"), click.Choice(["debug", "info", "warn", "error", "fatal"]), "Log level."),
    (("-G", "--group"), str, "Group that owns the Unix socket."),
    (("-s", "--storage-driver"), click.Choice(["overlay", "overlay2", "vfs"]), "Storage driver."),
    (("-b", "--bridge"), str, "Name of the default bridge."),
    (("--bip",), str, "Address of the default bridge, with its prefix."),
    (("--fixed-cidr",), str, "Block of the default bridge's subnet to take addresses from."),
    (("--default-gateway",), str, "Gateway of containers on the default bridge."),
    (("--mtu",), int, "MTU of container networks."),
    (("--ip",), str, "Host address of published ports that name none."),
    (("--default-runtime",), str, "Runtime of containers that name none."),
    (("--cgroup-parent",), str, "Cgroup under which containers are made."),
    (("--seccomp-profile",), str, "Path of a seccomp profile, or unconfined."),
    (("--default-shm-size",), str, "Size of /dev/shm, in bytes or as 64m."),
    (("--default-ipc-mode",), click.Choice(["private", "shareable"]), "IPC mode of containers that name none."),
    (("--default-cgroupns-mode",), click.Choice(["host", "private"]), "Cgroup namespace mode."),
    (("--log-driver",), str, "Log driver of containers that name none."),
    (("--max-concurrent-downloads",), int, "Layers that are fetched at once.  [default: 3]"),
    (("--max-concurrent-uploads",), int, "Layers that are sent at once.  [default: 5]"),
    (("--max-download-attempts",), int, "Attempts at a layer, in a row without a byte.  [default: 5]"),
    (("--shutdown-timeout",), int, "Seconds that containers get when an ephemeral engine ends."),
    (("--tlscacert",), str, "Certificates of trusted clients' issuers.  [default: ~/.docker/ca.pem]"),
    (("--tlscert",), str, "The engine's TLS certificate.  [default: ~/.docker/cert.pem]"),
    (("--tlskey",), str, "The certificate's key.  [default: ~/.docker/key.pem]"),
]
_SWITCHES: list[tuple[str, str]] = [
    ("--tls", "Use TLS on TCP sockets; --tls=false forces plain TCP to other machines."),
    ("--tlsverify", "Use TLS and verify clients."),
    ("--icc", "Let containers on the default bridge talk to each other."),
    ("--ip-forward", "Switch the kernel's forwarding on."),
    ("--ip-masq", "Masquerade what containers send out."),
    ("--iptables", "Make firewall rules (nftables)."),
    ("--userland-proxy", "Serve published ports on IPv6 too, by a process beside the container.  [default: on]"),
    ("--init", "Run an init in every container."),
    ("--no-new-privileges", "Set no_new_privileges on every container."),
    ("--debug", "Log level debug."),
    ("--live-restore", "Accepted: it is how this engine works."),
    ("--experimental", "Offer what dockerd calls experimental: build --squash."),
    ("--hostfs", "Offer this machine's own root as the image hostfs."),
    ("--volatile", "Never sync a container's writable layer (it is lost if the machine crashes)."),
]
_MANY: list[tuple[tuple[str, ...], str]] = [
    (("-H", "--host", "hosts"), "Listen on unix://PATH, tcp://ADDRESS:PORT or fd://."),
    (("--authorization-plugin", "authorization_plugins"), "Plugin that is asked about every request."),
    (("--registry-mirror",), "[REGISTRY=]URL that is asked before the registry (Docker Hub if none is named)."),
    (("--insecure-registry",), "Host or CIDR block whose registries need no TLS, or no good certificate."),
    (("--registry-certs",), "Directory in the form of Docker's certs.d."),
    (("--label", "labels"), "KEY=VALUE, shown by info."),
    (("--dns",), "DNS server of containers."),
    (("--dns-search",), "DNS search domain of containers."),
    (("--dns-opt", "dns_opts"), "DNS option of containers."),
    (("--exec-opt", "exec_opts"), "Option of the runtime, KEY=VALUE."),
    (("--host-gateway-ip", "host_gateway_ips"), "Address behind host-gateway."),
]


def _options(command: Any) -> Any:
    for declarations, kind, text in reversed(_ONE):
        command = click.option(*declarations, type=kind, default=None, help=text)(command)
    for switch, text in reversed(_SWITCHES):
        negative = f"--no-{switch[2:]}" if not switch.startswith("--no-") else f"--{switch[5:]}"
        # docker writes a switch as --icc=false, which click does not know: see `_docker_switches`.
        short = ("-D",) if switch == "--debug" else ()
        command = click.option(f"{switch}/{negative}", *short, default=None, help=text)(command)
    for declarations, text in reversed(_MANY):
        command = click.option(*declarations, multiple=True, help=text)(command)
    return command


class _Command(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [_docker_switch(argument) for argument in args])


def _docker_switch(argument: str) -> str:
    """`--icc=false` → `--no-icc`, `--icc=true` → `--icc`; anything else as it is."""
    name, equals, value = argument.partition("=")
    if not equals or name not in {switch for switch, _ in _SWITCHES}:
        return argument
    if value.lower() in ("true", "1", "t"):
        return name
    if value.lower() in ("false", "0", "f"):
        return f"--no-{name[2:]}" if not name.startswith("--no-") else f"--{name[5:]}"
    return argument


@click.command(cls=_Command)
@_options
@click.option("--config-file", default=None, help=f"Settings, in daemon.json's keys.  [default: {CONFIG_FILE}]")
@click.option("--default-address-pool", multiple=True, help="base=CIDR,size=BITS: where new networks' subnets are.")
@click.option("--add-runtime", multiple=True, help="NAME=PATH of an OCI runtime.")
@click.option("--default-ulimit", multiple=True, help="NAME=SOFT[:HARD].")
@click.option("--log-opt", multiple=True, help="KEY=VALUE of the log driver.")
@click.option("--validate", is_flag=True, help="Check settings and flags, and end.")
@click.option("--ephemeral", is_flag=True, help="At the end, remove everything that this engine made.")
@click.option(
    "--idle-timeout", type=float, default=None, help="End after so many seconds without containers or clients."
)
@click.option("--ready-fd", type=int, default=None, help="Descriptor to write `ready` to once the API answers.")
@click.option("--keep-data", is_flag=True, help="With --ephemeral: leave images and named volumes.")
@click.option("--owner-fd", type=int, default=None, help="Descriptor (pidfd, pipe): readable means end.")
def serve(
    config_file: str | None,
    validate: bool,
    ephemeral: bool,
    idle_timeout: float | None,
    ready_fd: int | None,
    keep_data: bool,
    owner_fd: int | None,
    **flags: Any,
) -> None:
    """Run the engine in the foreground until SIGTERM; containers run on."""
    # What is imported stays for good: looking through it for garbage would be a tenth of the start.
    gc.disable()
    allocator.use_one_arena()
    early: threading.Thread | None = None
    try:
        from boxwright.api import listeners
        from boxwright.cli import configuration, leanimport

        settings = configuration.combined(config_file, flags)
        configuration.check(settings)
        if validate:
            click.echo("configuration OK", err=True)
            return
        # Before anything is executed that would inherit them.
        activated = listeners.take_activated(os.environ)
        early = _execute_launcher(settings)
        leanimport.import_aiohttp()
        from boxwright.cli import daemon

        life = daemon.Life(ephemeral, keep_data, idle_timeout, ready_fd, owner_fd)
        daemon.run(settings, life, lambda: configuration.combined(config_file, flags), activated)
    except (Error, OSError, RuntimeError, MemoryError) as error:
        told = host_failure(error)
        if not told and isinstance(error, RuntimeError):
            raise
        click.echo(f"boxwright: {told or error}", err=True)
        if early is not None:
            early.join(EARLY_SECONDS)  # an interpreter that ends under a thread may abort
        sys.exit(1)


def _execute_launcher(settings: Any) -> threading.Thread | None:
    """Let the launcher come up on one core while this process imports the engine on the other."""
    from boxwright.launcher.client import Launcher

    thread = threading.Thread(target=Launcher(settings.exec_root).execute_early, name="launcher", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None  # no thread can be made: the engine executes it when it is needed, or says why
    return thread
