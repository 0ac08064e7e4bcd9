"""Azure Functions' invocations of two weeks in 2021: many models in one file.

Header ``app,func,end_timestamp,duration``, in seconds unless told. A function is a model and its app a tenant; an
invocation arrived when it ended less what it took. Those that began before the recording did come first.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from traces.published import header_of
from traces.readers.csv_rows import SECONDS, CsvRows
from traces.readers.options import PER_S, ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "azure-functions"
TAKES = frozenset({"time_unit"})
_KNOWN = ("app", "func", "end_timestamp", "duration")


def sniff(source: Source) -> bool:
    """By the four column names."""
    return source.has_columns(*_KNOWN)


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """All columns; any further one goes to `extra`. What an invocation took is `observed.e2e_s`."""
    table = CsvRows(source)
    rows, unit = table.rows, options.unit("s")
    ended = table.numbers("end_timestamp", expected=SECONDS)
    took = table.numbers("duration", expected=SECONDS)
    began = pc.subtract(ended, took)
    first = pc.min(began).as_py()
    if first is not None and first < 0.0:
        began = pc.subtract(began, pa.scalar(first))
    rows.put_arrivals(began, unit, "end_timestamp")
    rows.put("observed_e2e_s", pc.divide(took, PER_S[unit]), "duration")
    rows.put("model", table.texts("func"))
    rows.put("tenant", table.texts("app"))
    rows.put_others(table.others(*_KNOWN))
    return rows, header_of(source, "Azure Functions")
