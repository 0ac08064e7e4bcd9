"""What a trace is like: counts, rate, burstiness, lengths, prefix sharing, what is missing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from msgspec import Struct

from traces.columns import COLUMNS
from traces.trace import Trace


class Quantiles(Struct, frozen=True):
    """Of the values that are present; each quantile is one of them: the least that `p` % do not exceed."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float


class Statistics(Struct, frozen=True, kw_only=True):
    """See `describe`. What cannot be said of a trace (too short, column absent) is `None`."""

    requests: int
    duration_s: float
    rate_per_s: float | None
    """From the first arrival to the last; None where all are one instant's."""
    peak_per_s: int
    """Most arrivals within one second [k, k + 1)."""
    gap_mean_s: float | None
    gap_cv: float | None
    """Coefficient of variation of the gaps between arrivals: 1 for Poisson, more for bursts."""
    distinct_times: int
    tick_s: float | None
    """The step of a clock too coarse to tell requests apart; `None` if it is fine."""
    prompt_tokens: Quantiles | None
    output_tokens: Quantiles | None
    blocks: int
    prefix_hit_share: float | None
    """Share of the blocks that a cache which forgets nothing holds, up to each request's first miss."""
    sessions: int
    failed: int
    """Requests that failed when they were recorded."""
    absent: dict[str, int]
    """Rows without a value, by column; `kind` aside, where absent means online."""


def describe(trace: Trace) -> Statistics:
    """Statistics of a trace, in one pass over its columns (and one over its blocks)."""
    arrived = trace.column("arrived_s").to_numpy()
    gaps = np.diff(arrived)
    seconds = np.floor(arrived).astype(int)
    mean_s = float(gaps.mean()) if len(gaps) else None
    session_names = pc.unique(trace.column("session").drop_null())
    return Statistics(
        requests=len(trace),
        duration_s=trace.duration_s,
        rate_per_s=trace.rate_per_s,
        peak_per_s=int(np.unique(seconds, return_counts=True)[1].max(initial=0)),
        gap_mean_s=mean_s,
        gap_cv=float(gaps.std() / mean_s) if mean_s else None,
        distinct_times=len(np.unique(arrived)),
        tick_s=_tick(arrived),
        prompt_tokens=_quantiles(trace, "prompt_tokens"),
        output_tokens=_quantiles(trace, "output_tokens"),
        blocks=len(pc.list_flatten(trace.column("blocks"))),
        prefix_hit_share=_prefix_hits(trace),
        sessions=len(session_names),
        failed=pc.sum(trace.column("observed_failed")).as_py() or 0,
        absent={name: trace.column(name).null_count for name in COLUMNS if name != "kind"},
    )


def _quantiles(trace: Trace, column: str) -> Quantiles | None:
    values = trace.column(column).drop_null().to_numpy()
    if not len(values):
        return None
    p50, p90, p99 = np.percentile(values, [50, 90, 99], method="inverted_cdf")
    return Quantiles(float(values.mean()), float(p50), float(p90), float(p99), float(values.max()))


def _tick(arrived: npt.NDArray[np.float64]) -> float | None:
    """The usual step between distinct times, if nearly all are whole multiples of it and rows share times."""
    times = np.unique(arrived)
    if len(times) < 10 or len(times) > 0.9 * len(arrived):
        return None
    steps = np.diff(times)
    tick = float(np.median(steps))
    multiples = steps / tick
    regular = np.abs(multiples - np.round(multiples)) < 0.02
    return round(tick, 6) if regular.mean() > 0.9 else None


def _prefix_hits(trace: Trace) -> float | None:
    seen: set[int] = set()
    hits = total = 0
    for blocks in trace.column("blocks").to_pylist():
        if blocks is None:
            continue
        total += len(blocks)
        for block in blocks:
            if block not in seen:
                break
            hits += 1
        seen.update(blocks)
    return hits / total if total else None
