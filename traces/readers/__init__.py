"""Readers of trace files, one module a format; a file's format is recognised by its content, not its name.

A reader has a `NAME`, the options that it `TAKES`, `sniff(source) -> bool`, which looks at the first lines only, and
`read(source, options)`, which gives the rows with every bad one marked and the header. To add a format, write such a
module and list it in `FORMATS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from traces import operations
from traces.data import bundled_names, bundled_path
from traces.errors import TraceError
from traces.rates import holds_rates
from traces.readers import (
    azure,
    azure_functions,
    bailian,
    burstgpt,
    measured_run,
    mooncake,
    own,
    own_csv,
    recorded_faults,
    splitwise,
    vidur,
    workload,
)
from traces.readers.options import OnBad, OnFailed, ReadOptions, TimeUnit
from traces.readers.rows import Rows
from traces.recipe import recorded
from traces.schema import Header
from traces.source import Source
from traces.trace import Trace


class Format(Protocol):
    """What each reader's module offers."""

    @property
    def NAME(self) -> str:  # noqa: N802  (a constant of a module)
        """The format's name, as the report gives it."""
        ...

    @property
    def TAKES(self) -> frozenset[str]:  # noqa: N802  (a constant of a module)
        """Which of the options `time_unit` and `block_tokens` mean something here."""
        ...

    def sniff(self, source: Source) -> bool:
        """Whether the file is in this format."""
        ...

    def read(self, source: Source, options: ReadOptions) -> tuple[Rows, Header]:
        """The file's rows, bad ones marked, and its header."""
        ...


FORMATS: tuple[Format, ...] = (
    own.Jsonl(),
    own.Parquet(),
    own_csv,
    azure,
    azure_functions,
    burstgpt,
    vidur,
    splitwise,
    measured_run,
    workload,
    bailian,
    mooncake,
)


@recorded("load_trace")
def load_trace(
    path: str | Path,
    *,
    on_bad: OnBad = "raise",
    failed: OnFailed | None = None,
    time_unit: TimeUnit | None = None,
    block_tokens: int | None = None,
    format: str | None = None,
) -> Trace:
    """Read a trace from a file of any known format, plain or packed with gzip or bzip2.

    Rows that are out of order are sorted by arrival, stably, and counted in `Trace.report.reordered`. The first arrival
    becomes time 0, and `Trace.header.offset_s` what it was; only our own formats keep the times that they have. What
    was told here and mattered is the step ``read`` in the header.

    Args:
        path: A file; or, where no such file exists and it has no folder in it, the name of a bundled trace
            (``surge-reference``, ``chat-small``, ``demo-surge``).
        on_bad: What becomes of a row with a missing, non-numeric, negative or infinite value: "raise" names
            the first in an error, "drop" leaves out and counts them all in `Trace.report.dropped`.
        failed: What becomes of requests that failed when they were recorded (`observed.failed`): "keep" (also where
            None) has them as they are recorded, "drop" leaves them out; both count them in `Trace.report.failed`.
        time_unit: Of the arrivals, where the format does not say it: "s", "ms", "us" or "ns".
        block_tokens: Tokens that each prefix hash stands for, where the file's are not the format's usual blocks.
        format: The name of the format to read it as; by default it is recognised.

    Raises:
        TraceError: No such file, an unknown format, a bad row, or times or hashes that contradict what the format
            says of them; says where, what, what would be right, and which format was assumed.
    """
    options = ReadOptions(on_bad=on_bad, failed=failed, time_unit=time_unit, block_tokens=block_tokens)
    source = Source(_found(Path(path)))
    reader = _recognised(source) if format is None else _named(format)
    options.only(reader.TAKES, reader.NAME)
    try:
        rows, header = reader.read(source, options)
        return rows.trace(header, reader.NAME, options)
    except TraceError as error:
        raise error.read_as(reader.NAME) from None


def _recognised(source: Source) -> Format:
    for reader in FORMATS:
        if reader.sniff(source):
            return reader
    raise _unknown(source)


def _named(format: str) -> Format:
    for reader in FORMATS:
        if format == reader.NAME:
            return reader
    known = ", ".join(reader.NAME for reader in FORMATS)
    raise TraceError(f"there is no format {format!r}", remedy=f"known: {known}")


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
    if operations.sniff(source):
        remedy = "read it with load_operations()"
        return TraceError("holds operations, not requests", remedy=remedy, file=source.path)
    if holds_rates(source):
        remedy = "sample requests from it: from_rates(load_rates(path), seed=0)"
        return TraceError("holds rates, not requests", remedy=remedy, file=source.path)
    begins = source.first_line[:60]
    known = ", ".join(reader.NAME for reader in FORMATS)
    return TraceError(
        f'begins "{begins}", which is no known format', remedy=f"known: {known}", file=source.path
    )
