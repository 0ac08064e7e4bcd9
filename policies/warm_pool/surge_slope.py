"""The warm pool that hides a ramp: as many spares as replicas are short while cold starts are under way.

The derivation. Demand is steady at lambda_0 requests per second until 0, climbs in a straight line for W seconds to
lambda_p, with the slope s = (lambda_p - lambda_0) / W, and stays there. A replica serves mu per second. Whoever asks at
every moment for as many replicas as demand needs *then*, lambda(t) / mu, has them a cold start c later: what serves at
t is what was needed at t - c. So at t within the ramp the fleet is short by

    (lambda(t) - lambda(t - c)) / mu = s · min(t, c) / mu   replicas, and at the peak by

    N = s · min(c, W) / mu = (lambda_p - lambda_0) / mu · min(1, c / W).

It does not depend on how high the ramp climbs, only on how steeply, once W >= c. `ceil(s · c / mu)` loaded spares hide
it: each replica that is needed is taken from them at once, its successor is asked for at that moment and is loaded c
later, and in c seconds s · c / mu are taken. Hence a ramp twice as slow to the same peak needs half the spares, and one
slower than mu / c per second needs one. Without spares the requests that wait at the peak are the integral of the
shortfall times mu, s · c · (W - c / 2) for c <= W; for another c they grow by s · c² / 2, to (lambda_p - lambda_0) · c
in all, however steep the ramp.

Losing f replicas at once in the middle of it takes f away for c seconds, just as if there were f spares fewer: a lost
replica is a negative warm pool. So `failures` is added.

What is learned comes late. Spares that are asked for when the ramp is seen are loaded a cold start after that, so a
policy that knows of no ramp before it begins hides what comes after the first c seconds and half of its window. For
those there must be spares already: a `FixedSize` of that N, or `failures` here.

One at a time. A controller that starts no replica while one is starting (`pending == 0`) adds at most one per c
seconds. It keeps up with slopes up to mu / c and no others: at the peak it is short by about

    (lambda_p - lambda_0) / mu - floor(W / c) = (s · c / mu - 1) · W / c   if c divides W,

which grows with the length of the ramp, not only its slope. Spares that are refilled one at a time then run out: the
pool would have to hold that number. `QueueDepth` is such a controller.
"""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Annotated

from msgspec import Meta

from policies.base import WarmPoolPolicy
from policies.decisions import Warm
from policies.views import PoolView


class SurgeSlope(WarmPoolPolicy):
    """Keep `ceil(slope · cold_start_s / mu) + failures` loaded spares, by the slope of arrivals.

    The slope is the rate of arrivals in the last half of `window_s` less that in the half before, over the time between
    the middles of both: counts, not samples. It counts when it is more than `deviations` times what chance makes of
    Poisson arrivals that do not climb; a falling rate needs no spares. What is kept at least is `failures`.
    So it hides a ramp that lasts several times `window_s` and `cold_start_s`: a shorter one is over before it is seen
    and answered, and a gentle one is lost in the chance of a high rate unless the window is longer.

    `mu` is given, or learned: completions over engine seconds, of the replicas that are ready, over the last window
    in which there were both. Where replicas batch, that is less than they could do when full; then there are too many
    spares rather than too few. As long as it is not known there are `failures` spares. A decision costs O(intervals in
    the window).

    Source: ours; the module's text derives it.
    """

    cold_start_s: Annotated[float, Meta(ge=0, le=86_400)] = 10.0
    """Seconds from when a replica is needed until a new one serves: provisioning, loading, and a period of the control
    loop."""
    mu_per_s: Annotated[float, Meta(gt=0)] | None = None
    """Requests per second that one replica serves when it has enough of them; None: learned."""
    failures: Annotated[int, Meta(ge=0, le=100_000)] = 0
    """Replicas that may be lost at once; so many spares are kept for that."""
    window_s: Annotated[float, Meta(gt=0, le=86_400)] = 10.0
    """Seconds of arrivals that the slope is told from. Short is early, long is sure."""
    deviations: Annotated[float, Meta(ge=0)] = 2.0
    """Standard deviations of the slope by chance above which it counts."""
    most: Annotated[int, Meta(ge=0, le=100_000)] = 1000
    """Spares at most, whatever the slope."""

    def reset(self, rng: random.Random) -> None:
        self.intervals: deque[tuple[float, float]] = deque()
        """Length and arrivals of each interval in the window, the oldest first."""
        self.length_s = 0.0
        self.work: deque[tuple[float, float, float]] = deque()
        """Length, completions and engine seconds of the last intervals in which replicas worked."""
        self.worked_s = self.completions = self.busy_s = 0.0

    def desired(self, pool: PoolView, now_s: float) -> Warm:
        if pool.interval_s > 0.0:
            self._count(pool)
        mu_per_s = self.mu()
        if mu_per_s is None:
            return Warm(min(self.failures, self.most))
        surge = self.slope() * self.cold_start_s / mu_per_s
        spares = self.failures + (math.ceil(surge - 1e-9) if surge < self.most else self.most)
        return Warm(min(spares, self.most), f"{surge:.1f} for the surge")

    def mu(self) -> float | None:
        """Requests per second of one replica; None: not known."""
        if self.mu_per_s is not None:
            return self.mu_per_s
        return self.completions / self.busy_s if self.completions > 0.0 and self.busy_s > 0.0 else None

    def slope(self) -> float:
        """By how much arrivals per second grow in a second; 0 where they do not, or nobody can tell."""
        if len(self.intervals) < 2 or self.length_s < self.window_s:
            return 0.0
        early_s = early = arrivals = 0.0
        for interval_s, arrived in self.intervals:
            arrivals += arrived
            if not early_s or early_s + interval_s <= self.length_s / 2.0:
                early_s += interval_s
                early += arrived
        late_s, late = self.length_s - early_s, arrivals - early
        climb_per_s = late / late_s - early / early_s
        # Were the rate the same in both parts, their rates would differ by chance with this variance.
        variance = arrivals / self.length_s * (1.0 / early_s + 1.0 / late_s)
        if climb_per_s <= self.deviations * math.sqrt(variance):
            return 0.0
        return climb_per_s / (self.length_s / 2.0)  # what lies between the middles of both parts

    def _count(self, pool: PoolView) -> None:
        interval_s = pool.interval_s
        self.intervals.append((interval_s, pool.arrivals_per_s * interval_s))
        self.length_s += interval_s
        while len(self.intervals) > 2 and self.length_s - self.intervals[0][0] >= self.window_s:
            self.length_s -= self.intervals.popleft()[0]
        if self.mu_per_s is not None or not pool.busy_fraction or not pool.ready:
            return
        done, busy_s = pool.completions_per_s * interval_s, pool.busy_fraction * pool.ready * interval_s
        self.work.append((interval_s, done, busy_s))
        self.worked_s += interval_s
        self.completions += done
        self.busy_s += busy_s
        while len(self.work) > 1 and self.worked_s - self.work[0][0] >= self.window_s:
            length_s, done, busy_s = self.work.popleft()
            self.worked_s -= length_s
            self.completions -= done
            self.busy_s -= busy_s
