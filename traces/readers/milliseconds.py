"""Whether times that should be milliseconds may be seconds: what no key of a file says, and its numbers often do."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from traces.errors import TraceError
from traces.readers.gathered import Gathered

FASTEST_PER_S = 10.0
SHORTEST_S = 1.0
"""Arrival times a second, on average, and seconds in all, beyond which times are not taken for milliseconds unasked.
Recorded services have fewer and last longer; what is recorded in seconds looks like this if it is taken for ms."""
UNIX_S = (1.4e9, 2.1e9)
"""Times within these bounds are dates from 2014 to 2036 if they are seconds, and January 1970 if they are ms."""


def check_milliseconds(rows: Gathered, column: str) -> None:
    """Refuse times that may be seconds. Whole numbers at a plausible rate are what the format says.

    Args:
        rows: Those of the file, arrivals as recorded.
        column: What the file calls those.
    """
    times = _times(rows)
    if times is None:
        return
    span_s = (times.last - times.first) / 1e3
    per_s = (times.distinct - 1) / span_s if span_s > 0 else 0.0
    fraction = _fraction(rows)
    if fraction is not None:
        why = f"{fraction:.15g} is no whole number of milliseconds"
    elif UNIX_S[0] <= times.first and times.last < UNIX_S[1]:
        why = f"{times.first:.15g} would be a date of this century in seconds"
    elif per_s > FASTEST_PER_S or 0 < span_s < SHORTEST_S:
        why = f"in milliseconds there would be {per_s:,.3g} different arrival times a second"
    else:
        return
    remedy = (
        f"say which with time_unit= (--time-unit): from first to last it is {1e3 * span_s:,.6g} s if they are s, "
        f"{span_s:,.6g} s if they are ms"
    )
    raise TraceError(f"may be seconds or milliseconds: {why}", remedy=remedy, file=rows.file, column=column)


class _Times(NamedTuple):
    first: float
    last: float
    distinct: int


def _times(rows: Gathered) -> _Times | None:
    """None if there is none. They are counted on the way where the file is in order; else all are sorted."""
    distinct, first, latest = 0, np.inf, -np.inf
    for (recorded,) in rows.each("arrived_s"):
        values = recorded.to_numpy()
        if not len(values):
            continue
        steps = np.diff(values, prepend=latest)
        if (steps < 0).any():
            times = np.unique(rows.column("arrived_s").to_numpy())
            return _Times(float(times[0]), float(times[-1]), len(times))
        distinct += int(np.count_nonzero(steps))
        first, latest = min(first, values[0]), values[-1]
    return _Times(float(first), float(latest), distinct) if distinct else None


def _fraction(rows: Gathered) -> float | None:
    """The first time that stands in the file and is no whole number; that of a row that follows another may not."""
    for recorded, parent in rows.each("arrived_s", "parent"):
        times = recorded.filter(pc.is_null(parent)).to_numpy()
        fractions = times[times != np.round(times)]
        if len(fractions):
            return float(fractions[0])
    return None
