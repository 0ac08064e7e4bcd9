"""A table of the user's own, CSV, JSON lines or Parquet, by a mapping: which of its columns is which of a trace.

The one thing to know: nothing is guessed. A time says its unit in its name (``ts_ms``), or the mapping says it
(``ts:ms``), or it is a calendar time (ISO 8601); columns that are not mapped are in `extra`, under their own names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple, cast, get_args

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from traces.columns import COLUMNS
from traces.errors import TraceError
from traces.published import header_of
from traces.readers.blocks import put_blocks
from traces.readers.csv_rows import CsvRows
from traces.readers.gathered import Gathered, gather
from traces.readers.json_rows import columns_of, decode_lines, others, text_of
from traces.readers.options import PER_S, ReadOptions, TimeUnit
from traces.readers.parquet_rows import ParquetRows, is_parquet
from traces.readers.rows import Rows
from traces.readers.text_rows import SECONDS, TextRows
from traces.schema import Header, Scalar
from traces.source import Source

NAME = "columns"
TAKES = frozenset({"time_unit", "block_tokens"})
CALENDAR = "iso"
"""In the place of a unit: the column holds calendar times."""
UNITS = (*get_args(TimeUnit), CALENDAR)
_WORDS: dict[str, TimeUnit] = {
    "s": "s", "sec": "s", "secs": "s", "seconds": "s",
    "ms": "ms", "millis": "ms", "milliseconds": "ms",
    "us": "us", "micros": "us", "microseconds": "us",
    "ns": "ns", "nanos": "ns", "nanoseconds": "ns",
}  # fmt: skip
"""Ends of names that say a unit."""
_LAST_WORD = re.compile(r"(?:^|[^A-Za-z0-9])([A-Za-z]+)\W*$")


class _Mapped(NamedTuple):
    """A column of the trace: what the file calls it, and the unit that was told or stands in its name."""

    target: str
    column: str
    unit: str | None


class _Table(NamedTuple):
    """Some rows of the file: the mapped cells as text, and the columns that are not mapped as they are."""

    text: TextRows
    others: dict[str, list[Scalar]]


def read(source: Source, options: ReadOptions) -> tuple[Gathered, Header]:
    """The mapped columns; the others go to `extra`.

    Raises:
        TraceError: A column that is mapped is not in the file, or its unit is in doubt.
    """
    return gather(source, options, lambda file: _parts(file, options)), header_of(source)


def sniff(source: Source) -> bool:
    """Never: it must be said."""
    return False


def _parts(source: Source, options: ReadOptions) -> Iterator[Rows]:
    names = _names(source)
    mapped = [_mapped(target, told, names, source) for target, told in options.columns]
    _check_blocks(mapped, options, source)
    clock = _Clock(options.time_unit)
    for text, further in _tables(source, [each.column for each in mapped]):
        for each in mapped:
            if each.target == "arrived_s":
                clock.put(text, each)
            else:
                _put(text, each, told_sizes=options.block_tokens is not None)
        text.rows.put_others(further)
        yield text.rows


# --- the mapping --------------------------------------------------------------------------------------------


def _mapped(target: str, told: str, names: Collection[str], source: Source) -> _Mapped:
    column, colon, unit = told.rpartition(":")
    if told in names or not colon or unit not in UNITS:
        column, unit = told, ""
    timed = COLUMNS[target].unit == "s"
    if unit and (not timed or (unit == CALENDAR and target != "arrived_s")):
        kind = "is a duration, and no calendar time" if timed else "is no time, and has no unit"
        raise TraceError(f"{target} {kind}", remedy=f"map it as {target}={column}", file=source.path)
    return _Mapped(target, column, unit or (_named_unit(column) if timed else None))


def _named_unit(column: str) -> TimeUnit | None:
    word = _LAST_WORD.search(column)
    return _WORDS.get(word[1].lower()) if word else None


def _check_blocks(mapped: list[_Mapped], options: ReadOptions, source: Source) -> None:
    targets = [each.target for each in mapped]
    if "arrived_s" not in targets:
        remedy = "map one, as in arrived_s=COLUMN:ms"
        raise TraceError("no column is mapped to arrived_s", remedy=remedy, file=source.path)
    if "blocks" in targets and "block_tokens" not in targets and options.block_tokens is None:
        remedy = "say it with block_tokens= (--block-tokens), or map a column to block_tokens"
        raise TraceError(
            "blocks are mapped, and not how many tokens each has", remedy=remedy, file=source.path
        )


# --- the file -----------------------------------------------------------------------------------------------


def _is_json(source: Source) -> bool:
    return source.first_line.startswith("{")


def _names(source: Source) -> list[str]:
    """The columns that the file is known to have; of JSON lines, those of the first ones."""
    if is_parquet(source):
        return ParquetRows(source).names
    if _is_json(source):
        return list(dict.fromkeys(name for line in source.json_lines for name in line))
    return source.csv_columns


def _tables(source: Source, mapped: list[str]) -> Iterator[_Table]:
    if is_parquet(source):
        yield from _of_parquet(source, mapped)
    elif _is_json(source):
        yield from _of_json(source, mapped)
    else:
        for part in source.parts():
            table = CsvRows(part)
            yield _Table(table, cast("dict[str, list[Scalar]]", table.others(*mapped)))


def _of_parquet(source: Source, mapped: list[str]) -> Iterator[_Table]:
    for batch in ParquetRows(source).batches():
        text = {name: batch.texts(name) for name in batch.names if name in mapped}
        further = {name: batch.scalars(name) for name in batch.names if name not in mapped}
        yield _Table(TextRows(batch.rows, text), further)


def _of_json(source: Source, mapped: list[str]) -> Iterator[_Table]:
    names: dict[str, None] = {}
    for part in source.parts():
        lines, rows = decode_lines(part, dict[str, msgspec.Raw])
        names |= dict.fromkeys(name for line in lines for name in line)
        text = {
            name: pa.array([text_of(line[name]) if name in line else None for line in lines], pa.string())
            for name in mapped
        }
        yield _Table(TextRows(rows, text), columns_of([others(line, mapped) for line in lines]))
    for name in mapped:
        if name not in names:  # a line may lack it, but not all of them
            remedy = f"there are {', '.join(names)}"
            raise TraceError("is missing", remedy=remedy, file=source.path, column=name)


# --- values -------------------------------------------------------------------------------------------------


def _put(table: TextRows, mapped: _Mapped, *, told_sizes: bool) -> None:
    target, column, unit = mapped
    kind = COLUMNS[target].type
    if target == "blocks":
        _put_hashes(table, column, told_sizes=told_sizes)
    elif COLUMNS[target].unit == "s":
        if unit is None:
            raise _in_doubt(table, mapped)
        given = table.numbers(column, expected=SECONDS, required=False)
        table.rows.put(target, pc.divide(given, PER_S[cast("TimeUnit", unit)]), column, shown=given)
    elif kind == pa.float64():
        table.rows.put(target, table.numbers(column, expected="expected a number", required=False), column)
    elif kind == pa.int64():
        table.rows.put(
            target, table.counts(column, expected="expected a whole number", required=False), column
        )
    elif kind == pa.bool_():
        table.rows.put(target, table.flags(column), column)
    else:
        table.rows.put(target, table.texts(column), column)


def _put_hashes(table: TextRows, column: str, *, told_sizes: bool) -> None:
    """Hashes, each cell a JSON list of them."""
    decode = msgspec.json.Decoder(list[int]).decode
    texts = table.texts(column)
    hashes: list[list[int] | None] = []
    bad = np.zeros(len(texts), dtype=bool)
    for row, text in enumerate(texts.to_pylist()):
        try:
            hashes.append(None if text is None else decode(text))
        except msgspec.MsgspecError:
            hashes.append(None)
            bad[row] = True
    table.rows.reject(bad, column, "is no list of hashes", "expected such as [17, 18]", texts)
    put_blocks(table.rows, hashes, usual=1, partial=False, column=column)
    if not told_sizes:
        table.rows.hashing = None  # each row says its size itself


class _Clock:
    """How the file has arrivals: as it was told, as the name says, or by the first that there is.

    Args:
        unit: Told for the file.
    """

    def __init__(self, unit: TimeUnit | None) -> None:
        self._unit: str | None = unit

    def put(self, table: TextRows, mapped: _Mapped) -> None:
        """The arrivals of the next rows. Raises `TraceError` where they are numbers of no said unit."""
        self._unit = mapped.unit or self._unit or _calendar(table, mapped)
        if self._unit in (CALENDAR, None):
            instants = table.instants_ns(mapped.column)
            table.rows.put_arrivals(instants, "ns", mapped.column, calendar=True)
        else:
            recorded = table.exact(mapped.column, expected="expected a number")
            table.rows.put_arrivals(recorded, cast("TimeUnit", self._unit), mapped.column)


def _calendar(table: TextRows, mapped: _Mapped) -> str | None:
    """That the column has calendar times, by its first cell; None if it has no cell yet."""
    present = table.texts(mapped.column).drop_null()
    if not len(present):
        return None
    try:
        present[:1].cast(pa.float64())
    except pa.ArrowInvalid:
        return CALENDAR
    raise _in_doubt(table, mapped)


def _in_doubt(table: TextRows, mapped: _Mapped) -> TraceError:
    target, column, _ = mapped
    units = ", ".join(get_args(TimeUnit))
    remedy = f"say it, as in {target}={column}:ms (one of {units})"
    return TraceError(
        "has numbers, and nothing says their unit", remedy=remedy, file=table.rows.file, column=column
    )
