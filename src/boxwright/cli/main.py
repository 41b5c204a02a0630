"""`boxwright`: a verb is imported when it is used, so that each answers without the others' import time."""

import importlib
import os
import sys

import click

from boxwright import __version__

# verb → module and attribute of its click command
VERBS: dict[str, tuple[str, str]] = {
    "serve": ("boxwright.cli.serve", "serve"),
    "run": ("boxwright.cli.run", "run"),
    **{verb: ("boxwright.cli.verbs", verb) for verb in ("ps", "logs", "stop", "rm", "images", "load", "inspect")},
    **{verb: ("boxwright.cli.verbs", verb) for verb in ("events", "trace", "version")},
    "exec": ("boxwright.cli.verbs", "execute"),
    "doctor": ("boxwright.doctor.command", "doctor"),
}


class LazyGroup(click.Group):
    """A group whose commands are imported by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb, in the order of VERBS."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb; None when there is no such one."""
        if cmd_name not in VERBS:
            return None
        module, attribute = VERBS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-H", "--host", help="Address of the engine.  [default: $DOCKER_HOST, else this user's own]")
@click.version_option(__version__, prog_name="boxwright")
@click.pass_context
def group(context: click.Context, host: str | None) -> None:
    """A Docker-compatible container engine."""
    if context.invoked_subcommand not in ("serve", "doctor"):
        from boxwright.client import Client, default_address

        context.obj = Client(host or default_address())


def main() -> None:
    """The console script: the engine's refusals and a missing engine become one line on stderr, and exit code 1."""
    from boxwright.client import ApiError, NoEngine

    try:
        group()
    except ApiError as error:
        click.echo(f"Error response from the engine: {error}", err=True)
    except NoEngine as error:
        click.echo(f"boxwright: no engine listens at {error}\n`boxwright serve` starts one.", err=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output is gone; so is who would read an error text.  Python's own flush must not raise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(1)


if __name__ == "__main__":
    main()
