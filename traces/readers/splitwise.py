"""Traces in the format of the Splitwise simulator; arrival in seconds.

``request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size``
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

NAME = "splitwise"
TAKES = frozenset({"time_unit"})
_KNOWN = ("request_id", "arrival_timestamp", "prompt_size", "token_size")
_NUMBERED = ("request_type", "application_id", "batch_size")


def sniff(source: Source) -> bool:
    """By the names of the columns that make a request."""
    return source.has_columns(*_KNOWN)


def read(source: Source, options: ReadOptions) -> tuple[Gathered, Header]:
    """All columns; type, application and batch size go to `extra` as numbers, further ones as text."""
    unit = options.unit("s")
    return gather(source, options, lambda file: _parts(file, unit)), header_of(source, "Splitwise")


def _parts(source: Source, unit: TimeUnit) -> Iterator[Rows]:
    for part in source.parts():
        table = CsvRows(part)
        rows = table.rows
        arrived = table.numbers("arrival_timestamp", expected=SECONDS)
        rows.put_arrivals(arrived, unit, "arrival_timestamp")
        rows.put("id", table.texts("request_id"), "request_id")
        rows.put("prompt_tokens", table.counts("prompt_size"), "prompt_size")
        rows.put("output_tokens", table.counts("token_size"), "token_size")
        present = [name for name in _NUMBERED if name in table.names]
        numbers = {name: table.counts(name, required=False).to_pylist() for name in present}
        rows.put_others(numbers | table.others(*_KNOWN, *_NUMBERED))
        yield rows
