"""Which part of a run shows a load in its steady state, and whether there is one: warm-up and cool-down cut off.

The one thing to know: all of it is read off one series, how many requests are in flight as each one comes. It is there
whatever becomes of the requests, and its slope over them is the share of the load that the fleet does not get done.

Sources: White, "An Effective Truncation Heuristic for Bias Reduction in Simulation Output", Simulation 69, 1997 (MSER;
in batches of five: White, Cobb and Spratt, Winter Simulation Conference 2000); Law, "Simulation Modeling and Analysis",
section 9.5 (batch means, for values that depend on one another).
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
MATERIAL = 0.01
"""Of what comes: a backlog that grows by less is no overload, though a long run may show it beyond doubt."""
CONFIDENCE = 0.95


class Kept(Struct, frozen=True):
    """The requests that are looked at: from `first` up to, not including, `stop`, in the order of arrival."""

    first: int
    stop: int


class Steadiness(Struct, frozen=True, kw_only=True):
    """What the kept requests say of the fleet's state."""

    state: State
    drift: float
    """By how many more requests are in flight for each one that comes: the share of the load that is not got done."""
    low: float
    """Ends of its 95 % interval."""
    high: float
    kept: Kept
    requests: int
    """Of the whole run."""


def in_flight_found(run: Run) -> Floats:
    """How many requests were in flight as each one came, in the order of arrival."""
    arrived_s, ended_s = _times(run)
    return np.arange(len(arrived_s)) - np.searchsorted(np.sort(ended_s), arrived_s, side="left").astype(float)


def kept_of(run: Run) -> Kept | None:
    """The requests between warm-up and cool-down; None where the run does not settle in its first half.

    Those of the cool-down come later than the last arrival less the time in which 99 % of the others ended: they met
    a fleet that had only to drain. It is at most the last quarter of the requests.
    """
    first = warm_up(in_flight_found(run))
    if first is None:
        return None
    arrived_s, ended_s = _times(run)
    lasts_s = np.quantile(ended_s[first:] - arrived_s[first:], 0.99, method="lower")
    before_draining = int(np.searchsorted(arrived_s, arrived_s[-1] - lasts_s, side="right"))
    return Kept(first, max(before_draining, 3 * len(arrived_s) // 4))


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


def common(runs: Sequence[Run]) -> Kept:
    """The same requests for runs of one trace: from the latest warm-up to the earliest cool-down of those that settle.

    Where none does, the third quarter.
    """
    settled = [kept for kept in map(kept_of, runs) if kept is not None]
    if not settled:
        requests = len(runs[0].records) if runs else 0
        return Kept(requests // 2, 3 * requests // 4)
    return Kept(max(kept.first for kept in settled), min(kept.stop for kept in settled))


def steadiness(run: Run, kept: Kept) -> Steadiness:
    """Whether the number in flight has a trend over the kept requests.

    A line through the means of 20 batches, with Student's interval of its slope. It grows, or falls, where the whole
    interval is beyond 1 % of the load; it is steady where the whole of it is within, and the run settles.
    """
    drift, low, high = _slope(in_flight_found(run)[kept.first : kept.stop])
    return Steadiness(
        state=_state(low, high, settles=kept_of(run) is not None), drift=drift, low=low, high=high, kept=kept,
        requests=len(run.records),
    )  # fmt: skip


def _state(low: float, high: float, *, settles: bool) -> State:
    if low > MATERIAL:
        return "growing"
    if high < -MATERIAL:
        return "falling"
    return "steady" if settles and low >= -MATERIAL and high <= MATERIAL else "unclear"


def window(run: Run, kept: Kept) -> Run:
    """The run of the kept requests. Rates are over the time in which so many come on average over the whole run.

    So a goodput is the share of good requests of the load that was offered, wherever in the trace they are.
    """
    arrived_s = run.records["arrived_s"].to_numpy()
    order = np.argsort(arrived_s, kind="stable")
    part = run.part(pa.array(np.sort(order[kept.first : kept.stop])))
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
    """Of a line through the means of batches, a request, and the ends of its interval."""
    from scipy import stats

    batches = np.array_split(values, BATCHES)
    if len(values) < 2 * BATCHES:
        return 0.0, -np.inf, np.inf
    fit = stats.linregress(
        [(len(values) / BATCHES) * (number + 0.5) for number in range(BATCHES)],
        [one.mean() for one in batches],
    )
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, BATCHES - 2)) * float(fit.stderr)
    return float(fit.slope), float(fit.slope) - half, float(fit.slope) + half
