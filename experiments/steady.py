"""Which part of a run shows a load in its steady state, and whether there is one: warm-up and cool-down cut off.

The one thing to know: all of it is read off one series, how many requests are in flight as each one comes. It is there
whatever becomes of the requests, and its slope over them is the share of the load that the fleet does not get done.

Sources: White, "An Effective Truncation Heuristic for Bias Reduction in Simulation Output", Simulation 69, 1997 (MSER),
in batches of five: White, Cobb and Spratt, Winter Simulation Conference 2000. Over the average of several runs: Hoad,
Robinson and Davies, "Automating Warm-up Length Estimation", J. Operational Research Society 61, 2010. Batch means, for
values that depend on one another: Law, "Simulation Modeling and Analysis", section 9.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
from msgspec import Struct
from msgspec.structs import replace

from fleet import Run
from fleet.telemetry.summary import Summary

Floats: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]
State = Literal["steady", "growing", "falling", "unclear"]
"""`growing`: the fleet falls behind what comes. `falling`: it still works off what came before. `unclear`: the run
is too short, or its arrivals too uneven, to tell."""

MSER_BATCH = 5
BATCHES = 20
"""Whose means are looked at for a trend."""
LEAST = 10 * BATCHES
"""Requests; of fewer no trend is told."""
MATERIAL = 0.01
"""Of what comes: a backlog that grows by less is no overload, though a long run may show it beyond doubt."""
CONFIDENCE = 0.95


class Cut(Struct, frozen=True, kw_only=True):
    """How many requests are left out at either end of a run, in the order of arrival."""

    warm_up: int
    cool_down: int


class Steadiness(Struct, frozen=True, kw_only=True):
    """What the kept requests of a run say of the fleet's state."""

    state: State
    drift: float | None
    """By how many more requests are in flight for each one that comes: the share of the load that is not got done.
    None where there are too few to tell."""
    low: float | None
    """Ends of its 95 % interval."""
    high: float | None


def in_flight_found(run: Run) -> Floats:
    """How many requests were in flight as each one came, in the order of arrival."""
    arrived_s, ended_s = _times(run)
    before: Floats = np.arange(len(arrived_s), dtype=float)
    return before - np.searchsorted(np.sort(ended_s), arrived_s, side="left")


def warm_up_of(runs: Sequence[Run]) -> int | None:
    """The warm-up of one candidate's runs at one load; None where they do not settle in their first half.

    It is told from the average of the runs: of a single one, the rule also cuts off chance crowds at the beginning, and
    so finds too little in flight.
    """
    series = [in_flight_found(run) for run in runs]
    shortest = min(map(len, series), default=0)
    return warm_up(np.mean([one[:shortest] for one in series], axis=0)) if shortest else None


def warm_up(series: Floats) -> int | None:
    """How many values to leave out at the beginning; None where the rule puts the end of it in the second half.

    MSER-5: of all points to cut at, the one that leaves the mean of the rest with the least standard error, as if
    batches of five values were independent.
    """
    batches = len(series) // MSER_BATCH
    if batches < 2:
        return None
    means = series[: batches * MSER_BATCH].reshape(batches, MSER_BATCH).mean(axis=1)
    left = np.arange(batches, 0, -1)
    sums, squares = (np.cumsum(values[::-1])[::-1] for values in (means, means**2))
    errors = np.maximum(squares - sums**2 / left, 0.0) / left**2
    cut = int(np.argmin(errors[: max(1, batches - MSER_BATCH)]))  # the last few say nothing of a spread
    return cut * MSER_BATCH if cut <= batches // 2 else None


def cool_down(run: Run, warm_up: int) -> int:
    """How many of the last requests met a fleet that had only to drain.

    Those that come later than the last arrival less the time in which 99 % of the others ended; at most the last
    quarter of the requests.
    """
    arrived_s, ended_s = _times(run)
    lasts_s = np.quantile(ended_s[warm_up:] - arrived_s[warm_up:], 0.99, method="lower")
    late = len(arrived_s) - int(np.searchsorted(arrived_s, arrived_s[-1] - lasts_s, side="right"))
    return min(late, len(arrived_s) // 4)


def common(candidates: Sequence[Sequence[Run]]) -> Cut:
    """What to leave out of every run of several candidates at one load, so that all are judged by the same requests.

    The latest warm-up and the longest cool-down of those that settle. Where none does, the first half and the last
    quarter of the shortest run.
    """
    settled = [(first, runs) for runs in candidates if (first := warm_up_of(runs)) is not None]
    if not settled:
        shortest = min((len(run.records) for runs in candidates for run in runs), default=0)
        return Cut(warm_up=shortest // 2, cool_down=shortest // 4)
    first = max(first for first, _ in settled)
    return Cut(warm_up=first, cool_down=max(cool_down(run, first) for _, runs in settled for run in runs))


def steadiness(run: Run, cut: Cut, *, settles: bool) -> Steadiness:
    """Whether the number in flight has a trend over the kept requests; `settles`, whether its warm-up has an end.

    A line through the means of 20 batches, with Student's interval of its slope. It grows, or falls, where the whole
    interval is beyond 1 % of the load; it is steady where the whole of it is within, and the run settles.
    """
    found = _for_trend(in_flight_found(run), cut)
    if len(found) < LEAST:
        return Steadiness(state="unclear", drift=None, low=None, high=None)
    drift, low, high = _slope(found)
    return Steadiness(state=_state(low, high, settles=settles), drift=drift, low=low, high=high)


def falls_behind(run: Run, cut: Cut) -> bool:
    """Whether the number in flight grows over the kept requests; where those are too few to tell, over all of them.

    Without that a run of few requests would keep up with any load. Needs `BATCHES` requests.
    """
    found = in_flight_found(run)
    kept = _for_trend(found, cut)
    _, low, _ = _slope(kept if len(kept) >= LEAST else found)
    return low > MATERIAL


def _for_trend(found: Floats, cut: Cut) -> Floats:
    """What the kept requests found; where those are too few, those of the cool-down too.

    What one of these finds owes nothing to the lack of others after it; only what becomes of it does.
    """
    kept = found[cut.warm_up : len(found) - cut.cool_down]
    return kept if len(kept) >= LEAST else found[cut.warm_up :]


def _state(low: float, high: float, *, settles: bool) -> State:
    if low > MATERIAL:
        return "growing"
    if high < -MATERIAL:
        return "falling"
    return "steady" if settles and low >= -MATERIAL and high <= MATERIAL else "unclear"


def window(run: Run, cut: Cut) -> Run:
    """The run of the kept requests. Rates are over the time in which so many come on average over the whole run.

    So a goodput is the share of good requests of the load that was offered, wherever in the trace they are.
    """
    arrived_s = run.records["arrived_s"].to_numpy()
    order = np.argsort(arrived_s, kind="stable")
    part = run.part(pa.array(np.sort(order[cut.warm_up : len(order) - cut.cool_down])))
    part.summary = _over(part.summary, float(np.ptp(arrived_s)) * len(part.records) / len(arrived_s))
    return part


def _over(summary: Summary, duration_s: float) -> Summary:
    """The same counts over another time."""
    longer = summary.duration_s / duration_s if duration_s > 0.0 else 0.0
    rates = {
        name: None if value is None else value * longer
        for name in summary.__struct_fields__
        if name.endswith("_per_s")
        for value in (getattr(summary, name),)
    }
    return replace(summary, duration_s=duration_s, **rates)


def _times(run: Run) -> tuple[Floats, Floats]:
    """When each request came and ended, in the order of arrival; what has not ended does so never."""
    arrived_s = run.records["arrived_s"].to_numpy()
    ended_s = run.records["ended_s"].to_numpy()
    order = np.argsort(arrived_s, kind="stable")
    return arrived_s[order], np.nan_to_num(ended_s[order], nan=np.inf)


def _slope(values: Floats) -> tuple[float, float, float]:
    """Of a line through the means of batches, for each request, and the ends of its interval."""
    from scipy import stats

    means = np.array([batch.mean() for batch in np.array_split(values, BATCHES)])
    at = (np.arange(BATCHES) - (BATCHES - 1) / 2.0) * len(values) / BATCHES
    slope = float(at @ means / (at @ at))
    error = np.sqrt(np.sum((means - means.mean() - slope * at) ** 2) / (BATCHES - 2) / (at @ at))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, BATCHES - 2) * error)
    return slope, slope - half, slope + half
