"""A run's tables as CSV: the columns as they are named, absent values as empty cells, texts in quotes."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pyarrow.csv

from fleet.exports.report import ExportReport
from fleet.telemetry.run import Run
from traces.files import replacing

NAME = "csv"


def write_records(run: Run, file: BinaryIO) -> ExportReport:
    """The records, one line a request."""
    pyarrow.csv.write_csv(run.records, file)
    return ExportReport(format=NAME, written=len(run.records))


def write_all(run: Run, folder: Path) -> ExportReport:
    """Every table of the run, each in a file of its name."""
    for name, table in run.tables.items():
        with replacing(folder / f"{name}.csv") as file:
            pyarrow.csv.write_csv(table, file)
    return ExportReport(format=NAME, written=sum(len(table) for table in run.tables.values()))
