"""CSV whose columns have the names of `traces.columns.COLUMNS`, as `save_trace(format="csv")` writes it.

`traces.writers.columns` says how values look that are no numbers. Nothing in the file says whose it is: its times are
shifted like those of other formats, and where it comes from is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from traces.columns import COLUMNS
from traces.published import header_of
from traces.readers.csv_rows import SECONDS, CsvRows
from traces.readers.gathered import Gathered, gather
from traces.readers.json_rows import Int64
from traces.readers.options import ReadOptions, TimeUnit
from traces.readers.own import tidy
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "fleetlab-csv"
TAKES = frozenset({"time_unit"})


def sniff(source: Source) -> bool:
    """By `arrived_s` among the column names, all of which are ours."""
    return source.has_columns("arrived_s") and set(source.csv_columns) <= COLUMNS.keys()


def read(source: Source, options: ReadOptions) -> tuple[Gathered, Header]:
    """Every column; arrivals are in seconds unless told otherwise."""
    unit = options.unit("s")
    return gather(source, options, lambda file: _parts(file, unit)), header_of(source, "fleetlab")


def _parts(source: Source, unit: TimeUnit) -> Iterator[Rows]:
    for part in source.parts():
        table = CsvRows(part)
        table.rows.put_arrivals(table.numbers("arrived_s", expected=SECONDS), unit, "arrived_s")
        for name in table.names:
            if name != "arrived_s":
                table.rows.put(name, _values(table, name), shown=table.texts(name))
        yield table.rows


def _values(table: CsvRows, name: str) -> pa.Array:
    kind = COLUMNS[name].type
    if pa.types.is_floating(kind):
        return table.numbers(name, expected="expected a number such as 12.5", required=False)
    if pa.types.is_integer(kind):
        return table.counts(name, expected="expected a whole number such as 128", required=False)
    if name == "extra":
        return tidy(table.rows, table.texts(name))
    if pa.types.is_string(kind):
        return _decoded(
            table, name, str, "is no JSON string, though it begins with a quote", quoted_only=True
        )
    if pa.types.is_boolean(kind):
        return _decoded(table, name, bool, "is neither true nor false")
    return _decoded(table, name, list[Int64], "is not a list of whole numbers")


def _decoded(
    table: CsvRows, name: str, kind: Any, problem: str, *, quoted_only: bool = False
) -> pa.Array:  # Any: a type
    """The column's cells from JSON, as a `kind`; with `quoted_only` those that begin with a quote are."""
    decode = msgspec.json.Decoder(kind).decode
    texts = table.texts(name)
    values: list[Any] = []  # Any: of that type
    bad = np.zeros(len(texts), dtype=bool)
    for row, text in enumerate(texts.to_pylist()):
        try:
            as_it_is = text is None or (quoted_only and text[0] != '"')
            values.append(text if as_it_is else decode(text))
        except (msgspec.MsgspecError, UnicodeEncodeError):
            bad[row] = True
            values.append(None)
    table.rows.reject(bad, name, problem, shown=texts)
    return pa.array(values, COLUMNS[name].type)
