"""The latencies of the last attempts, where of some it is only known that they took at least so long.

The one thing to know: an attempt that was withdrawn after 2 s tells that it would have taken more than 2 s. To leave it
out would be to leave out the slowest, and 2 s would be too little for what it took; here it counts as "more than 2 s".
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque

_ROUNDING = 1e-9


class LatencyWindow:
    """One quantile of the last `size` latencies: the product-limit estimate, which knows of those cut short.

    What was cut short counts, in equal parts, as each of those that took longer (*redistribution to the right*). The
    longest of all counts as having ended, so that there always is an estimate: where the quantile lies beyond what was
    seen to end, it is the longest that was seen at all. Without any that were cut short it is the plain quantile, the
    ``ceil(share · n)``-th smallest.

    To add one takes O(log n) comparisons, and moving n numbers in memory. The estimate walks those cut short that lie
    below it, and is taken anew when a hundredth of the window is new; so it costs O(log n) for each that is added.

    Source: Kaplan and Meier, "Nonparametric Estimation from Incomplete Observations", JASA 1958; Efron, "The Two Sample
    Problem with Censored Data", 1967, for redistribution and for the longest.
    """

    __slots__ = ("_cut_short", "_ended", "_estimate_s", "_in_order", "_new", "_share", "_size")

    def __init__(self, size: int, share: float) -> None:
        """`share` 0.95 is the 95th percentile."""
        self._size, self._share = size, share
        self._in_order: deque[tuple[float, bool]] = deque()
        """As they came: seconds, and whether it was cut short."""
        self._ended: list[float] = []
        self._cut_short: list[float] = []
        """Both ascending."""
        self._estimate_s: float | None = None
        self._new = 0
        """How many came since the estimate was taken."""

    def __len__(self) -> int:
        return len(self._in_order)

    def add(self, seconds: float, *, cut_short: bool) -> None:
        """One more; the oldest goes when there are too many. `cut_short`: it would have taken longer."""
        if len(self._in_order) == self._size:
            oldest, was_cut_short = self._in_order.popleft()
            among = self._cut_short if was_cut_short else self._ended
            del among[bisect_left(among, oldest)]
        self._in_order.append((seconds, cut_short))
        insort(self._cut_short if cut_short else self._ended, seconds)
        self._new += 1

    @property
    def quantile_s(self) -> float | None:
        """The estimate; None while nothing has ended."""
        if not self._ended:
            return None
        if self._new and (self._new * 100 >= len(self._in_order) or self._estimate_s is None):
            self._estimate_s, self._new = self._quantile_s(), 0
        return self._estimate_s

    def _quantile_s(self) -> float:
        ended, cut_short = self._ended, self._cut_short
        left = self._share * len(self._in_order)
        """What of all that was seen lies at or below the quantile, less what has been passed."""
        passed, weight, after = 0, 1.0, len(cut_short)
        for seconds in cut_short:
            here = bisect_right(ended, seconds, passed)
            if (here - passed) * weight >= left - _ROUNDING:
                break
            left -= (here - passed) * weight
            passed, after = here, after - 1
            longer = len(ended) - here + after
            if not longer:
                return seconds
            weight *= (longer + 1) / longer
        return ended[passed + max(1, math.ceil(left / weight - _ROUNDING)) - 1]
