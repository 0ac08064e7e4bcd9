"""Traces to files of this project's own formats. A trace always gives the same bytes, packing aside."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet

from traces.columns import COLUMNS
from traces.entries import CHUNK_ROWS
from traces.errors import TraceError
from traces.readers.own import MARK, Heading, Row
from traces.schema import Scalar
from traces.trace import Trace


def save_trace(trace: Trace, path: str | Path) -> None:
    """Write a trace in the format that the name asks for: ``.jsonl``, ``.jsonl.gz`` or ``.parquet``.

    `load_trace` gives back an equal trace with the same `sha256`. The format is described in
    `traces.readers.own`.

    Raises:
        TraceError: Another suffix.
    """
    path = Path(path)
    if path.name.endswith(".parquet"):
        heading = msgspec.json.encode(Heading(1, trace.header))
        table = trace.table.replace_schema_metadata({MARK: heading})
        pyarrow.parquet.write_table(table, path, compression="zstd")
    elif path.name.endswith(".jsonl"):
        path.write_bytes(jsonl(trace))
    elif path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(jsonl(trace), mtime=0))
    else:
        raise TraceError(
            "has no suffix that names a format", remedy="use .jsonl, .jsonl.gz or .parquet", file=path
        )


def jsonl(trace: Trace) -> bytes:
    """The trace as JSON lines: the heading, then one object a request."""
    encoder = msgspec.json.Encoder()
    heading = encoder.encode(Heading(1, trace.header))
    return heading + b"\n" + encoder.encode_lines(list(_rows(trace)))


def _rows(trace: Trace) -> Iterator[Any]:
    """`Row` objects (`Any`: their class is made at run time), with what a reader would assume left out."""
    number = 0
    for batch in trace.table.to_batches(max_chunksize=CHUNK_ROWS):
        columns: list[Any] = [
            batch.column(name).to_pylist() if name in batch.schema.names else repeat(None) for name in COLUMNS
        ]
        for cells in zip(*columns, strict=False):
            row = Row(*cells)
            row.id = None if row.id == str(number) else row.id
            row.extra = None if row.extra is None else msgspec.json.decode(row.extra, type=dict[str, Scalar])
            number += 1
            yield row
