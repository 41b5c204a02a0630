"""`boxwright doctor`: what is wrong with this host and this engine's objects, and what to do about it."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import click

from boxwright import config
from boxwright.errdefs import Error

if TYPE_CHECKING:
    from boxwright.doctor.findings import Finding

CONFIG_FILE = "/etc/boxwright/daemon.json"
_COLOURS = {"error": "bold red", "orphan": "yellow", "warning": "cyan"}


@click.command()
@click.option("--data-root", default=None, help="Data root of the engine.  [default: of the settings file]")
@click.option("--exec-root", default=None, help="Run directory of the engine.")
@click.option("--config-file", default=None, help=f"Settings.  [default: {CONFIG_FILE}]")
@click.option("--json", "as_json", is_flag=True, help="Findings as one JSON list.")
@click.option(
    "--repair", "mend", is_flag=True, help="Remove what is orphaned, and nothing else; the engine has to be stopped."
)
def doctor(data_root: str | None, exec_root: str | None, config_file: str | None, as_json: bool, mend: bool) -> None:
    """Check the host and every object of the engine; the exit code is 1 when anything but warnings is found."""
    from boxwright.doctor import examination

    try:
        known_file = config_file is not None or os.path.exists(CONFIG_FILE)
        settings = config.load(config_file or CONFIG_FILE) if known_file else config.Settings()
        settings.data_root = data_root or settings.data_root
        settings.exec_root = exec_root or settings.exec_root
        if mend:
            _mend(settings)
        findings = examination.examine(settings)
    except (Error, OSError) as error:
        click.echo(f"boxwright: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps([finding.to_json() for finding in findings], indent=2))
    else:
        _show(findings)
    sys.exit(any(finding.level != "warning" for finding in findings))


def _mend(settings: config.Settings) -> None:
    from boxwright.doctor import examination

    mended, failed = examination.repair(settings)
    for finding in mended:
        click.echo(f"removed {finding.kind} {finding.which}", err=True)
    for finding, why in failed:
        click.echo(f"could not remove {finding.kind} {finding.which}: {why}", err=True)


def _show(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not findings:
        click.echo("nothing is wrong")
        return
    table = Table("", "what", "which", "problem", "what to do")
    for finding in findings:
        # Text, not markup: names of objects may hold brackets.
        level = Text(finding.level, _COLOURS[finding.level])
        table.add_row(level, finding.kind, Text(finding.which), Text(finding.problem), Text(finding.advice))
    Console().print(table)
