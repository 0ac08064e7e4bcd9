"""Scaling ahead of demand that repeats itself: Holt-Winters over the time that a cold start takes."""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Annotated

from msgspec import Meta

from policies.base import ScalingPolicy
from policies.decisions import Scale
from policies.scaling.averaging import TimeAverage
from policies.scaling.bounds import asked_so_far, at_work, is_known, whole
from policies.scaling.service_rate import ServiceRate
from policies.scaling.target_utilization import largest
from policies.views import PoolView
from traces.values import BadValue

_MOST_BUCKETS = 100_000


class Predictive(ScalingPolicy):
    """Ask for `rate · (1 + headroom) / mu` replicas, `rate` being the largest expected within `horizon_s`. O(horizon).

    Arrivals are counted in buckets. After the first season each bucket's rate corrects a level, a trend and what is
    usual at that time of the season (additive Holt-Winters); expected is their sum. `mu`, what one busy replica
    completes a second, is learnt unless it is given; until it is known nothing changes.

    It never asks for less than what arrives now takes, a mean over `average_s`, with the same headroom. So it is a
    reactive policy until a season is over, and wherever it is wrong on the low side. It goes down only to the largest
    number of `down_stabilization_s`.

    Source: Winters, "Forecasting Sales by Exponentially Weighted Moving Averages", Management Science 1960 (additive
    seasons as in Hyndman and Athanasopoulos, "Forecasting: Principles and Practice", section 8.3); the use is that of
    "Predictive scaling for Amazon EC2 Auto Scaling": one day of history first, the forecast never takes capacity
    away, and what it asks for is there ahead of its time (`SchedulingBufferTime`, here `horizon_s`).
    """

    season_s: Annotated[float, Meta(gt=0)] = 86_400.0
    """Seconds after which demand repeats itself."""
    bucket_s: Annotated[float, Meta(gt=0)] = 60.0
    """Seconds over which arrivals are counted; a season is a whole number of them."""
    horizon_s: Annotated[float, Meta(ge=0)] = 120.0
    """Seconds ahead: how long a new replica takes until it serves."""
    headroom: Annotated[float, Meta(ge=0)] = 0.2
    """More than the rate takes, relative to it."""
    rate_per_s: Annotated[float, Meta(gt=0)] | None = None
    """Requests that one busy replica completes a second; None: learnt."""
    level_smoothing: Annotated[float, Meta(gt=0, le=1)] = 0.2
    """Weight of the newest bucket in the level."""
    trend_smoothing: Annotated[float, Meta(ge=0, le=1)] = 0.02
    """Weight of the newest change of the level in the trend."""
    season_smoothing: Annotated[float, Meta(ge=0, le=1)] = 0.3
    """Weight of the newest season in what is usual."""
    average_s: Annotated[float, Meta(gt=0)] = 10.0
    """Seconds over which arrivals of now are averaged."""
    memory_s: Annotated[float, Meta(gt=0)] = 300.0
    """Time constant of what is learnt of `rate_per_s`."""
    down_stabilization_s: Annotated[float, Meta(ge=0)] = 60.0
    """Seconds over which the largest recommendation counts on the way down."""

    def check_values(self) -> None:
        """Raises `BadValue` where a season is not a whole number of buckets, 2 to 100,000."""
        buckets = self.season_s / self.bucket_s
        if not 2.0 <= buckets <= _MOST_BUCKETS or abs(buckets - round(buckets)) > 1e-6 * buckets:
            raise BadValue(
                "bucket_s",
                f"a season ({self.season_s:g} s) must be a whole number of buckets, 2 to {_MOST_BUCKETS:,}, "
                f"not {buckets:g}",
            )

    def reset(self, rng: random.Random) -> None:
        self.asked: int | None = None
        self.now_per_s = TimeAverage(self.average_s)
        self.rate = ServiceRate(self.memory_s)
        self.highest: deque[tuple[float, int]] = deque()
        self.usual: list[float] = []
        """By the time of the season: rates of the first one, then how far from the level they usually are."""
        self.buckets = round(self.season_s / self.bucket_s)
        self.closed = 0
        """Buckets that have ended."""
        self.arrivals = self.filled_s = 0.0
        """Of the bucket that has not."""
        self.level = self.trend = 0.0

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        asked = asked_so_far(pool, self.asked)
        self._count(pool.arrivals_per_s, pool.interval_s)
        now_per_s = max(0.0, self.now_per_s.add(pool.arrivals_per_s, pool.interval_s))
        learnt_per_s = self.rate.learn(pool)
        mu = learnt_per_s if self.rate_per_s is None else self.rate_per_s
        expected_per_s = self.expected_per_s()
        if mu is None or (pool.interval_s == 0.0 and self.asked is None):
            wanted = asked
        else:
            rate_per_s = now_per_s if expected_per_s is None else max(now_per_s, expected_per_s)
            wanted = whole(rate_per_s * (1.0 + self.headroom) / mu)
        wanted = at_work(pool, wanted)
        decided = max(wanted, min(asked, largest(self.highest, now_s, wanted, self.down_stabilization_s)))
        if is_known(pool, self.asked):
            self.asked = decided
        said = "no season yet" if expected_per_s is None else f"{expected_per_s:.3g} arrivals/s expected"
        return Scale(decided, said)

    def expected_per_s(self) -> float | None:
        """The largest rate expected from now to `horizon_s` from now; None before a season is over."""
        if self.closed < self.buckets:
            return None
        ahead = min(1 + math.floor((self.filled_s + self.horizon_s) / self.bucket_s), self.buckets)
        at = self.closed - 1
        return max(
            self.level + steps * self.trend + self.usual[(at + steps) % self.buckets]
            for steps in range(1, ahead + 1)
        )

    def _count(self, per_s: float, span_s: float) -> None:
        """Take in a rate that held for so long; it may reach over the ends of buckets."""
        while span_s > 0.0:
            part_s = min(span_s, self.bucket_s - self.filled_s)
            self.arrivals += per_s * part_s
            self.filled_s += part_s
            span_s -= part_s
            if self.filled_s >= self.bucket_s - 1e-9:
                self._close(self.arrivals / self.bucket_s)
                self.arrivals = self.filled_s = 0.0

    def _close(self, rate_per_s: float) -> None:
        """A bucket has ended."""
        if self.closed < self.buckets:
            self.usual.append(rate_per_s)
            self.closed += 1
            if self.closed == self.buckets:
                self.level = math.fsum(self.usual) / self.buckets
                self.usual = [rate - self.level for rate in self.usual]
            return
        place = self.closed % self.buckets
        before, usual = self.level + self.trend, self.usual[place]
        level = before + self.level_smoothing * (rate_per_s - usual - before)
        self.trend += self.trend_smoothing * (level - self.level - self.trend)
        self.usual[place] = usual + self.season_smoothing * (rate_per_s - before - usual)
        self.level = level
        self.closed += 1
