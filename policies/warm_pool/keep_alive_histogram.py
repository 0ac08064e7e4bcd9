"""The histogram keep-alive policy: load before the next request is likely, unload when it no longer is."""

from __future__ import annotations

import math
import random
from typing import Annotated

from msgspec import Meta

from policies.base import WarmPoolPolicy
from policies.decisions import Warm
from policies.views import Ending, PoolView
from policies.warm_pool.idle_time import IdleTime, serving
from traces.values import BadValue

_KEPT, _NONE = Warm(1, "the next request is likely"), Warm(0)


class KeepAliveHistogram(WarmPoolPolicy):
    """Keep one loaded spare while the next request is likely, by how long the pool was idle before. O(1) a decision.

    Idle times are counted in bins of `bin_s`, `bins` of them. The *pre-warming window* is the `head` quantile, rounded
    down to a bin's beginning, less `margin`: so long after the last request nothing is kept. From then a spare is
    loaded, until the `tail` quantile, rounded up to a bin's end, plus `margin`. Where that begins at 0, one is kept
    from the start.

    The histogram is not representative when the coefficient of variation of its bins' counts is below `least_cv` (all
    bins alike have 0, one full bin among 240 has 15.5), or more than `most_out_of_range` of the idle times were longer
    than it reaches. Then, and before there is any, a spare is kept for `keep_alive_s` from the start. The paper
    forecasts the next idle time (ARIMA) where most are out of range; that is left out.

    It goes with a scaling policy that goes to zero (`min_replicas = 0`). While a replica is wanted, or a request is
    there that one is started for, no spare is kept beside it; when none is, the last one becomes the spare. Learning
    costs O(bins) for each idle time.

    Source: Shahrad et al., "Serverless in the Wild: Characterizing and Optimizing the Serverless Workload at a Large
    Cloud Provider", USENIX ATC 2020, section 4.2 (hybrid histogram policy: 1-minute bins over 4 hours, 5th and 99th
    percentile, margin 10 %, a threshold of 2 for the coefficient of variation, and the range as keep-alive where the
    histogram does not tell).
    """

    bin_s: Annotated[float, Meta(gt=0)] = 60.0
    """Width of a bin."""
    bins: Annotated[int, Meta(ge=2, le=100_000)] = 240
    """How many; what is longer than all of them is out of range."""
    head: Annotated[float, Meta(ge=0, le=1)] = 0.05
    """Quantile of idle times before which nothing is kept."""
    tail: Annotated[float, Meta(ge=0, le=1)] = 0.99
    """Quantile of idle times after which nothing is kept."""
    margin: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """Part of each by which a spare comes sooner and goes later."""
    least_cv: Annotated[float, Meta(ge=0)] = 2.0
    """Coefficient of variation of the counts below which they tell nothing."""
    most_out_of_range: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Part of the idle times beyond the histogram above which it tells nothing."""
    keep_alive_s: Annotated[float, Meta(ge=0)] | None = None
    """Seconds for which a spare is kept where the histogram tells nothing; None: its range, `bin_s · bins`."""

    def check_values(self) -> None:
        """Building calls this once each field is right by itself: the window ends after it begins."""
        if self.head > self.tail:
            raise BadValue("head", f"{self.head:g} is above tail={self.tail:g}")

    def reset(self, rng: random.Random) -> None:
        self.idle = IdleTime()
        self.counts = [0] * self.bins
        self.out_of_range = 0
        self.window_s = self.learned_window_s()
        """After how long without work a spare is loaded, and after how long it goes."""
        self.over = False
        """The window is over, or there was never any work: so it stays until there is."""

    def desired(self, pool: PoolView, now_s: float) -> Warm:
        self.idle.look(pool)
        since_s = self.idle.since_s
        from_s, to_s = self.window_s
        self.over = pool.in_flight == 0 and (since_s is None or now_s - since_s >= to_s)
        if since_s is None or self.over or serving(pool) or now_s - since_s < from_s:
            return _NONE
        return _KEPT

    def settled(self) -> bool:
        return self.over

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        idle_s = self.idle.ended(ending, now_s)
        if idle_s is not None:
            self.learn(idle_s)

    def learn(self, idle_s: float) -> None:
        """An idle time is over."""
        place = int(idle_s / self.bin_s)
        if place < self.bins:
            self.counts[place] += 1
        else:
            self.out_of_range += 1
        self.window_s = self.learned_window_s()

    def learned_window_s(self) -> tuple[float, float]:
        """From when to when, after the last work, a spare is kept."""
        within = sum(self.counts)
        if not within or self.out_of_range > self.most_out_of_range * (within + self.out_of_range):
            return self._fixed_window_s()
        mean = within / self.bins
        deviation = math.sqrt(sum((count - mean) ** 2 for count in self.counts) / self.bins)
        if deviation < self.least_cv * mean:
            return self._fixed_window_s()
        from_s = self.bin_s * self._bin_of(self.head, within)
        to_s = self.bin_s * (self._bin_of(self.tail, within) + 1)
        return from_s * (1.0 - self.margin), to_s * (1.0 + self.margin)

    def _fixed_window_s(self) -> tuple[float, float]:
        return 0.0, self.bin_s * self.bins if self.keep_alive_s is None else self.keep_alive_s

    def _bin_of(self, share: float, within: int) -> int:
        """Number of the bin in which the `share` quantile lies, of the nearest rank."""
        rank, passed = max(1, math.ceil(share * within - 1e-9)), 0
        for place, count in enumerate(self.counts):
            passed += count
            if passed >= rank:
                return place
        raise AssertionError("no rank is above their number")
