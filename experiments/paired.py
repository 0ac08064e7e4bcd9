"""Paired statistics of two candidates over the same seeds. `docs/statistics.md` says why these.

The unit of replication is the run. A run of ten thousand requests is one observation: its requests queue behind
one another, so their latencies are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from experiments.metrics import Better
from traces.values import BadValue

Interval = Literal["t", "bca"]
Scale = Literal["difference", "ratio"]
"""On which a pair is held against another: one less the other, or one over the other. Ratios suit figures with heavy
tails, whose noise grows with their size: the test is then on the differences of their logarithms."""
Verdict = Literal["better", "worse", "no difference shown", "exact", "not judged", "too little completed"]
"""`exact`: the difference is the same in every pair, so there is no spread to make an interval of. `not judged`:
the metric has no better way, or there are too few runs. `too little completed`: by the candidate, or by the baseline,
for a figure that is of completed requests, or what they cost, to say anything."""

RESAMPLES = 9999


def check_method(interval: str, scale: str) -> None:
    """Raise `ValueError` for an interval or a scale that there is not."""
    for name, given, known in (("interval", interval, Interval), ("scale", scale, Scale)):
        if given not in get_args(known):
            raise BadValue("", f"{name}={given!r} is not known; expected one of {', '.join(get_args(known))}")


class Difference(Struct, frozen=True, kw_only=True):
    """Candidate less baseline, or over it, over the pairs of runs that have both."""

    mean: float
    """Of the differences; on the scale of ratios the geometric mean of the ratios."""
    low: float | None = None
    """Ends of the interval; None where there is none to give."""
    high: float | None = None
    p_value: float | None = None
    """Two-sided, of "the mean difference is zero", before any correction."""
    pairs: int
    distinct: int
    """Pairs that differ from one another as whole runs."""

    exact: bool = False
    """The same in every one of several pairs: no spread, so no interval."""
    scale: Scale = "difference"

    @property
    def deterministic(self) -> bool:
        """All pairs are one and the same: chance plays no part, and repeating it is no replication."""
        return self.distinct == 1 and self.pairs > 1

    @property
    def nothing(self) -> float:
        """What no difference is on its scale."""
        return 1.0 if self.scale == "ratio" else 0.0

    @property
    def excludes_nothing(self) -> bool:
        """True when there is an interval, and no difference is outside it."""
        return self.low is not None and self.high is not None and not self.low <= self.nothing <= self.high

    def favours(self, better: Better) -> bool:
        """Whether the candidate's mean lies on the better side."""
        return (self.mean < self.nothing) == (better == "lower")


def paired_ratio(
    ones: Sequence[float],
    others: Sequence[float],
    *,
    distinct: int,
    interval: Interval = "t",
    confidence: float = 0.95,
) -> Difference:
    """Geometric mean of `ones` over `others`, pair by pair, with its interval. All of them must be above 0."""
    logs = [math.log(one) - math.log(other) for one, other in zip(ones, others, strict=True)]
    found = paired_difference(logs, distinct=distinct, interval=interval, confidence=confidence)
    low, high = (None if end is None else math.exp(end) for end in (found.low, found.high))
    return replace(found, mean=math.exp(found.mean), low=low, high=high, scale="ratio")


def paired_difference(
    differences: Sequence[float],
    *,
    distinct: int,
    interval: Interval = "t",
    confidence: float = 0.95,
) -> Difference:
    """Mean difference with its interval. `distinct` is how many of the pairs differ as whole runs.

    ``t``: Student's interval and test over the differences. ``bca``: the bias-corrected and accelerated
    bootstrap, with the sign-flip permutation test.
    """
    values = np.asarray(differences, dtype=float)
    pairs = len(values)
    mean = float(values.mean())
    flat = float(np.ptp(values)) <= 1e-12 * float(np.abs(values).max(initial=0.0))
    if pairs < 2 or distinct < 2 or flat:
        return Difference(mean=mean, pairs=pairs, distinct=distinct, exact=pairs > 1)
    low, high, p_value = _student(values, confidence) if interval == "t" else _bootstrap(values, confidence)
    return Difference(mean=mean, low=low, high=high, p_value=p_value, pairs=pairs, distinct=distinct)


Values = np.ndarray[tuple[int], np.dtype[np.float64]]


def _student(values: Values, confidence: float) -> tuple[float, float, float]:
    from scipy import stats

    result = stats.ttest_1samp(values, 0.0)
    low, high = result.confidence_interval(confidence)
    return float(low), float(high), float(result.pvalue)


def _bootstrap(values: Values, confidence: float) -> tuple[float, float, float]:
    from scipy import stats

    rng = np.random.default_rng(0)  # the same report from the same runs
    low, high = stats.bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, method="BCa", rng=rng
    ).confidence_interval
    flips = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=rng, vectorized=True
    )
    return float(low), float(high), float(flips.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the order given: the chance of any false verdict in the family stays below the level.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scand. J. Statist. 6, 1979.
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def verdict(
    difference: Difference, better: Better, p_adjusted: float | None, *, level: float = 0.05
) -> Verdict:
    """Better or worse only if the interval excludes no difference and the corrected test agrees."""
    if difference.exact:
        return "exact"
    if better == "neither" or difference.low is None or p_adjusted is None:
        return "not judged"
    if not difference.excludes_nothing or p_adjusted > level:
        return "no difference shown"
    return "better" if difference.favours(better) else "worse"


def ratio(candidate: float, baseline: float) -> float | None:
    """Candidate over baseline, None where the baseline is zero."""
    return candidate / baseline if baseline and math.isfinite(baseline) else None
