"""Readers of trace files, one module a format; a file's format is recognised by its content, not its name.

A reader has a `NAME`, `sniff(source) -> bool`, which looks at the first line only, and `read(source)`, which
gives the rows with every bad one marked and the header. To add a format, write such a module and list it in
`FORMATS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from traces.data import bundled_names, bundled_path
from traces.errors import TraceError
from traces.rates import holds_rates
from traces.readers import (
    azure,
    bailian,
    burstgpt,
    measured_run,
    mooncake,
    own,
    recorded_faults,
    splitwise,
    vidur,
    workload,
)
from traces.readers.rows import OnBad, Rows
from traces.schema import Header
from traces.source import Source
from traces.trace import Trace


class Format(Protocol):
    """What each reader's module offers."""

    @property
    def NAME(self) -> str:  # noqa: N802  (a constant of a module)
        """The format's name, as the report gives it."""
        ...

    def sniff(self, source: Source) -> bool:
        """Whether the file is in this format."""
        ...

    def read(self, source: Source) -> tuple[Rows, Header]:
        """The file's rows, bad ones marked, and its header."""
        ...


FORMATS: tuple[Format, ...] = (
    own.Jsonl(),
    own.Parquet(),
    azure,
    burstgpt,
    vidur,
    splitwise,
    measured_run,
    workload,
    bailian,
    mooncake,
)


def load_trace(path: str | Path, *, on_bad: OnBad = "raise") -> Trace:
    """Read a trace from a file of any known format, plain or packed with gzip or bzip2.

    Rows that are out of order are sorted by arrival, stably, and counted in `Trace.report.reordered`.

    Args:
        path: A file; or, where no such file exists and it has no folder in it, the name of a bundled trace
            (``surge-reference``, ``chat-small``, ``demo-surge``).
        on_bad: What becomes of a row with a missing, non-numeric, negative or infinite value: "raise" names
            the first in an error, "drop" leaves out and counts them all in `Trace.report.dropped`.

    Raises:
        TraceError: No such file, an unknown format, or a bad row; says where, what, and what would be right.
    """
    source = Source(_found(Path(path)))
    for reader in FORMATS:
        if reader.sniff(source):
            rows, header = reader.read(source)
            return rows.trace(header, reader.NAME, on_bad)
    raise _unknown(source)


def _found(path: Path) -> Path:
    if path.exists() or path.name != str(path):
        return path
    bundled = bundled_path(path.name)
    if bundled is None and not path.suffix:
        remedy = f"bundled traces are {', '.join(bundled_names())}"
        raise TraceError("is neither a file nor the name of a bundled trace", remedy=remedy, file=path)
    return bundled or path


def _unknown(source: Source) -> TraceError:
    if recorded_faults.sniff(source):
        return TraceError("holds faults, not requests", remedy="read it with load_faults()", file=source.path)
    if holds_rates(source):
        remedy = "sample requests from it: from_rates(load_rates(path), seed=0)"
        return TraceError("holds rates, not requests", remedy=remedy, file=source.path)
    begins = source.first_line[:60]
    known = ", ".join(reader.NAME for reader in FORMATS)
    return TraceError(
        f'begins "{begins}", which is no known format', remedy=f"known: {known}", file=source.path
    )
