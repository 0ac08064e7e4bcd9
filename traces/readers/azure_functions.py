"""Azure Functions' invocations of two weeks in 2021: many models in one file.

Header ``app,func,end_timestamp,duration``, in seconds unless told. A function's name is unique only within its
application: a model is ``app/func``, and the application a tenant. An invocation arrived when it ended less what it
took, so rows that are sorted by their end are not by their arrival, and the first may have begun before time 0.

Source: Zhang et al., "Faster and Cheaper Serverless Computing on Harvested Resources", SOSP 2021;
AzureFunctionsInvocationTrace2021.md of the Azure Public Dataset.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from traces.published import header_of
from traces.readers.csv_rows import SECONDS, CsvRows
from traces.readers.gathered import Gathered, gather
from traces.readers.options import PER_S, ReadOptions, TimeUnit
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "azure-functions"
TAKES = frozenset({"time_unit"})
_KNOWN = ("app", "func", "end_timestamp", "duration")


def sniff(source: Source) -> bool:
    """By the four column names."""
    return source.has_columns(*_KNOWN)


def read(source: Source, options: ReadOptions) -> tuple[Gathered, Header]:
    """All columns; any further one goes to `extra`. What an invocation took is `observed.e2e_s`, and no policy sees it.

    A duration below 0 is a bad row: it would end before it began. One of 0 is kept as recorded, and counted, as are
    invocations that began before the recording's time 0.
    """
    unit = options.unit("s")
    return gather(source, options, lambda file: _parts(file, unit)), header_of(
        source, "the Azure Functions trace"
    )


def _parts(source: Source, unit: TimeUnit) -> Iterator[Rows]:
    for part in source.parts():
        table = CsvRows(part)
        rows = table.rows
        app, func = _named(table, "app"), _named(table, "func")
        ended = table.numbers("end_timestamp", expected=SECONDS)
        rows.reject(pc.less(ended, 0), "end_timestamp", "is negative", SECONDS, ended)
        rows.reject(pc.invert(pc.is_finite(ended)), "end_timestamp", "is not a finite number", SECONDS, ended)
        took = table.numbers("duration", expected=SECONDS)
        rows.put("observed_e2e_s", pc.divide(took, PER_S[unit]), "duration", shown=took)
        rows.remark(pc.equal(took, 0), "duration of 0")
        began = pc.subtract(ended, took)
        rows.put_arrivals(began, unit, "end_timestamp", before_0=True)
        rows.remark(pc.less(began, 0), "began before time 0 of the recording")
        rows.put("model", pc.binary_join_element_wise(app, func, "/"))
        rows.put("tenant", app)
        rows.put_others(table.others(*_KNOWN))
        yield rows


def _named(table: CsvRows, column: str) -> pa.Array:
    names = table.texts(column)
    table.rows.reject(
        pc.is_null(names), column, "is missing", "every invocation is of a function of an application"
    )
    return names
