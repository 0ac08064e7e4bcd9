"""`fleet export`: a saved run in the formats of other tools."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from fleet.cli import inputs, output
from fleet.cli.values import UsageError

if TYPE_CHECKING:
    from fleet.exports import ExportReport


def export(arguments: Namespace) -> int:
    """Read the run, write the file, and say what it does not have."""
    from fleet.exports import save_as

    run = inputs.run_of(arguments.run_directory)
    try:
        report = save_as(
            run, arguments.target, arguments.to, from_s=arguments.from_s, first_s=arguments.first_s
        )
    except ValueError as error:  # of a run that the format cannot hold, or not whole
        raise UsageError(str(error)) from None
    _say_lost(report)
    print(
        f"{arguments.target}: {report.written:,} {_UNITS.get(report.format, 'records')}, as {report.format}"
    )
    return 0


_UNITS = {"perfetto": "events", "csv": "rows"}


def _say_lost(report: ExportReport) -> None:
    if report.not_kept:
        output.note(f"not in it: {', '.join(report.not_kept)}")
    for reason, rows in report.left_out.items():
        output.note(f"left out: {rows:,} {reason}")
