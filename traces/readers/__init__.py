"""Readers of trace files, one module a format; a file's format is recognised by its content, not its name.

A reader has a `NAME`, the options that it `TAKES`, `sniff(source) -> bool`, which looks at the first lines only, and
`read(source, options)`, which gives the rows with every bad one marked and the header. To add a format, write such a
module and list it in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from traces.data import bundled_names, bundled_path
from traces.errors import TraceError
from traces.readers import (
    aiperf,
    azure,
    azure_functions,
    azure_functions_2019,
    bailian,
    blis,
    burstgpt,
    dynamo,
    guidellm,
    lengths,
    mapped,
    measured_run,
    mooncake,
    not_requests,
    otel_genai,
    own,
    own_csv,
    servegen,
    servegen_offline,
    sharegpt,
    splitwise,
    vidur,
    vllm_bench,
    weka,
    workload,
)
from traces.readers.gathered import Gathered
from traces.readers.options import OnBad, OnFailed, ReadOptions, TimeUnit, columns_of
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
        """Which of the options that a file may leave open (`ReadOptions.only` has them) mean something here."""
        ...

    def sniff(self, source: Source) -> bool:
        """Whether the file is in this format."""
        ...

    def read(self, source: Source, options: ReadOptions) -> tuple[Rows | Gathered, Header]:
        """The file's rows, bad ones marked, and its header; a format that is read in parts has them gathered."""
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
    azure_functions_2019,
    blis,
    servegen,
    servegen_offline,
    vllm_bench,
    aiperf,
    guidellm,
    dynamo,
    weka,
    otel_genai,
    sharegpt,
    lengths,
)


@recorded("load_trace")
def load_trace(
    path: str | Path,
    *,
    on_bad: OnBad = "raise",
    failed: OnFailed | None = None,
    time_unit: TimeUnit | None = None,
    block_tokens: int | None = None,
    arrivals: str | None = None,
    chars_per_token: float | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | str | None = None,
    format: str | None = None,
) -> Trace:
    """Read a trace from a file of any known format, plain or packed with gzip, bzip2, xz, zstd or zip.

    Rows that are out of order are sorted by arrival, stably, and counted in `Trace.report.reordered`. The first arrival
    becomes time 0, and `Trace.header.offset_s` what it was; only our own formats keep the times that they have. What
    was told here and mattered is the step ``read`` in the header.

    Args:
        path: A file; of a zip archive of several, one of them (``archive.zip::member.csv``). Or, where no such file
            exists and it has no folder in it, the name of a bundled trace (``surge-reference``, ``chat-small``,
            ``demo-surge``).
        on_bad: What becomes of a row with a missing, non-numeric, negative or infinite value: "raise" names
            the first in an error, "drop" leaves out and counts them all in `Trace.report.dropped`.
        failed: What becomes of requests that failed when they were recorded (`observed.failed`): "keep" (also where
            None) has them as they are recorded, "drop" leaves them out; both count them in `Trace.report.failed`.
        time_unit: Of the arrivals, where the format does not say it: "s", "ms", "us" or "ns".
        block_tokens: Tokens that each prefix hash stands for, where the file's are not the format's usual blocks.
        arrivals: The law by which the requests of a file without times come: ``poisson:RATE_PER_S``,
            ``gamma:RATE_PER_S:CV``, ``constant:RATE_PER_S`` or ``at-once``.
        chars_per_token: How many characters of a text make a token, where the file has texts and no counts.
        seed: Of all that is drawn: arrivals, or the times within the minutes of a file that has counts of minutes.
        columns: Of a table of your own (CSV, JSON lines or Parquet): which of its columns is which of a trace, with the
            unit of times whose name does not say it, as in ``{"arrived_s": "ts:ms", "prompt_tokens": "in"}``, or as
            text ``"arrived_s=ts:ms,prompt_tokens=in"``. Those that are not mapped go to `extra`.
        format: The name of the format to read it as; by default it is recognised.

    Raises:
        TraceError: No such file, an unknown format or one that may be two, a bad row, or times or hashes that
            contradict what the format says of them; says where, what, what would be right, and which format it was
            taken for.
    """
    options = ReadOptions(
        on_bad=on_bad,
        failed=failed,
        time_unit=time_unit,
        block_tokens=block_tokens,
        arrivals=arrivals,
        chars_per_token=chars_per_token,
        seed=seed,
        columns=columns_of(columns or {}),
    )
    source = Source(_found(Path(path)))
    reader = _reader(source, options, format)
    options.only(reader.TAKES, reader.NAME)
    try:
        rows, header = reader.read(source, options)
        return _gathered(rows, options).trace(header, reader.NAME)
    except TraceError as error:
        raise (error if reader is mapped else error.read_as(reader.NAME)) from None


def _gathered(rows: Rows | Gathered, options: ReadOptions) -> Gathered:
    if isinstance(rows, Gathered):
        return rows
    gathered = Gathered(rows.file, options)
    gathered.add(rows)
    return gathered


def _reader(source: Source, options: ReadOptions, format: str | None) -> Format:
    if not options.columns:
        return _recognised(source) if format is None else _named(format)
    if format is not None:
        raise TraceError(
            "columns= (--columns) is of a table of your own, and format= (--format) names a known one",
            remedy="give one of them",
        )
    return mapped


def _recognised(source: Source) -> Format:
    found = [reader for reader in FORMATS if reader.sniff(source)]
    if not found:
        raise _unknown(source)
    if len(found) > 1:
        names = " or ".join(reader.NAME for reader in found)
        remedy = f"say which with format= (--format): {names}"
        raise TraceError(f"may be {names}", remedy=remedy, file=source.path)
    return found[0]


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
    if (instead := not_requests.found(source)) is not None:
        holds, remedy = instead
        return TraceError(f"holds {holds}, not requests", remedy=remedy, file=source.path)
    begins = source.first_line[:60]
    known = ", ".join(reader.NAME for reader in FORMATS)
    remedy = f"known: {known}; a table of your own is read with columns= (--columns)"
    return TraceError(f'begins "{begins}", which is no known format', remedy=remedy, file=source.path)
