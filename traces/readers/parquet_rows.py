"""Rows of a Parquet file, a batch at a time. It has no lines: rows are numbered from 1."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date, datetime, time

import msgspec
import pyarrow as pa
import pyarrow.parquet

from traces.errors import TraceError
from traces.readers.rows import Rows
from traces.schema import Scalar
from traces.source import Source

BATCH_ROWS = 1 << 16


def is_parquet(source: Source) -> bool:
    """By the magic bytes of any Parquet file."""
    return source.head.startswith(b"PAR1")


class Batch:
    """Some rows of the file."""

    def __init__(self, rows: Rows, batch: pa.RecordBatch) -> None:
        self.rows = rows
        self._batch = batch

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        return list(self._batch.schema.names)

    def column(self, name: str) -> pa.Array:
        """As Arrow has it."""
        return self._batch.column(name)

    def texts(self, name: str) -> pa.Array:
        """Each cell as text: a list as JSON, a time as ISO 8601 has it."""
        values = self.column(name)
        if pa.types.is_nested(values.type):
            return pa.array(map(_as_json, values.to_pylist()), pa.string())
        try:
            return values.cast(pa.string())
        except pa.ArrowException as error:
            raise TraceError(f"cannot be read: {error}", file=self.rows.file, column=name) from None

    def scalars(self, name: str) -> list[Scalar]:
        """Each cell as `extra` can hold it; what is no plain value as text."""
        return [_scalar(value) for value in self.column(name).to_pylist()]


class ParquetRows:
    """A Parquet file, packed or not.

    Raises:
        TraceError: It is damaged.
    """

    def __init__(self, source: Source) -> None:
        self._path = source.path
        plain = source.unpacked_path()
        try:
            self._file = pyarrow.parquet.ParquetFile(plain or pa.BufferReader(source.data))
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        return list(self._file.schema_arrow.names)

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """What its maker wrote beside the table."""
        return self._file.schema_arrow.metadata or {}

    def batches(self) -> Iterator[Batch]:
        """The rows, in order; one batch without any if the file has none."""
        first = 1
        try:
            for batch in self._file.iter_batches(BATCH_ROWS, use_threads=False):
                yield Batch(Rows(self._path, range(first, first + len(batch))), batch)
                first += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None
        if first == 1:
            empty = pa.RecordBatch.from_pylist([], schema=self._file.schema_arrow)
            yield Batch(Rows(self._path, range(0)), empty)

    def _damaged(self, error: Exception) -> TraceError:
        return TraceError(f"is damaged: {error}", remedy="write the file again", file=self._path)


def _as_json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value, enc_hook=str).decode()


def _scalar(value: object) -> Scalar:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no word for it
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return _as_json(value) if isinstance(value, list | dict) else str(value)
