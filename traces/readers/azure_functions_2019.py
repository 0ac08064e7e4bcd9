"""Azure Functions of a day in 2019: how often each function was invoked in each minute.

Header ``HashOwner,HashApp,HashFunction,Trigger,1,2,…,1440``. The file has no times: each invocation is given one,
uniform within its minute, by a seeded draw that the header records. As in the trace of 2021, a model is
``app/function`` and an application a tenant. A whole day has far more invocations than a run can hold: a file cut to
some functions (rows) or some minutes (columns) is read alike. How long functions ran, and their memory, are in other
files, which are not read.

Source: Shahrad et al., "Serverless in the Wild", USENIX ATC 2020; AzureFunctionsDataset2019.md of the Azure Public
Dataset.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from traces.errors import TraceError
from traces.published import header_of
from traces.readers import arrivals
from traces.readers.csv_rows import CsvRows
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header, Transform
from traces.source import Source
from traces.synthesis.build import stream

NAME = "azure-functions-2019"
TAKES: frozenset[str] = frozenset()
MINUTE_S = 60.0
MOST = 5_000_000
"""Invocations of one trace."""
_NAMES = ("HashOwner", "HashApp", "HashFunction", "Trigger")
Ints = npt.NDArray[np.int64]


def sniff(source: Source) -> bool:
    """By the four names and a minute."""
    return source.has_columns(*_NAMES) and any(map(str.isdigit, source.csv_columns))


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """Every invocation; the owner and the trigger go to `extra`.

    Raises:
        TraceError: There are more than `MOST` invocations.
    """
    table = CsvRows(source)
    minutes = [name for name in table.names if name.isdigit()]
    counts, bad = _counts(table, minutes)
    total = int(counts.sum())
    if total > MOST:
        remedy = "cut it to fewer functions (rows) or minutes (columns)"
        raise TraceError(f"has {total:,} invocations; {MOST:,} are the most", remedy=remedy, file=source.path)
    function = np.repeat(np.arange(len(counts)), counts.sum(axis=1))
    rows = table.rows.expanded(function.tolist())
    for _ in range(int(np.count_nonzero((counts.sum(axis=1) == 0) & ~bad))):
        rows.without_request("function without an invocation")
    of = pa.array(function)
    rows.put_arrivals(_within_minutes(counts, minutes, options.seed), "s", "arrivals")
    owner, app, name, trigger = (table.texts(column).take(of) for column in _NAMES)
    rows.put("model", pc.binary_join_element_wise(app, name, "/"))
    rows.put("tenant", app)
    others = {"HashOwner": owner, "Trigger": trigger} | {
        column: pa.array(values).take(of) for column, values in table.others(*_NAMES, *minutes).items()
    }
    rows.put_others({column: values.to_pylist() for column, values in others.items()})
    spread = Transform("spread_within_minutes", {"minute_s": MINUTE_S}, options.seed)
    return rows, arrivals.derived(header_of(source, "the Azure Functions dataset"), spread)


def _within_minutes(counts: Ints, minutes: list[str], seed: int) -> npt.NDArray[np.float64]:
    """For each invocation, functions in their order and each one's minutes in theirs, a time of the day in seconds."""
    begins_s = MINUTE_S * (np.array(minutes, dtype=float) - 1)
    begun_s = np.repeat(np.tile(begins_s, len(counts)), counts.ravel())
    return begun_s + stream(seed, "arrivals").uniform(0, MINUTE_S, len(begun_s))


def _counts(table: CsvRows, minutes: list[str]) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Invocations of each function in each minute, and which functions have a bad cell: such a one has none."""
    counts = np.zeros((len(table.rows), len(minutes)), dtype=np.int64)
    bad = np.zeros(len(table.rows), dtype=bool)
    for place, minute in enumerate(minutes):
        text = table.texts(minute)
        good = pc.fill_null(pc.match_substring_regex(text, r"^\d{1,9}$"), False)
        wrong = ~good.to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(wrong & ~bad).tolist():
            table.rows.unreadable(table.rows.error(row, minute, *_complaint(text[row].as_py())))
        bad |= wrong
        counts[:, place] = pc.if_else(good, text, "0").cast(pa.int64())
    counts[bad] = 0
    return counts, bad


def _complaint(cell: str | None) -> tuple[str, str]:
    problem = "is missing" if cell is None else f'"{cell}" is not a number'
    return problem, "expected a count of invocations such as 12"
