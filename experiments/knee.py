"""Where a load curve bends: the rate with the most power, which is throughput over latency.

The one thing to know: below that rate more load buys more throughput than it costs in latency, above it the other way
round. It needs no tuning and no units (Kneedle's smoothing and sensitivity, and its scales, which move the knee with
the range that is plotted, are what it does without), and theory knows it: of M/M/1 it is at half the capacity.

Source: Kleinrock, "Power and Deterministic Rules of Thumb for Probabilistic Problems in Computer Communications",
ICC 1979. Another rule, by the curve's shape: Satopää et al., "Finding a 'Kneedle' in a Haystack", ICDCS Workshops 2011.
"""

from __future__ import annotations

from collections.abc import Sequence


def knee(rates_per_s: Sequence[float], powers: Sequence[float | None]) -> float | None:
    """The rate of the most power, between the given ones by a parabola; None where it is at either end of them.

    `powers` are of the rates, which ascend; None is a rate at which there is no steady state, and so no power. Next to
    one of those the knee is the best rate itself.
    """
    known = [0.0 if power is None else power for power in powers]
    best = max(range(len(known)), key=known.__getitem__, default=0)
    if not 0 < best < len(known) - 1:
        return None
    if powers[best - 1] is None or powers[best + 1] is None:
        return rates_per_s[best]
    return _top(rates_per_s[best - 1 : best + 2], known[best - 1 : best + 2])


def _top(x: Sequence[float], y: Sequence[float]) -> float:
    """Where the parabola through three points, the middle one the highest, has its top."""
    before, after = x[1] - x[0], x[2] - x[1]
    rise, fall = (y[1] - y[0]) / before, (y[1] - y[2]) / after
    if rise + fall == 0.0:
        return x[1]
    return x[1] + (rise * after - fall * before) / (2.0 * (rise + fall))
