"""What a format of others can hold of a trace, and the account of what it cannot.

The one thing to know: a column that a format has no place for is left out and counted by name; a length that it demands
and a row lacks is an error; a value that it changes, such as a time that is rounded, is counted.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from traces.errors import TraceError
from traces.trace import Trace


class WriteReport(Struct, frozen=True, kw_only=True):
    """What became of a trace in a file, beside the rows, which are all there."""

    format: str
    rows: int
    not_kept: dict[str, int] = {}
    """Columns that the format has no place for, each with how many rows have it."""
    changed: dict[str, int] = {}
    """What was done to values so that they fit, each with how many rows it was done to."""
    header_kept: bool = False
    """Whether the file says where the trace comes from and what was done to it."""


class Layout(Protocol):
    """What each module of a format offers."""

    @property
    def NAME(self) -> str:  # noqa: N802  (a constant of a module)
        """What `save_trace` calls the format."""
        ...

    @property
    def HOLDS(self) -> frozenset[str]:  # noqa: N802  (a constant of a module)
        """The columns that it has a place for."""
        ...

    def write(self, trace: Trace, file: BinaryIO) -> dict[str, int]:
        """Write all rows; answers what was changed, with how many rows it was changed in."""
        ...


def left_out(trace: Trace, held: Collection[str]) -> dict[str, int]:
    """Columns that are not `held`, each with how many rows have it; an id that is the row's number says nothing."""
    counts = {
        name: len(trace) - trace.table[name].null_count
        for name in trace.table.column_names
        if name not in held
    }
    if "id" in counts:
        counts["id"] = int(np.count_nonzero(~numbered(trace)))
    return {name: rows for name, rows in counts.items() if rows}


def numbered(trace: Trace) -> np.ndarray:
    """Which rows have their number for an id, as a reader gives it where a file has none."""
    numbers = pa.array(np.arange(len(trace))).cast(pa.string())
    return np.asarray(pc.equal(trace.table["id"], numbers).to_numpy(), dtype=bool)


def demand(trace: Trace, format: str, *columns: str) -> None:
    """Raise `TraceError` that names the first row which lacks one of `columns`."""
    for name in columns:
        missing = pc.is_null(trace.column(name)).to_numpy()
        if missing.any():
            row = int(np.argmax(missing))
            count = int(np.count_nonzero(missing))
            raise TraceError(
                f"is absent in {count:,} of {len(trace):,} rows, the first being request "
                f"{trace.table['id'][row].as_py()!r}",
                remedy=f"{format} demands it of each; filter those out, or write .jsonl, .parquet or csv",
                column=name,
            )
