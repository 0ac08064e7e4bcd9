"""Azure LLM inference traces of 2023 and 2024.

Header ``TIMESTAMP,ContextTokens,GeneratedTokens``. Times are calendar times with up to nine digits after the
second; the files of 2024 add a zone. Time 0 is the earliest of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from traces.published import header_of
from traces.readers.csv_rows import CsvRows
from traces.readers.gathered import Gathered, gather
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "azure-llm"
TAKES: frozenset[str] = frozenset()
_KNOWN = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def sniff(source: Source) -> bool:
    """By the three column names."""
    return source.has_columns(*_KNOWN)


def read(source: Source, options: ReadOptions) -> tuple[Gathered, Header]:
    """All columns; any further one, such as ``NumImages``, goes to `extra`."""
    return gather(source, options, _parts), header_of(source, "Azure")


def _parts(source: Source) -> Iterator[Rows]:
    for part in source.parts():
        table = CsvRows(part)
        rows = table.rows
        rows.put_arrivals(table.instants_ns("TIMESTAMP"), "ns", "TIMESTAMP", calendar=True)
        rows.put("prompt_tokens", table.counts("ContextTokens"), "ContextTokens")
        rows.put("output_tokens", table.counts("GeneratedTokens"), "GeneratedTokens")
        rows.put_others(table.others(*_KNOWN))
        yield rows
