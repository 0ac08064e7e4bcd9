"""BurstGPT: use of ChatGPT and GPT-4 at a university, as CSV.

Columns are found by name, because versions of the file insert some (``Session ID``, ``Elapsed time``). ``Timestamp``
is in seconds from midnight of the first day of the first file; later files go on counting. Zero response tokens mean
that the request failed: `output_tokens` is the 0 recorded, and `observed.failed` true.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from traces.published import header_of
from traces.readers.csv_rows import SECONDS, CsvRows
from traces.readers.gathered import Gathered, gather
from traces.readers.options import ReadOptions, TimeUnit
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "burstgpt"
TAKES = frozenset({"time_unit"})
_ALWAYS = ("Timestamp", "Model", "Request tokens", "Response tokens")
_SOMETIMES = ("Session ID", "Elapsed time", "Total tokens", "Log Type")


def sniff(source: Source) -> bool:
    """By the names of the columns that every version has."""
    return source.has_columns(*_ALWAYS)


def read(source: Source, options: ReadOptions) -> tuple[Gathered, Header]:
    """All columns. ``Log Type`` goes to `extra`; so does ``Total tokens`` where it is not the sum of the other two."""
    unit = options.unit("s")
    return gather(source, options, lambda file: _parts(file, unit)), header_of(source, "BurstGPT")


def _parts(source: Source, unit: TimeUnit) -> Iterator[Rows]:
    for part in source.parts():
        table = CsvRows(part)
        rows = table.rows
        arrived = table.numbers("Timestamp", expected=SECONDS)
        rows.put_arrivals(arrived, unit, "Timestamp")
        asked, answered = table.counts("Request tokens"), table.counts("Response tokens")
        rows.put("prompt_tokens", asked, "Request tokens")
        rows.put("output_tokens", answered, "Response tokens")
        rows.put("observed_failed", pc.equal(answered, 0))
        rows.put("model", table.texts("Model"))
        if "Session ID" in table.names:
            rows.put("session", table.texts("Session ID"))
        if "Elapsed time" in table.names:
            elapsed_s = table.numbers("Elapsed time", expected=SECONDS, required=False)
            rows.put("observed_e2e_s", elapsed_s, "Elapsed time")
        others = table.others(*_ALWAYS, *_SOMETIMES)
        if "Log Type" in table.names:
            others["log_type"] = table.texts("Log Type").to_pylist()
        if "Total tokens" in table.names:
            others["Total tokens"] = _unless_sum(table.texts("Total tokens"), asked, answered).to_pylist()
        rows.put_others(others)
        yield rows


def _unless_sum(total: pa.Array, asked: pa.Array, answered: pa.Array) -> pa.Array:
    """The totals that say more than the other two columns do."""
    same = pc.fill_null(pc.equal(total, pc.add(asked, answered).cast(pa.string())), False)
    return pc.if_else(same, pa.scalar(None, pa.string()), total)
