"""A trace as CSV, every column under its own name, units in the names. `traces.readers.own_csv` reads it back.

An absent value is an empty cell. Blocks are a JSON list, `extra` is a JSON object, flags are ``true`` and ``false``.
Text is as it is, but for what CSV would lose: text that is empty, begins with a quote, has white space at its ends or
characters that cannot be printed is a JSON string.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa

from traces.columns import COLUMNS
from traces.entries import CHUNK_ROWS
from traces.trace import Trace

NAME = "csv"
HOLDS = frozenset(COLUMNS)


def write(trace: Trace, file: BinaryIO) -> dict[str, int]:
    """The columns that the trace has, in canonical order."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(trace.table.column_names)
    for batch in trace.table.to_batches(max_chunksize=CHUNK_ROWS):
        columns = [_cells(name, batch[name]) for name in batch.schema.names]
        rows.writerows(zip(*columns, strict=True))
    text.detach()
    return {}


def _cells(name: str, values: pa.Array) -> list[Any]:  # Any: what csv writes as it is: text, numbers, None
    write_one = _as_text(name)
    cells: list[Any] = values.to_pylist()
    return cells if write_one is None else [None if cell is None else write_one(cell) for cell in cells]


def _as_text(name: str) -> Callable[[Any], str] | None:
    kind = COLUMNS[name].type
    if name == "extra" or not (
        pa.types.is_string(kind) or pa.types.is_list(kind) or pa.types.is_boolean(kind)
    ):
        return None
    return _text if pa.types.is_string(kind) else _json


def _text(value: str) -> str:
    plain = value and value.isprintable() and value == value.strip() and value[0] != '"'
    return value if plain else _json(value)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
