"""Traces in the format of the Splitwise simulator; arrival in seconds.

``request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size``
"""

from __future__ import annotations

from traces.readers.csv_rows import SECONDS, CsvRows
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "splitwise"


def sniff(source: Source) -> bool:
    """By the names of the columns that make a request."""
    return source.has_columns("request_id", "arrival_timestamp", "prompt_size", "token_size")


def read(source: Source) -> tuple[Rows, Header]:
    """All columns; type, application and batch size go to `extra`. The format says nothing of a licence."""
    table = CsvRows(source)
    rows = table.rows
    rows.put("arrived_s", table.numbers("arrival_timestamp", expected=SECONDS), "arrival_timestamp")
    rows.put("id", table.texts("request_id"), "request_id")
    rows.put("prompt_tokens", table.counts("prompt_size"), "prompt_size")
    rows.put("output_tokens", table.counts("token_size"), "token_size")
    others = [name for name in ("request_type", "application_id", "batch_size") if name in table.names]
    if others:
        rows.put_extra({name: table.counts(name, required=False).to_pylist() for name in others})
    return rows, Header(source=f"Splitwise format, {source.path.name}")
