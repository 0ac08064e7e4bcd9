"""Traces in the format of the Vidur simulator, arrival in seconds.

``arrived_at,num_prefill_tokens,num_decode_tokens``
"""

from __future__ import annotations

from collections.abc import Iterator

from traces.published import header_of
from traces.readers.csv_rows import SECONDS, CsvRows
from traces.readers.gathered import Gathered, gather
from traces.readers.options import ReadOptions, TimeUnit
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "vidur"
TAKES = frozenset({"time_unit"})
_KNOWN = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")


def sniff(source: Source) -> bool:
    """By the three column names."""
    return source.has_columns(*_KNOWN)


def read(source: Source, options: ReadOptions) -> tuple[Gathered, Header]:
    """All columns; further ones go to `extra`, ``session_id`` and the like to the columns that mean the same."""
    unit = options.unit("s")
    return gather(source, options, lambda file: _parts(file, unit)), header_of(source, "Vidur")


def _parts(source: Source, unit: TimeUnit) -> Iterator[Rows]:
    for part in source.parts():
        table = CsvRows(part)
        rows = table.rows
        arrived = table.numbers("arrived_at", expected=SECONDS)
        rows.put_arrivals(arrived, unit, "arrived_at")
        rows.put("prompt_tokens", table.counts("num_prefill_tokens"), "num_prefill_tokens")
        rows.put("output_tokens", table.counts("num_decode_tokens"), "num_decode_tokens")
        rows.put_others(table.others(*_KNOWN))
        yield rows
