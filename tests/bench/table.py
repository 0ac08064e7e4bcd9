"""The table of ratios: one row a measurement, with its target and whether it was met."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rich.console import Console
from rich.table import Table


class Row(NamedTuple):
    """One measurement; without a target it is there to read the others by."""

    what: str
    measured: str
    target: str = ""
    met: bool | None = None


def show(rows: Iterable[Row], title: str, console: Console) -> bool:
    """Print the rows as they come in; True when no target was missed."""
    table = Table("measurement", "measured", "target", "", title=title, title_justify="left")
    passed = True
    for row in rows:
        verdict = "" if row.met is None else "[green]met[/]" if row.met else "[red]missed[/]"
        table.add_row(row.what, row.measured, row.target, verdict)
        passed = passed and row.met is not False
    console.print(table)
    return passed
