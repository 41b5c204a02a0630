"""`boxwright run`: create, attach, start, wait. Without an engine it starts one for this user and says so."""

import contextlib
import json
import os
import sys
from typing import Any

import click

from boxwright.cli.streams import forwarded_signals
from boxwright.cli.verbs import attached, path_of
from boxwright.client import ApiError, Client, NoEngine


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--rm", "auto_remove", is_flag=True, help="Remove it when it ends.")
@click.option("-i", "--interactive", is_flag=True, help="Keep stdin open.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-d", "--detach", is_flag=True, help="Print the id and leave it running.")
@click.option("--name", help="Name of the container.")
@click.option("-e", "--env", multiple=True, help="Set an environment variable.")
@click.option("-v", "--volume", "binds", multiple=True, help="Mount SOURCE:TARGET[:OPTIONS].")
@click.option("--tmpfs", multiple=True, help="Mount a tmpfs at TARGET[:OPTIONS].")
@click.option("-p", "--publish", multiple=True, help="Publish a port: [[IP:]HOST:]CONTAINER[/PROTOCOL].")
@click.option("-w", "--workdir", help="Working directory.")
@click.option("-u", "--user", help="User or user:group.")
@click.option("--hostname", help="Name of the machine inside.")
@click.option("--entrypoint", help="Instead of the image's.")
@click.option("--network", default="bridge", show_default=True, help="bridge, host, none or container:NAME.")
@click.option("--label", multiple=True, help="A label, KEY=VALUE.")
@click.option("-m", "--memory", help="Limit of memory: bytes, or with k, m, g.")
@click.option("--cpus", type=float, help="Limit of processors.")
@click.option("--restart", default="no", show_default=True, help="no, always, unless-stopped or on-failure[:N].")
@click.option("--cap-add", multiple=True, help="Add a capability.")
@click.option("--cap-drop", multiple=True, help="Drop a capability.")
@click.option("--privileged", is_flag=True, help="With everything allowed.")
@click.option("--read-only", is_flag=True, help="Root file system read-only.")
@click.option("--timeout", type=click.IntRange(0), default=0, help="Stop it after so many seconds of life.")
@click.option("--own", is_flag=True, help="It dies with this command; with -d, with the process that ran it.")
@click.option("--init", "with_init", is_flag=True, help="A small init as PID 1.")
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(client: Client, /, image: str, command: tuple[str, ...], **options: Any) -> None:
    """Run a command in a new container."""
    ensure_engine(client)
    try:
        sys.exit(_run(client, body(image, command, options), options))
    except ApiError as error:
        click.echo(f"boxwright: {error}", err=True)
        sys.exit(exit_code(str(error)))


def exit_code(message: str) -> int:
    """What `docker run` exits with when a container does not start."""
    if "executable file not found" in message or "no such file or directory" in message:
        return 127
    return 126 if "permission denied" in message or "is a directory" in message else 125


def body(image: str, command: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """The create request for these options."""
    exposed, bindings = published(options["publish"])
    policy, _, count = options["restart"].partition(":")
    interactive = options["interactive"] and not options["detach"]
    return {
        "Image": image,
        "Cmd": list(command) or None,
        "Entrypoint": [options["entrypoint"]] if options["entrypoint"] else None,
        "Env": environment(options["env"]),
        "WorkingDir": options["workdir"] or "",
        "User": options["user"] or "",
        "Hostname": options["hostname"] or "",
        "Labels": dict(label.partition("=")[::2] for label in options["label"]),
        "Tty": options["tty"],
        "OpenStdin": options["interactive"],
        "StdinOnce": interactive,
        "AttachStdin": interactive,
        "AttachStdout": not options["detach"],
        "AttachStderr": not options["detach"],
        "ExposedPorts": exposed,
        "HostConfig": {
            "AutoRemove": options["auto_remove"],
            "Binds": [absolute(bind) for bind in options["binds"]],
            "Tmpfs": dict(mount.partition(":")[::2] for mount in options["tmpfs"]),
            "PortBindings": bindings,
            "NetworkMode": options["network"],
            "Memory": octets(options["memory"]) if options["memory"] else 0,
            "NanoCpus": round((options["cpus"] or 0) * 1e9),
            "RestartPolicy": {"Name": policy, "MaximumRetryCount": int(count or 0)},
            "CapAdd": list(options["cap_add"]),
            "CapDrop": list(options["cap_drop"]),
            "Privileged": options["privileged"],
            "ReadonlyRootfs": options["read_only"],
            "Init": options["with_init"] or None,
            "Timeout": options["timeout"],
            "Owner": str(os.getppid() if options["detach"] else os.getpid()) if options["own"] else "",
        },
    }


def octets(text: str) -> int:
    """`64m` → 67108864: binary units, as docker's --memory."""
    units = {"b": 1, "k": 2**10, "m": 2**20, "g": 2**30}
    number = text.lower().removesuffix("b") if len(text) > 1 and text[-2].isalpha() else text.lower()
    unit = units.get(number[-1:], 0)
    try:
        return int(float(number[:-1]) * unit) if unit else int(number)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a size", param_hint="--memory") from None


def environment(wanted: tuple[str, ...]) -> list[str]:
    """`-e` values: a name alone has this process's value, and none when it has none."""
    known = (text for text in wanted if "=" in text or text in os.environ)
    return [text if "=" in text else f"{text}={os.environ[text]}" for text in known]


def absolute(bind: str) -> str:
    """A `-v` value whose source begins with a dot is a path from here; the engine is elsewhere."""
    source, colon, rest = bind.partition(":")
    return f"{os.path.abspath(source)}{colon}{rest}" if colon and source.startswith(".") else bind


def published(specs: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, list[dict[str, str]]]]:
    """`-p` values → ExposedPorts and PortBindings.  A range of the container's ports goes to one of the host's as long,
    or to chosen ones; a range of the host's for one port is the engine's to choose from."""
    exposed: dict[str, Any] = {}
    bindings: dict[str, list[dict[str, str]]] = {}
    for spec in specs:
        rest, _, protocol = spec.partition("/")
        host, _, inner = rest.rpartition(":")
        address, _, port = host.rpartition(":")
        inside, outside = ports(inner, spec), ports(port, spec) if port else []
        if len(inside) == 1 or not outside:
            taken = [port] * len(inside)
        elif len(inside) == len(outside):
            taken = [str(number) for number in outside]
        else:
            raise click.BadParameter(f"{spec!r} has ranges that are not equally long", param_hint="--publish")
        for number, given in zip(inside, taken, strict=True):
            key = f"{number}/{protocol.lower() or 'tcp'}"
            exposed[key] = {}
            bindings.setdefault(key, []).append({"HostIp": address.strip("[]"), "HostPort": given})
    return exposed, bindings


def ports(text: str, spec: str) -> range:
    """`80` or `8000-8010`, of the `-p` value `spec`."""
    first, _, last = text.partition("-")
    try:
        found = range(int(first), int(last or first) + 1)
    except ValueError:
        found = range(0)
    if not found or not 0 <= found[0] <= found[-1] <= 65535:
        raise click.BadParameter(f"{text!r} in {spec!r} is no port", param_hint="--publish")
    return found


def _run(client: Client, request: dict[str, Any], options: dict[str, Any]) -> int:
    made = client.call("POST", "/containers/create", {"name": options["name"]}, request)
    for warning in made.get("Warnings") or []:
        click.echo(f"WARNING: {warning}", err=True)
    target = path_of(made["Id"])
    if options["detach"]:
        client.call("POST", f"{target}/start")
        click.echo(made["Id"])
        return 0
    streams = {"stream": 1, "stdout": 1, "stderr": 1, "stdin": int(options["interactive"])}
    stream = client.hijack(f"{target}/attach", streams)
    waiting = client.stream(
        "POST", f"{target}/wait", {"condition": "removed" if options["auto_remove"] else "next-exit"}
    )

    def send(number: int) -> None:
        with contextlib.suppress(ApiError):  # it has not begun, or has ended
            client.call("POST", f"{target}/kill", {"signal": number})

    with forwarded_signals(send):
        try:
            client.call("POST", f"{target}/start")
        except ApiError:
            if options["auto_remove"]:
                waiting.close()
            raise
        if attached(client, stream, target, options["tty"], options["interactive"]):
            return 0
        return int(json.loads(waiting.read())["StatusCode"])


def ensure_engine(client: Client) -> None:
    """Start an engine for this user when none listens; it ends by itself when nothing runs and nobody asks."""
    try:
        client.call("GET", "/version")
        return
    except NoEngine:
        if "DOCKER_HOST" in os.environ:
            raise
    # Only who needs an engine pays for the import.
    from boxwright.embed.process import IDLE_SECONDS, EngineError, start_for_user

    try:
        engine = start_for_user(client.address)
    except EngineError as error:
        what = f"no engine listens at {client.address}, and one could not be started:\n{error}"
        raise click.ClickException(what) from error
    said = f"started one for this user (pid {engine.pid}; it ends when idle for {IDLE_SECONDS} s)"
    click.echo(f"boxwright: no engine listens at {client.address}: {said}", err=True)
