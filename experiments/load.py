"""Load as something to set: the same requests at another rate, and the highest rate that something holds at.

The one thing to know: a rate changes the clock of the arrivals and nothing else, so that what differs between two rates
is the load and not who came.
"""

from __future__ import annotations

from collections.abc import Callable

from traces import Trace, TraceError, Transform

FAR = 64.0
"""Below so small a part of the rate to start from nothing is looked for."""
ANYWHERE = 2.0**20
"""Times the rate to start from: what attains at more does so at any rate."""


def open_loop(trace: Trace) -> Trace:
    """The same requests at their recorded times, whatever became of those before them."""
    columns = [name for name in ("parent", "think_s") if name in trace.table.column_names]
    return trace.derived(trace.table.drop_columns(columns), Transform("open_loop"))


def at_rate(trace: Trace, rate_per_s: float) -> Trace:
    """The same requests in the same order, on average so many a second."""
    if trace.rate_per_s is None:
        raise TraceError("has no rate to scale", remedy="give requests of more than one instant")
    return trace.scale_rate(rate_per_s / trace.rate_per_s)


def highest_rate(
    attains: Callable[[float], bool], start: float, tolerance: float, *, far: float = FAR
) -> float:
    """A rate that attains, such that one at most `tolerance` (relative) above it does not; 0.0 if hardly any does.

    By bisection between two rates a factor of two apart, found from `start`: down to `far` times below it, and up as
    far as it takes, to `ANYWHERE` times above. It takes for granted that what a rate attains a lower one does too.
    """
    low = start
    while not attains(low):
        low /= 2.0
        if low < start / far:
            return 0.0
    high = 2.0 * low
    while low >= start and high <= start * ANYWHERE and attains(high):
        low, high = high, 2.0 * high
    while high > (1.0 + tolerance) * low:
        middle = (low * high) ** 0.5
        if attains(middle):
            low = middle
        else:
            high = middle
    return low
