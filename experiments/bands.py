"""A figure over seeds: its mean, an interval of the mean, and what the seeds span."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

CONFIDENCE = 0.95


class Band(Struct, frozen=True, kw_only=True):
    """Of one figure, over the runs that have it."""

    mean: float
    least: float
    most: float
    low: float | None = None
    """Ends of Student's 95 % interval of the mean; None where there is one value, or all are the same."""
    high: float | None = None
    runs: int


def band(values: Sequence[float | None]) -> Band | None:
    """The band of the values that are there; None where there is none."""
    from scipy import stats

    known = np.array([value for value in values if value is not None])
    if not len(known):
        return None
    found = Band(mean=float(known.mean()), least=float(known.min()), most=float(known.max()), runs=len(known))
    if len(known) < 2 or found.least == found.most:
        return found
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(known) - 1) * stats.sem(known))
    return Band(
        mean=found.mean, least=found.least, most=found.most, runs=found.runs,
        low=found.mean - half, high=found.mean + half,
    )  # fmt: skip
