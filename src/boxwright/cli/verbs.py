"""The verbs that look at or change what is there: ps, logs, exec, stop, rm, images, load, inspect, events, trace,
version. For people without the docker CLI; texts and exit codes are the docker CLI's."""

import datetime
import json
import re
import sys
import time
from typing import Any
from urllib.parse import quote

import click

from boxwright.cli.streams import Demultiplexer, pump, raw_terminal, window_size, write_all
from boxwright.client import ApiError, Client, Hijacked


def table(titles: list[str], rows: list[list[str]]) -> None:
    """Columns as wide as their longest cell, three spaces apart."""
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]
    for row in [titles, *rows]:
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def ago(seconds: float) -> str:
    """A time in the past as docker words it."""
    for size, unit in ((86400 * 365, "year"), (86400 * 30, "month"), (86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return f"{max(0, int(seconds))} seconds ago"


def size(octets: int) -> str:
    """Decimal units, three significant digits, as docker prints sizes."""
    value, units = float(octets), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    for bigger in units:
        if value < 1000:
            break
        value, unit = value / 1000, bigger
    return f"{value:.3g}{unit}"


def moment(text: str | None) -> str | None:
    """`--since` and `--until` for the API: UNIX seconds, from a time span before now ("1h30m"), RFC 3339 or seconds."""
    if not text:
        return None
    spans = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    if spans:
        hours, minutes, seconds = (float(part or 0) for part in spans.groups())
        return f"{time.time() - hours * 3600 - minutes * 60 - seconds:.9f}"
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return text
    try:
        return f"{datetime.datetime.fromisoformat(text).timestamp():.9f}"
    except ValueError:
        raise click.UsageError(f"{text!r} is no time: expected 10m, 2024-01-02T15:04:05Z or UNIX seconds") from None


def path_of(name: str) -> str:
    return f"/containers/{quote(name, safe='')}"


@click.command()
@click.option("-a", "--all", "every", is_flag=True, help="Show all containers, not only running ones.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("--no-trunc", is_flag=True, help="Do not cut ids and commands.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Filter the list.")
@click.pass_obj
def ps(client: Client, every: bool, quiet: bool, no_trunc: bool, filters: tuple[str, ...]) -> None:
    """List containers."""
    wanted: dict[str, list[str]] = {}
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"filter {text!r} is not KEY=VALUE")
        wanted.setdefault(key, []).append(value)
    query = {"all": int(every), "filters": json.dumps(wanted) if wanted else None}
    found = client.call("GET", "/containers/json", query)
    if quiet:
        for container in found:
            click.echo(container["Id"] if no_trunc else container["Id"][:12])
        return
    rows = []
    for c in found:
        command = c["Command"] if no_trunc or len(c["Command"]) <= 20 else c["Command"][:19] + "…"
        names = ",".join(name.lstrip("/") for name in c["Names"])
        rows.append(
            [
                c["Id"] if no_trunc else c["Id"][:12],
                c["Image"],
                f'"{command}"',
                ago(time.time() - c["Created"]),
                c["Status"],
                ports(c["Ports"]),
                names,
            ]
        )
    table(["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"], rows)


def ports(found: list[dict[str, Any]]) -> str:
    shown = []
    for port in found:
        inner = f"{port['PrivatePort']}/{port['Type']}"
        shown.append(f"{port['IP']}:{port['PublicPort']}->{inner}" if port.get("PublicPort") else inner)
    return ", ".join(shown)


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on as output comes.")
@click.option("-t", "--timestamps", is_flag=True, help="The time before each line.")
@click.option("-n", "--tail", default="all", help="Lines from the end.")
@click.option("--since", help="From this time (10m ago, RFC 3339 or UNIX seconds).")
@click.option("--until", help="Up to this time.")
@click.pass_obj
def logs(
    client: Client, name: str, follow: bool, timestamps: bool, tail: str, since: str | None, until: str | None
) -> None:
    """Show a container's output."""
    query = {
        "stdout": 1,
        "stderr": 1,
        "follow": int(follow),
        "timestamps": int(timestamps),
        "tail": tail,
        "since": moment(since),
        "until": moment(until),
    }
    with client.stream("GET", f"{path_of(name)}/logs", query) as answer:
        framed = answer.getheader("Content-Type") == "application/vnd.docker.multiplexed-stream"
        feed = Demultiplexer(write_all).feed if framed else (lambda data: write_all(1, data))
        while data := answer.read1(65536):
            feed(data)


@click.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Keep stdin open.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-d", "--detach", is_flag=True, help="Leave it running.")
@click.option("-e", "--env", multiple=True, help="Set an environment variable.")
@click.option("-w", "--workdir", help="Working directory.")
@click.option("-u", "--user", help="User or user:group.")
@click.option("--privileged", is_flag=True, help="With all capabilities.")
@click.option("--timeout", type=click.IntRange(0), default=0, help="Kill it and its children after so many seconds.")
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def execute(
    client: Client, /, name: str, command: tuple[str, ...], interactive: bool, tty: bool, detach: bool, **options: Any
) -> None:
    """Run a command in a running container."""
    streams = {"AttachStdin": interactive and not detach, "AttachStdout": not detach, "AttachStderr": not detach}
    settings = {
        "Cmd": list(command),
        "Tty": tty,
        "Env": list(options["env"]),
        "WorkingDir": options["workdir"] or "",
        "User": options["user"] or "",
        "Privileged": options["privileged"],
        "Timeout": options["timeout"],
    }
    made = client.call("POST", f"{path_of(name)}/exec", body={**settings, **streams})
    started = f"/exec/{made['Id']}/start"
    if detach:
        client.call("POST", started, body={"Detach": True, "Tty": tty})
        return
    stream = client.hijack(started, body={"Detach": False, "Tty": tty})
    if attached(client, stream, f"/exec/{made['Id']}", tty, interactive):
        return
    sys.exit(client.call("GET", f"/exec/{made['Id']}/json")["ExitCode"] or 0)


def attached(client: Client, stream: Hijacked, target: str, tty: bool, interactive: bool) -> bool:
    """Pump one attached stream, in raw mode when the program has a terminal and so have we.

    Returns True when the person has left a program that goes on (ctrl-p ctrl-q).
    """

    def resize(rows: int, columns: int) -> None:
        try:
            client.call("POST", f"{target}/resize", {"h": rows, "w": columns})
        except ApiError:
            return  # it has ended, or not begun: the size matters to nobody

    if tty and interactive and sys.stdin.isatty():
        with raw_terminal(resize):
            resize(*window_size())
            left = pump(stream, stdin=True)
        if left:
            click.echo("read escape sequence", err=True)
        return left
    pump(stream, stdin=interactive)
    return False


def each(names: tuple[str, ...], work: Any) -> None:
    """Do `work` for every name, print each that went well, and exit with 1 when one did not."""
    failed = False
    for name in names:
        try:
            work(name)
            click.echo(name)
        except ApiError as error:
            click.echo(f"Error response from the engine: {error}", err=True)
            failed = True
    if failed:
        sys.exit(1)


@click.command()
@click.option("-t", "--time", "seconds", type=int, help="Seconds before SIGKILL.")
@click.option("-s", "--signal", help="The signal to send first.")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def stop(client: Client, names: tuple[str, ...], seconds: int | None, signal: str | None) -> None:
    """Stop running containers."""
    each(names, lambda name: client.call("POST", f"{path_of(name)}/stop", {"t": seconds, "signal": signal}))


@click.command()
@click.option("-f", "--force", is_flag=True, help="Kill the running ones first.")
@click.option("-v", "--volumes", is_flag=True, help="Remove their anonymous volumes too.")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def rm(client: Client, names: tuple[str, ...], force: bool, volumes: bool) -> None:
    """Remove containers."""
    each(names, lambda name: client.call("DELETE", path_of(name), {"force": int(force), "v": int(volumes)}))


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.pass_obj
def images(client: Client, quiet: bool) -> None:
    """List images."""
    rows = []
    for image in client.call("GET", "/images/json"):
        short = image["Id"].removeprefix("sha256:")[:12]
        for reference in image.get("RepoTags") or ["<none>:<none>"]:
            repository, _, tag = reference.rpartition(":")
            rows.append([repository, tag, short, ago(time.time() - image["Created"]), size(image["Size"])])
    if quiet:
        for short in dict.fromkeys(row[2] for row in rows):
            click.echo(short)
        return
    table(["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], rows)


@click.command()
@click.option("-i", "--input", "source", type=click.File("rb"), default="-", help="The archive; stdin when not given.")
@click.pass_obj
def load(client: Client, source: Any) -> None:
    """Load images from an archive (docker save, or an OCI layout)."""
    if source.isatty():
        raise click.UsageError("requested load from stdin, but stdin is empty")
    for message in client.lines("POST", "/images/load", {"quiet": 1}, body=source):
        if "error" in message:
            raise click.ClickException(message["error"])
        click.echo(message.get("stream", ""), nl=False)


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def inspect(client: Client, names: tuple[str, ...]) -> None:
    """Show all that is known of containers, images, volumes or networks, as JSON."""
    found, missing = [], False
    for name in names:
        for kind in (path_of(name), f"/images/{quote(name)}", f"/volumes/{quote(name)}", f"/networks/{quote(name)}"):
            suffix = "/json" if kind.startswith(("/containers", "/images")) else ""
            try:
                found.append(client.call("GET", kind + suffix))
                break
            except ApiError as error:
                if error.status != 404:
                    raise
        else:
            click.echo(f"Error: No such object: {name}", err=True)
            missing = True
    click.echo(json.dumps(found, indent=4))
    if missing:
        sys.exit(1)


@click.command()
@click.option("--since", help="From this time (10m ago, RFC 3339 or UNIX seconds).")
@click.option("--until", help="Up to this time.")
@click.pass_obj
def events(client: Client, since: str | None, until: str | None) -> None:
    """Follow what happens to containers, images, volumes and networks."""
    for event in client.lines("GET", "/events", {"since": moment(since), "until": moment(until)}):
        happened = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(event["time"]))
        actor = event["Actor"]
        attributes = ", ".join(f"{k}={v}" for k, v in sorted((actor.get("Attributes") or {}).items()))
        click.echo(
            f"{happened}.{event['timeNano'] % 10**9:09d} {event['Type']} {event['Action']} {actor['ID']} ({attributes})"
        )


@click.command()
@click.option("-a", "--all", "every", is_flag=True, help="Each mount, device and mask by itself.")
@click.argument("name")
@click.pass_obj
def trace(client: Client, name: str, every: bool) -> None:
    """Draw the timeline of a container's last start, and say why it failed."""
    from rich.console import Console

    from boxwright.cli.timeline import render

    found = client.call("GET", f"{path_of(name)}/json")
    ours = found.get("Boxwright") or {}
    render(found["Name"].lstrip("/"), ours.get("Timeline") or [], ours.get("StartError"), Console(), every)


@click.command()
@click.pass_obj
def version(client: Client) -> None:
    """Show the versions of client and engine."""
    from boxwright import __version__

    click.echo(f"Client: boxwright {__version__}")
    found = client.call("GET", "/version")
    api = f"API {found['MinAPIVersion']} to {found['ApiVersion']}"
    click.echo(f"Engine: {found['Platform']['Name']} {found['Version']} ({api})")


ALL = (ps, logs, execute, stop, rm, images, load, inspect, events, trace, version)
