"""The Vidur simulator's layout: ``arrived_at,num_prefill_tokens,num_decode_tokens``, arrivals in seconds."""

from __future__ import annotations

from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from traces.entries import CHUNK_ROWS
from traces.trace import Trace
from traces.writers.layout import demand

NAME = "vidur"
_COLUMNS = ("arrived_s", "prompt_tokens", "output_tokens")
HOLDS = frozenset(_COLUMNS)


def write(trace: Trace, file: BinaryIO) -> dict[str, int]:
    """One line a row; a time has as many digits as it takes to read the same float back."""
    demand(trace, NAME, "prompt_tokens", "output_tokens")
    file.write(b"arrived_at,num_prefill_tokens,num_decode_tokens\n")
    for batch in trace.table.to_batches(max_chunksize=CHUNK_ROWS):
        lines = pc.binary_join_element_wise(*(batch[name].cast(pa.string()) for name in _COLUMNS), ",")
        file.write("".join(f"{line}\n" for line in lines.to_pylist()).encode())
    return {}
