"""A run measured on vLLM, one request a JSON line, as LLMServingSim publishes them (``requests.jsonl``).

Such a run has two clocks, the client's (``arrival_time``) and the engine's (``queued_ts`` and the later
stamps), which disagree by up to tenths of a second. Arrivals come from the first, every observed duration
from the second alone: so `observed.ttft_s` counts from when the engine queued the request.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pyarrow as pa

from traces.published import header_of
from traces.readers.gathered import Gathered, gather
from traces.readers.json_rows import Int64, decode_lines, other_fields
from traces.readers.options import ReadOptions, TimeUnit
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "measured-run"
TAKES = frozenset({"time_unit"})


class _Line(msgspec.Struct):
    """A stamp of an event that never came is 0 or absent."""

    request_id: str
    input_toks: Int64
    output_toks: Int64
    arrival_time: float
    queued_ts: float | None = None
    scheduled_ts: float | None = None
    first_token_ts: float | None = None
    last_token_ts: float | None = None

    def tpot_s(self) -> float | None:
        """Mean gap between tokens; absent where there are fewer than two."""
        whole = _between(self.first_token_ts, self.last_token_ts)
        return None if whole is None or self.output_toks < 2 else whole / (self.output_toks - 1)


def _between(start: float | None, end: float | None) -> float | None:
    return end - start if start and end else None


def sniff(source: Source) -> bool:
    """By the keys of the first line."""
    return source.has_keys("request_id", "input_toks", "output_toks", "arrival_time")


def read(source: Source, options: ReadOptions) -> tuple[Gathered, Header]:
    """All fields; time 0 is the first arrival. A unit that is told is of the arrivals, the stamps are seconds."""
    unit = options.unit("s")
    return gather(source, options, lambda file: _parts(file, unit)), header_of(source, "LLMServingSim")


def _parts(source: Source, unit: TimeUnit) -> Iterator[Rows]:
    for part in source.parts():
        lines, rows = decode_lines(part, _Line)
        arrived = np.array([line.arrival_time for line in lines])
        rows.put_arrivals(arrived, unit, "arrival_time")
        rows.put("id", pa.array([line.request_id for line in lines], pa.string()), "request_id")
        rows.put("prompt_tokens", pa.array([line.input_toks for line in lines], pa.int64()), "input_toks")
        rows.put("output_tokens", pa.array([line.output_toks for line in lines], pa.int64()), "output_toks")
        observed = {
            "queue_s": [_between(line.queued_ts, line.scheduled_ts) for line in lines],
            "ttft_s": [_between(line.queued_ts, line.first_token_ts) for line in lines],
            "tpot_s": [line.tpot_s() for line in lines],
            "e2e_s": [_between(line.queued_ts, line.last_token_ts) for line in lines],
        }
        for name, values in observed.items():
            rows.put(f"observed_{name}", pa.array(values, pa.float64()))
        rows.put_others(other_fields(part, rows, _Line.__struct_fields__))
        yield rows
