"""This project's own formats: JSON lines and Parquet. Both hold a trace without loss.

JSON lines: the first line is ``{"fleetlab_trace": 1, "header": {...}}``, every further one a request: an
object with the names of `traces.columns.COLUMNS`, absent ones left out. `id` may be left out where it is the
row's number from 0, `kind` where it is ``online``; `extra` is an object, `blocks` a list.

Parquet: the same columns, the first line's object in the file's metadata under ``fleetlab_trace``. A Parquet
file without it is another maker's: it is read too, if its columns have these names, and its times are shifted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa

from traces.columns import COLUMNS
from traces.errors import TraceError
from traces.published import header_of
from traces.readers.gathered import Gathered, gather
from traces.readers.json_rows import Int64, decode_lines
from traces.readers.options import ReadOptions
from traces.readers.parquet_rows import ParquetRows, is_parquet
from traces.readers.rows import Rows
from traces.schema import Header, RequestKind, Scalar
from traces.source import Source

MARK = "fleetlab_trace"
VERSION: Literal[1] = 1


class Heading(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of a JSON-lines trace, and the metadata of a Parquet one."""

    fleetlab_trace: Literal[1]
    header: Header


_PYTHON: dict[pa.DataType, Any] = {  # `Any`: these are types, built up for msgspec
    pa.float64(): float,
    pa.int64(): Int64,
    pa.string(): str,
    pa.bool_(): bool,
    pa.list_(pa.int64()): list[Int64],
}
_SPECIAL: dict[str, Any] = {"kind": RequestKind, "extra": dict[str, Scalar]}
Row: Any = msgspec.defstruct(
    "Row",
    [("arrived_s", float)]
    + [
        (name, _SPECIAL.get(name, _PYTHON[c.type]) | None, None)
        for name, c in COLUMNS.items()
        if name != "arrived_s"
    ],
    forbid_unknown_fields=True,
    omit_defaults=True,
)
"""One line of a JSON-lines trace. `Any`: the class is made from the list of columns."""


class Jsonl:
    """JSON lines."""

    NAME = "fleetlab-jsonl"
    TAKES: frozenset[str] = frozenset()

    @staticmethod
    def sniff(source: Source) -> bool:
        """By the mark in the first line."""
        return source.first_line.startswith("{") and f'"{MARK}"' in source.first_line[:40]

    @staticmethod
    def read(source: Source, options: ReadOptions) -> tuple[Gathered, Header]:
        """Every column, times as they are. Blank lines may precede the heading."""
        blank = len(source.head) - len(source.head.lstrip())
        skip = source.head[:blank].count(b"\n") + 1
        heading = _heading(source, source.first_line.encode())
        return gather(source, options, lambda file: _lines(file, skip)), heading.header


def _lines(source: Source, skip: int) -> Iterator[Rows]:
    for part in source.parts():
        lines, rows = decode_lines(part, Row, skip=skip)
        for name in COLUMNS:
            cells = [getattr(line, name) for line in lines]
            if name not in {"arrived_s", "id"} and cells.count(None) == len(cells):
                continue
            if name == "extra":
                cells = [None if cell is None else _encode(cell).decode() for cell in cells]
            if name == "id":
                numbers = (str(line - skip - 1) for line in rows.lines)
                cells = [
                    number if cell is None else cell for cell, number in zip(cells, numbers, strict=True)
                ]
            rows.put(name, pa.array(cells, COLUMNS[name].type))
        yield rows


_encode = msgspec.json.Encoder(order="sorted").encode


class Parquet:
    """Parquet."""

    NAME = "fleetlab-parquet"
    TAKES: frozenset[str] = frozenset()

    @staticmethod
    def sniff(source: Source) -> bool:
        """By the magic bytes of any Parquet file."""
        return is_parquet(source)

    @staticmethod
    def read(source: Source, options: ReadOptions) -> tuple[Gathered, Header]:
        """Every column. Lines in errors are row numbers from 1."""
        file = ParquetRows(source)
        unknown = [name for name in file.names if name not in COLUMNS]
        if unknown or "arrived_s" not in file.names:
            problem = "is not a column of a trace" if unknown else "is missing"
            remedy = (
                f"expected arrived_s and any of {', '.join(COLUMNS)}; a table of your own is read with columns= "
                "(--columns)"
            )
            raise TraceError(problem, remedy=remedy, file=source.path, column=(*unknown, "arrived_s")[0])
        mark = file.metadata.get(MARK.encode())
        heading = _heading(source, mark) if mark else None
        rows = gather(source, options, lambda file: _batches(file, shifted=heading is None))
        return rows, header_of(source, "another maker") if heading is None else heading.header


def _batches(source: Source, *, shifted: bool) -> Iterator[Rows]:
    for batch in ParquetRows(source).batches():
        rows = batch.rows
        for name in batch.names:
            values = _cast(source, name, batch.column(name))
            rows.put(name, tidy(rows, values) if name == "extra" else values)
        if shifted:
            rows.put_arrivals(rows.columns["arrived_s"], "s", "arrived_s")
        yield rows


def _heading(source: Source, text: bytes) -> Heading:
    try:
        return msgspec.json.decode(text, type=Heading)
    except msgspec.MsgspecError as error:
        remedy = f'expected {{"{MARK}": {VERSION}, "header": {{"source": ...}}}}'
        raise TraceError(f"the heading is wrong: {error}", remedy=remedy, file=source.path, line=1) from None


def _cast(source: Source, name: str, values: pa.Array) -> pa.Array:
    try:
        return values.cast(COLUMNS[name].type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        remedy = f"expected {COLUMNS[name].type}"
        raise TraceError(f"holds {values.type}", remedy=remedy, file=source.path, column=name) from None


def tidy(rows: Rows, texts: pa.Array) -> pa.Array:
    """JSON objects in the one form that hashes alike: keys sorted, no spaces."""
    tidy: list[str | None] = []
    bad = np.zeros(len(texts), dtype=bool)
    for row, text in enumerate(texts.to_pylist()):
        try:
            fields = None if text is None else msgspec.json.decode(text, type=dict[str, Scalar])
            tidy.append(None if fields is None else msgspec.json.encode(fields, order="sorted").decode())
        except msgspec.MsgspecError:
            bad[row] = True
            tidy.append(None)
    rows.reject(bad, "extra", "is not a JSON object of plain values", shown=texts)
    return pa.array(tidy, pa.string())
