"""Azure LLM inference traces of 2023 and 2024.

Header ``TIMESTAMP,ContextTokens,GeneratedTokens``. Times are calendar times with up to nine digits after the
second; the files of 2024 add a zone. Time 0 is the earliest of them.
"""

from __future__ import annotations

import pyarrow.compute as pc

from traces.readers.csv_rows import CsvRows
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "azure-llm"


def sniff(source: Source) -> bool:
    """By the three column names."""
    return source.has_columns("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read(source: Source) -> tuple[Rows, Header]:
    """All columns; any further one, such as ``NumImages``, goes to `extra`."""
    table = CsvRows(source)
    rows = table.rows
    rows.put("arrived_s", table.instants_s("TIMESTAMP"), "TIMESTAMP")
    rows.put("prompt_tokens", table.counts("ContextTokens"), "ContextTokens")
    rows.put("output_tokens", table.counts("GeneratedTokens"), "GeneratedTokens")
    others = [name for name in table.names if name not in {"TIMESTAMP", "ContextTokens", "GeneratedTokens"}]
    if others:
        rows.put_extra({name: table.texts(name).to_pylist() for name in others})
    first = pc.min(table.texts("TIMESTAMP")).as_py() or ""
    return rows, _header(source.path.name, first[:4])


def _header(file: str, year: str) -> Header:
    citation = {
        "2023": "Patel et al., Splitwise: Efficient Generative LLM Inference Using Phase Splitting,"
        " ISCA 2024",
        "2024": "Stojkovic et al., DynamoLLM: Designing LLM Inference Clusters for Performance and Energy"
        " Efficiency, HPCA 2025",
    }.get(year)
    return Header(source=f"Azure LLM inference trace, {file}", licence="CC-BY-4.0", citation=citation)
