"""Azure's layout: ``TIMESTAMP,ContextTokens,GeneratedTokens``, as the files of 2023 have it.

A time is a date, in UTC: time 0 of the trace is what the header's `offset_s` says, 1970 where that is 0. It has seven
digits after the second, so arrivals are rounded to 100 ns. An `offset_s` of this century is a float that is exact to a
quarter of a microsecond: the distances between arrivals are kept, the date is as good as that.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from traces.entries import CHUNK_ROWS
from traces.errors import TraceError
from traces.trace import Trace
from traces.writers.layout import demand

NAME = "azure"
HOLDS = frozenset({"arrived_s", "prompt_tokens", "output_tokens"})
TICKS_PER_S = 10**7
LAST_S = 9_223_372_036.0
"""The year 2262: the last that a count of nanoseconds since 1970 reaches."""


def write(trace: Trace, file: BinaryIO) -> dict[str, int]:
    """One line a row, lines ended as on Unix."""
    demand(trace, NAME, "prompt_tokens", "output_tokens")
    last_s = trace.header.offset_s + trace.duration_s
    if abs(last_s) >= LAST_S:
        problem = f"{last_s:,.6g} s after 1970 is no date of this calendar"
        raise TraceError(problem, remedy="take the trace without its offset_s", column="arrived_s")
    start = round(trace.header.offset_s * TICKS_PER_S)
    file.write(b"TIMESTAMP,ContextTokens,GeneratedTokens\n")
    changed = 0
    for batch in trace.table.to_batches(max_chunksize=CHUNK_ROWS):
        arrived_s = batch["arrived_s"].to_numpy()
        ticks = np.rint(arrived_s * TICKS_PER_S).astype(np.int64)
        changed += int(np.count_nonzero(ticks * 100 / 1e9 != arrived_s))
        cells = [
            _dates(ticks + start),
            *(batch[name].cast(pa.string()) for name in ("prompt_tokens", "output_tokens")),
        ]
        lines = pc.binary_join_element_wise(*cells, ",")
        file.write("".join(f"{line}\n" for line in lines.to_pylist()).encode())
    return {"arrived_s rounded to 100 ns": changed}


def _dates(ticks: np.ndarray) -> pa.Array:
    seconds, rest = np.divmod(ticks, TICKS_PER_S)
    days = pc.strftime(pa.array(seconds, pa.timestamp("s")), "%Y-%m-%d %H:%M:%S")
    digits = pc.utf8_lpad(pa.array(rest).cast(pa.string()), 7, "0")
    return pc.binary_join_element_wise(days, digits, ".")
