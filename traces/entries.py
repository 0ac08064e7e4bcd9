"""Rows of a trace as `TraceEntry` objects, and back.

Reading is on the simulator's hot path, one entry a request. So a chunk's columns become lists at once and
`map` builds the objects; a column that the trace does not have costs one `repeat`, or nothing at the end of
the record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from typing import Any

import msgspec
import pyarrow as pa

from traces.columns import COLUMNS, SCHEMA
from traces.errors import TraceError
from traces.schema import Observed, Request, Scalar, Slo, TraceEntry

CHUNK_ROWS = 1024

_SLO = [f"slo_{field}" for field in Slo.__struct_fields__]
_OBSERVED = [f"observed_{field}" for field in Observed.__struct_fields__]
_encode_extra = msgspec.json.Encoder(order="sorted").encode
_decode_extra = msgspec.json.Decoder(dict[str, Scalar]).decode

Cells = Iterable[Any]
"""One column of one chunk. `Any`: the cell's type is the column's, which only the table knows."""


def entries_of(table: pa.Table) -> Iterator[TraceEntry]:
    """The rows of a canonical table, in order, built `CHUNK_ROWS` at a time."""
    return chain.from_iterable(map(_chunk, table.to_batches(max_chunksize=CHUNK_ROWS)))


def _chunk(batch: pa.RecordBatch) -> Iterator[TraceEntry]:
    requests = map(Request, *_used(_request_cells(batch, field) for field in Request.__struct_fields__))
    rest = [
        _cells(batch, "output_tokens"),
        _struct_cells(batch, _OBSERVED, Observed),
        _cells(batch, "think_s"),
    ]
    return map(TraceEntry, requests, *_used(rest))


def _used(columns: Iterable[Cells]) -> list[Cells]:
    """The columns without those at the end that only repeat the field's default."""
    used = list(columns)
    while used and isinstance(used[-1], repeat):
        used.pop()
    return used


def _request_cells(batch: pa.RecordBatch, field: str) -> Cells:
    match field:
        case "slo":
            return _struct_cells(batch, _SLO, Slo)
        case "kind":
            kinds = _cells(batch, "kind")
            return repeat("online") if isinstance(kinds, repeat) else [kind or "online" for kind in kinds]
        case "blocks" | "extra":
            cells = _cells(batch, field)
            build: Callable[[Any], object] = tuple if field == "blocks" else _decode_extra
            return cells if isinstance(cells, repeat) else [None if c is None else build(c) for c in cells]
        case _:
            return _cells(batch, field)


def _cells(batch: pa.RecordBatch, name: str) -> Cells:
    if name not in batch.schema.names:
        return repeat(None)
    values = batch.column(name)
    if pa.types.is_floating(values.type) and not values.null_count:
        return list(values.to_numpy().tolist())
    return list(values.to_pylist())


def _struct_cells(batch: pa.RecordBatch, names: list[str], struct: type[Slo] | type[Observed]) -> Cells:
    if not set(names) & set(batch.schema.names):
        return repeat(None)
    nothing = (None,) * len(names)
    made: dict[tuple[Any, ...], Slo | Observed | None] = {nothing: None}  # equal ones are one object
    return [
        made[cells] if cells in made else made.setdefault(cells, struct(*cells))
        for cells in zip(*(_cells(batch, name) for name in names), strict=False)
    ]


def table_of(entries: Iterable[TraceEntry]) -> pa.Table:
    """Entries as a table, in the order given. `Slo()` and `Observed()` without any value become absent.

    Raises:
        TraceError: A field that its column cannot hold, named with its row.
    """
    rows = list(entries)
    requests = [entry.request for entry in rows]
    columns: dict[str, list[Any]] = {}
    for name in COLUMNS:
        if name in _SLO:
            columns[name] = _parts([request.slo for request in requests], name.removeprefix("slo_"))
        elif name in _OBSERVED:
            columns[name] = _parts([entry.observed for entry in rows], name.removeprefix("observed_"))
        elif name in {"output_tokens", "think_s"}:
            columns[name] = [getattr(entry, name) for entry in rows]
        else:
            columns[name] = [getattr(request, name) for request in requests]
    columns["extra"] = [_extra_text(extra, row) for row, extra in enumerate(columns["extra"], start=1)]
    return pa.table({name: _array(name, cells) for name, cells in columns.items()}, schema=SCHEMA)


def _parts(structs: list[Any], field: str) -> list[Any]:
    return [None if struct is None else getattr(struct, field) for struct in structs]


def _extra_text(extra: dict[str, Scalar] | None, row: int) -> str | None:
    if extra is None:
        return None
    if any(isinstance(value, float) and not math.isfinite(value) for value in extra.values()):
        raise TraceError("holds a number that is not finite", line=row, column="extra")
    return _encode_extra(extra).decode()


def _array(name: str, cells: list[Any]) -> pa.Array:
    wanted = COLUMNS[name].type
    try:
        return pa.array(cells, type=wanted)
    except (pa.ArrowException, OverflowError, TypeError):
        pass
    for row, cell in enumerate(cells, start=1):
        try:
            pa.array([cell], type=wanted)
        except (pa.ArrowException, OverflowError, TypeError):
            raise TraceError(
                f"{cell!r} does not fit", remedy=f"expected {wanted}", line=row, column=name
            ) from None
    raise TraceError("does not fit in memory", column=name)
