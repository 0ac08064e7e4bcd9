"""Mooncake traces (Kimi): JSON lines with arrival in ms, lengths, and the hashes of 512-token prefix blocks.

Other tools write files with these keys, in other units and with other blocks, and no key says so. So both are checked:
hashes against lengths in every row, times against what milliseconds can be. What is in doubt is refused.

The clock of the published files ticks about every 3 s, so many requests share an instant: spread them with
`Trace.dequantise(tick_s=3.0, seed=...)` where that matters.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from traces.errors import TraceError
from traces.published import PUBLISHED, header_of
from traces.readers.blocks import put_blocks
from traces.readers.json_rows import Int64, decode_lines, other_fields
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "mooncake"
TAKES = frozenset({"time_unit", "block_tokens"})
BLOCK_TOKENS = 512
FASTEST_PER_S = 10.0
SHORTEST_S = 1.0
"""Arrival times a second, on average, and seconds in all, beyond which times are not taken for milliseconds unasked.
Recorded services have fewer and last longer; what is recorded in seconds looks like this if it is taken for ms."""
UNIX_S = (1.4e9, 2.1e9)
"""Times within these bounds are dates from 2014 to 2036 if they are seconds, and January 1970 if they are ms."""


class _Line(msgspec.Struct):
    timestamp: float
    input_length: Int64
    output_length: Int64
    hash_ids: list[Int64] | None = None


def sniff(source: Source) -> bool:
    """By the keys of the first line; one with chat ids too is Bailian's."""
    return source.has_keys("timestamp", "input_length", "output_length") and not source.has_keys("chat_id")


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """All fields; `blocks` are the file's ``hash_ids``, one for every started block.

    Raises:
        TraceError: The times may be in another unit than ms, or the hashes stand for blocks of another size, and
            `options` do not say which.
    """
    lines, rows = decode_lines(source, _Line)
    recorded = np.array([line.timestamp for line in lines])
    if options.time_unit is None and source.sha256 not in PUBLISHED:
        _check_milliseconds(recorded, source.path)
    rows.put_arrivals(recorded, options.unit("ms"), "timestamp")
    lengths = [line.input_length for line in lines]
    rows.put("prompt_tokens", pa.array(lengths, pa.int64()), "input_length")
    rows.put("output_tokens", pa.array([line.output_length for line in lines], pa.int64()), "output_length")
    hashes = [line.hash_ids for line in lines]
    put_blocks(rows, hashes, lengths, options, usual=BLOCK_TOKENS, partial=True)
    rows.put_others(other_fields(source, rows, _Line.__struct_fields__))
    return rows, header_of(source, "Mooncake")


def _check_milliseconds(recorded: npt.NDArray[np.float64], file: Path) -> None:
    """Refuse times that may be seconds. Whole numbers at a plausible rate are what the format says."""
    times = np.unique(recorded)
    if len(times) == 0:
        return
    span_s = float(times[-1] - times[0]) / 1e3
    per_s = (len(times) - 1) / span_s if span_s > 0 else 0.0
    fractions = times[times != np.round(times)]
    if len(fractions):
        why = f"{fractions[0]:.15g} is no whole number of milliseconds"
    elif UNIX_S[0] <= times[0] and times[-1] < UNIX_S[1]:
        why = f"{times[0]:.15g} would be a date of this century in seconds"
    elif per_s > FASTEST_PER_S or 0 < span_s < SHORTEST_S:
        why = f"in milliseconds there would be {per_s:,.3g} different arrival times a second"
    else:
        return
    remedy = (
        f"say which with time_unit= (--time-unit): from first to last it is {1e3 * span_s:,.6g} s if they are s, "
        f"{span_s:,.6g} s if they are ms"
    )
    problem = f"may be seconds or milliseconds: {why}"
    raise TraceError(problem, remedy=remedy, file=file, column="timestamp")
