"""`boxwright trace`: the timeline of a start as a picture in the terminal."""

import itertools
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

OWNERS = {"engine": "cyan", "shim": "green", "init": "magenta"}


def bar(start: float, end: float, total: float, width: int, colour: str) -> Text:
    """A line of `width` cells with the cells from `start` to `end` (of `total`) filled; at least one is."""
    scale = width / total if total else 0
    first = min(width - 1, int(start * scale))
    last = min(width, max(first + 1, round(end * scale)))
    return Text(" " * first) + Text("█" * (last - first), style=colour) + Text(" " * (width - last))


def merged(steps: list[list[Any]]) -> list[list[Any]]:
    """Runs of steps with one name (mounts, devices, masks) as one step each, with their count for a detail."""
    found: list[list[Any]] = []
    for name, run in itertools.groupby(steps, key=lambda step: step[0]):
        parts = list(run)
        detail = parts[0][3] if len(parts) == 1 else f"{len(parts)} of them (--all shows each)"
        found.append([name, parts[0][1], max(part[2] for part in parts), detail])
    return found


def render(
    name: str, steps: list[list[Any]], error: dict[str, Any] | None, console: Console, every: bool = False
) -> None:
    """Draw the steps in the order of their beginning, then what failed and what to do about it.

    Steps are `[name, start_ns, end_ns, detail]` on CLOCK_MONOTONIC; shown in milliseconds from the first beginning.
    Runs of steps with one name are drawn as one, unless `every` is set.
    """
    if not steps:
        console.print(f"{name} has not been started since this engine keeps timelines")
        return
    steps = sorted(steps, key=lambda step: (step[1], -step[2]))
    origin, end = steps[0][1], max(step[2] for step in steps)
    steps = steps if every else merged(steps)
    total = (end - origin) / 1e6
    width = max(20, min(60, console.width - 62))
    table = Table(box=None, pad_edge=False, header_style="bold", title=f"{name}: {total:.2f} ms", title_justify="left")
    for title, justify in (("step", "left"), ("at ms", "right"), ("ms", "right"), ("", "left"), ("detail", "left")):
        table.add_column(title, justify=justify, no_wrap=title != "detail")  # type: ignore[arg-type]
    for step, start, stop, detail in steps:
        failed = error is not None and error.get("step") == step
        colour = "red" if failed else OWNERS.get(step.partition(":")[0], "cyan")
        begin, length = (start - origin) / 1e6, (stop - start) / 1e6
        picture = bar(begin, begin + length, total, width, colour)
        table.add_row(
            Text(step, style="red" if failed else ""),
            f"{begin:.2f}",
            f"{length:.2f}",
            picture,
            Text(str(detail or ""), style="dim"),
        )
    console.print(table)
    if error:
        _explain(error, console)


def _explain(error: dict[str, Any], console: Console) -> None:
    console.print()
    console.print(Text(f"failed: {error.get('message')}", style="bold red"), soft_wrap=True)
    for key in ("step", "operation", "path", "errno", "hint"):
        if error.get(key):
            console.print(Text(f"  {key:10} {error[key]}"), soft_wrap=True)
