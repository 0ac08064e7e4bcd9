"""This project's own formats, which hold a trace without loss; `traces.readers.own` says how they look."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Any, BinaryIO

import msgspec
import pyarrow.parquet

from traces.columns import COLUMNS
from traces.entries import CHUNK_ROWS
from traces.readers.own import MARK, Heading, Row
from traces.schema import Scalar
from traces.trace import Trace


def write_parquet(trace: Trace, file: BinaryIO) -> None:
    """The table, and the header in its metadata."""
    heading = msgspec.json.encode(Heading(1, trace.header))
    table = trace.table.replace_schema_metadata({MARK: heading})
    pyarrow.parquet.write_table(table, file, compression="zstd")


def write_jsonl(trace: Trace, file: BinaryIO) -> None:
    """The heading, then one object a request, with what a reader would assume left out."""
    encoder = msgspec.json.Encoder()
    file.write(encoder.encode(Heading(1, trace.header)) + b"\n")
    number = 0
    for batch in trace.table.to_batches(max_chunksize=CHUNK_ROWS):
        file.write(encoder.encode_lines(list(_rows(batch, number))))
        number += batch.num_rows


def _rows(batch: Any, first: int) -> Iterator[Any]:  # Any: a record batch; `Row`'s class is made at run time
    columns: list[Any] = [
        batch.column(name).to_pylist() if name in batch.schema.names else repeat(None) for name in COLUMNS
    ]
    for number, cells in enumerate(zip(*columns, strict=False), start=first):
        row = Row(*cells)
        row.id = None if row.id == str(number) else row.id
        row.extra = None if row.extra is None else msgspec.json.decode(row.extra, type=dict[str, Scalar])
        yield row
