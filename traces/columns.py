"""The columns of a trace in memory, in Parquet and in JSON lines: names, types, units, bounds, hash.

The one thing to know: a column in which every row is absent is left out of the table. A bare trace of
arrivals therefore costs two columns, and "this trace has no sessions" is visible in its schema.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from traces.errors import TraceError


class Column(NamedTuple):
    """One column: its Arrow type, the unit its name ends in, the least and the most allowed (`None`: any)."""

    type: pa.DataType
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None


MOST_WORK = 1e6
"""Of one request, as on the wire: far beyond it a clock in float seconds no longer moves by an engine's report."""

_SECONDS = Column(pa.float64(), "s", 0)
_TEXT = Column(pa.string())

COLUMNS: dict[str, Column] = {
    "arrived_s": _SECONDS,
    "id": _TEXT,
    "prompt_tokens": Column(pa.int64(), "tokens", 0),
    "output_tokens": Column(pa.int64(), "tokens", 0),
    "blocks": Column(pa.list_(pa.int64())),
    "block_tokens": Column(pa.int64(), "tokens", 1),
    "session": _TEXT,
    "turn": Column(pa.int64(), "", 0),
    "parent": _TEXT,
    "think_s": _SECONDS,
    "model": _TEXT,
    "adapter": _TEXT,
    "tenant": _TEXT,
    "user": _TEXT,
    "kind": _TEXT,
    "priority": Column(pa.int64()),
    "deadline_s": _SECONDS,
    "slo_e2e_s": _SECONDS,
    "slo_ttft_s": _SECONDS,
    "slo_tpot_s": _SECONDS,
    "work": Column(pa.float64(), "relative to an ordinary request", 0, MOST_WORK),
    "observed_queue_s": _SECONDS,
    "observed_ttft_s": _SECONDS,
    "observed_tpot_s": _SECONDS,
    "observed_e2e_s": _SECONDS,
    "observed_failed": Column(pa.bool_()),
    "extra": Column(pa.string(), "JSON object, keys sorted"),
}
"""Every column that a trace may have, in canonical order. `arrived_s` and `id` are never null."""

SCHEMA = pa.schema(
    [
        pa.field(name, column.type, metadata={"unit": column.unit} if column.unit else None)
        for name, column in COLUMNS.items()
    ]
)

KINDS = ("online", "batch")
CHUNK_ROWS = 1 << 16
"""Of a chunk that is made here."""
LARGE_ROWS = 1 << 12
"""Of a chunk, on average, from which on a table is left in chunks."""


def absent(name: str, rows: int) -> pa.Array:
    """A column of `rows` nulls."""
    return pa.nulls(rows, COLUMNS[name].type)


def violations(name: str, values: pa.ChunkedArray | pa.Array) -> Iterator[tuple[str, np.ndarray]]:
    """Each rule that `values` of column `name` break one by one, and the rows that do: `(rule, mask)`."""
    column = COLUMNS[name]
    rules: list[tuple[str, np.ndarray]] = []
    if pa.types.is_floating(column.type):
        rules.append(("is not a finite number", _mask(pc.invert(pc.is_finite(values)))))
    if column.minimum is not None:
        rule = "is negative" if column.minimum == 0 else f"is less than {column.minimum:g}"
        rules.append((rule, _mask(pc.less(values, column.minimum))))
    if column.maximum is not None:
        rules.append((f"is more than {column.maximum:g}", _mask(pc.greater(values, column.maximum))))
    if name == "kind":
        wrong = pc.and_(pc.is_valid(values), pc.invert(pc.is_in(values, pa.array(KINDS))))
        rules.append(("is neither online nor batch", _mask(wrong)))
    return ((rule, bad) for rule, bad in rules if bad.any())


REPEATED = "is the id of an earlier row too"


def repeats(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """The rows whose id an earlier row has: the one rule that concerns several rows (`REPEATED`)."""
    repeated = np.zeros(len(values), dtype=bool)
    if len(pc.unique(values)) < len(values):
        array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        codes = pc.fill_null(array.dictionary_encode().indices, -1).to_numpy()
        _, first = np.unique(codes, return_index=True)
        repeated[:] = codes >= 0
        repeated[first] = False
    return repeated


def _mask(bits: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return np.asarray(pc.fill_null(bits, False).to_numpy(zero_copy_only=False), dtype=bool)


def canonical(table: pa.Table) -> tuple[pa.Table, int]:
    """The canonical form of a table whose columns bear the names above, and how many rows had to move.

    Adds `id` (the row's number) where absent, casts, checks every value, leaves out columns without any, and
    sorts by `arrived_s`, rows of one instant in the order given. Columns of large chunks stay in them, so that a large
    table is not copied.

    Raises:
        TraceError: An unknown column, a value out of bounds, or two rows with one id; names the row.
    """
    unknown = [name for name in table.column_names if name not in COLUMNS]
    if unknown:
        raise TraceError(
            "is not a column of a trace", remedy=f"known: {', '.join(COLUMNS)}", column=unknown[0]
        )
    columns = {name: _cast(name, table[name]) for name in COLUMNS if name in table.column_names}
    if "arrived_s" not in columns:
        raise TraceError("is missing", remedy="every row needs its arrival in seconds", column="arrived_s")
    for name, values in columns.items():
        _check(name, values)
    columns["id"] = _ids(columns.get("id"), table.num_rows)
    if "kind" in columns:  # absent and "online" mean the same: one form for both
        columns["kind"] = pc.if_else(
            pc.equal(columns["kind"], "online"), pa.scalar(None, pa.string()), columns["kind"]
        )
    present = {name: columns[name] for name in COLUMNS if name in columns}
    kept = [
        name
        for name, values in present.items()
        if name in {"arrived_s", "id"} or values.null_count < len(values)
    ]
    ordered = pa.table(
        [present[name] for name in kept], schema=pa.schema([SCHEMA.field(name) for name in kept])
    )
    return _sorted(_compact(ordered))


def _cast(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return values.cast(COLUMNS[name].type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        remedy = f"expected values of type {COLUMNS[name].type}"
        raise TraceError(f"holds {values.type}: {error}", remedy=remedy, column=name) from None


def _ids(given: pa.ChunkedArray | None, rows: int) -> pa.ChunkedArray:
    """The ids given, numbers of rows where there is none."""
    if given is None:
        starts = range(0, max(1, rows), CHUNK_ROWS)
        return pa.chunked_array([numbered(start, min(start + CHUNK_ROWS, rows)) for start in starts])
    if given.null_count:
        given = pa.chunked_array([pc.coalesce(given.combine_chunks(), numbered(0, rows))])
    repeated = repeats(given)
    if repeated.any():
        row = int(np.argmax(repeated))
        raise TraceError(f"{given[row].as_py()!r} {REPEATED}", line=row + 1, column="id")
    return given


def numbered(start: int, stop: int) -> pa.Array:
    """The ids of these rows where nobody gives them any: their numbers."""
    return pa.array(np.arange(start, stop)).cast(pa.string())


def _check(name: str, values: pa.ChunkedArray) -> None:
    before = 0
    for chunk in values.chunks:
        for rule, bad in violations(name, chunk):
            row = int(np.argmax(bad))
            raise TraceError(f"{chunk[row].as_py()!r} {rule}", line=before + row + 1, column=name)
        if name == "arrived_s" and chunk.null_count:
            row = int(np.argmax(_mask(pc.is_null(chunk))))
            remedy = "every row needs its arrival in seconds"
            raise TraceError("is absent", remedy=remedy, line=before + row + 1, column=name)
        before += len(chunk)


def _compact(table: pa.Table) -> pa.Table:
    """The table in one chunk, unless it is large and so are its chunks."""
    chunks = max(column.num_chunks for column in table)
    return table if table.num_rows >= chunks * LARGE_ROWS else table.combine_chunks()


def _sorted(table: pa.Table) -> tuple[pa.Table, int]:
    moved, latest = 0, -np.inf
    for chunk in table["arrived_s"].chunks:
        arrived = chunk.to_numpy()
        so_far = np.maximum(np.maximum.accumulate(arrived), latest)
        moved += int(np.count_nonzero(arrived < so_far))
        latest = so_far[-1] if len(so_far) else latest
    if moved:
        order = np.argsort(table["arrived_s"].to_numpy(), kind="stable")
        table = table.combine_chunks().take(pa.array(order)).combine_chunks()
    return table, moved


def digest(table: pa.Table, kind: str = "trace") -> str:
    """SHA-256, in hex, of a canonical table's values; how Arrow lays them out in memory has no part in it.

    Hashed, in this order: the line ``fleetlab <kind> 1``; the number of rows; then for each column present, in
    canonical order, the line ``<name> <type>``; one bit a row, set where a value is present (least
    significant bit first, padded with zeros to a byte); the values. Numbers are 8 bytes, two's complement or
    IEEE 754 (−0 as 0); booleans are 1 byte; texts and lists are first all lengths (8 bytes each), then all
    bytes (UTF-8) or numbers. An absent value is 0 or of length 0. Everything is little-endian.
    """
    hashed = hashlib.sha256(f"fleetlab {kind} 1\n".encode())
    hashed.update(table.num_rows.to_bytes(8, "little"))
    for name in table.column_names:
        values = table[name]
        hashed.update(f"{name} {values.type}\n".encode())
        hashed.update(np.packbits(_mask(pc.is_valid(values)), bitorder="little").tobytes())
        for part in _value_bytes(values):
            hashed.update(part)
    return hashed.hexdigest()


def _value_bytes(values: pa.ChunkedArray) -> Iterator[memoryview]:
    """The values' bytes, a chunk at a time; of texts and lists all lengths, then all that is in them."""
    if pa.types.is_string(values.type):
        yield from (_number_bytes(pc.binary_length(chunk).cast(pa.int64())) for chunk in values.chunks)
        yield from (_text_bytes(pc.fill_null(chunk, "")) for chunk in values.chunks)
    elif pa.types.is_list(values.type):
        yield from (_number_bytes(pc.list_value_length(chunk).cast(pa.int64())) for chunk in values.chunks)
        yield from (_number_bytes(chunk.flatten()) for chunk in values.chunks)
    elif pa.types.is_boolean(values.type):
        yield from (_mask(chunk).astype("u1").data for chunk in values.chunks)
    else:
        yield from (_number_bytes(chunk) for chunk in values.chunks)


def _number_bytes(values: pa.Array) -> memoryview:
    numbers = pc.fill_null(values, 0).to_numpy(zero_copy_only=False)
    little: np.ndarray = (numbers + 0).astype(f"<{numbers.dtype.kind}8", copy=False)
    return little.data


def _text_bytes(texts: pa.Array) -> memoryview:
    """All texts, one after the other, as Arrow holds them: offsets of 32 bits, then UTF-8."""
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return memoryview(b"")
    ends = np.frombuffer(offsets, dtype="<i4")
    return memoryview(data)[ends[texts.offset] : ends[texts.offset + len(texts)]]
