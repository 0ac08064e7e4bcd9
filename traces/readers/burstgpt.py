"""BurstGPT: two months of ChatGPT and GPT-4 use at a university, as CSV.

Columns are found by name, because versions of the file insert some (``Session ID``, ``Elapsed time``).
``Timestamp`` is in seconds from midnight of the first day. Zero response tokens mean that the request failed:
then `output_tokens` is absent and `observed.failed` true.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from traces.readers.csv_rows import SECONDS, CsvRows
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "burstgpt"


def sniff(source: Source) -> bool:
    """By the names of the columns that every version has."""
    return source.has_columns("Timestamp", "Model", "Request tokens", "Response tokens")


def read(source: Source) -> tuple[Rows, Header]:
    """All columns but ``Total tokens``, which is the sum of two others; ``Log Type`` goes to `extra`."""
    table = CsvRows(source)
    rows = table.rows
    rows.put("arrived_s", table.numbers("Timestamp", expected=SECONDS), "Timestamp")
    rows.put("prompt_tokens", table.counts("Request tokens"), "Request tokens")
    answered = table.counts("Response tokens")
    failed = pc.equal(answered, 0)
    rows.put(
        "output_tokens",
        pc.if_else(failed, pa.scalar(None, pa.int64()), answered),
        "Response tokens",
        answered,
    )
    rows.put("observed_failed", failed)
    rows.put("model", table.texts("Model"))
    if "Session ID" in table.names:
        rows.put("session", table.texts("Session ID"))
    if "Elapsed time" in table.names:
        elapsed_s = table.numbers("Elapsed time", expected=SECONDS, required=False)
        rows.put("observed_e2e_s", elapsed_s, "Elapsed time")
    if "Log Type" in table.names:
        rows.put_extra({"log_type": table.texts("Log Type").to_pylist()})
    citation = (
        "Wang et al., BurstGPT: A Real-World Workload Dataset to Optimize LLM Serving Systems, KDD 2025"
    )
    return rows, Header(source=f"BurstGPT, {source.path.name}", licence="CC-BY-4.0", citation=citation)
