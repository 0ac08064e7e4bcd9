"""Traces in the format of the Vidur simulator, arrival in seconds.

``arrived_at,num_prefill_tokens,num_decode_tokens``
"""

from __future__ import annotations

from traces.readers.csv_rows import SECONDS, CsvRows
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "vidur"


def sniff(source: Source) -> bool:
    """By the three column names."""
    return source.has_columns("arrived_at", "num_prefill_tokens", "num_decode_tokens")


def read(source: Source) -> tuple[Rows, Header]:
    """The three columns; further ones are computed from these. The format says nothing of a licence."""
    table = CsvRows(source)
    rows = table.rows
    rows.put("arrived_s", table.numbers("arrived_at", expected=SECONDS), "arrived_at")
    rows.put("prompt_tokens", table.counts("num_prefill_tokens"), "num_prefill_tokens")
    rows.put("output_tokens", table.counts("num_decode_tokens"), "num_decode_tokens")
    return rows, Header(source=f"Vidur format, {source.path.name}")
