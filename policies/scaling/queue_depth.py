"""Scaling on queue depth: act on the work that waits, not on how busy the devices look."""

from __future__ import annotations

import math
import random
from typing import Annotated

from msgspec import Meta

from policies.base import ScalingPolicy
from policies.decisions import Scale
from policies.scaling.averaging import TimeAverage
from policies.views import PoolView


class QueueDepth(ScalingPolicy):
    """Add `step` replicas above `up_at` waiting per ready replica, remove `step` below `down_at`. O(1).

    It adds none while one is starting, so that a cold start is not answered by another, and removes none
    unless more than the least number are ready. Otherwise it asks for what it asked before, so that a lost
    replica is replaced. From no replicas it goes to one as soon as a request waits, and to none only when none is in
    flight.

    An empty queue does not tell how many replicas too many there are, so a controller that goes by the queue alone
    takes one away until too few are left, and then adds again, for ever. So it removes only what the others can
    carry, which is what `rest_busy` says.

    Source: none; the two thresholds of a classic hysteresis controller. Unlike Ray Serve's autoscaler it does not count
    the requests that run.
    """

    up_at: Annotated[float, Meta(ge=0)] = 10.0
    """Waiting requests per ready replica above which to add."""
    down_at: Annotated[float, Meta(ge=0)] = 3.0
    """Waiting requests per ready replica below which to remove."""
    step: Annotated[int, Meta(ge=1)] = 1
    """Replicas to add or remove at a time."""
    keep: Annotated[int, Meta(ge=0)] | None = None
    """Remove none unless more than this many are ready; None: the pool's minimum."""
    only_idle: bool = False
    """Remove only while a ready replica was idle in its last report; otherwise a busy one is drained."""
    rest_busy: Annotated[float, Meta(gt=0)] = 0.85
    """Remove only if the others would then be busy for at most this fraction of the time, by the mean of the last
    `look_back_s`; token by token, if they would use at most this fraction of their caches. What is far above 1 asks
    nothing: the queue alone decides."""
    look_back_s: Annotated[float, Meta(ge=0)] = 30.0
    up_cooldown_s: Annotated[float, Meta(ge=0)] = 0.0
    """Seconds after any change before replicas are added again."""
    down_cooldown_s: Annotated[float, Meta(ge=0)] = 0.0
    """Seconds after any change before replicas are removed again."""

    def __post_init__(self) -> None:
        if self.down_at > self.up_at:
            raise ValueError(f"down_at ({self.down_at:g}) must not be above up_at ({self.up_at:g})")

    def reset(self, rng: random.Random) -> None:
        self.target: int | None = None
        self.changed_s = -math.inf
        self.busy = TimeAverage(self.look_back_s)

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        target = pool.ready + pool.starting if self.target is None else self.target
        target = max(pool.min_replicas, min(target, pool.max_replicas))
        least = pool.min_replicas if self.keep is None else max(self.keep, pool.min_replicas)
        least = max(least, 1) if pool.in_flight else least
        depth = pool.queue_depth / max(1, pool.ready)
        too_many = depth > self.up_at or (target == 0 and depth > 0.0)
        busy = self.busy_replicas(pool)
        before, since_s = target, now_s - self.changed_s
        if too_many and pool.starting == 0 and since_s >= self.up_cooldown_s:
            target = min(target + self.step, pool.max_replicas)
        elif depth < self.down_at and min(target, pool.ready) > least and since_s >= self.down_cooldown_s:
            fewer = max(target - self.step, least)
            target = fewer if self.may_remove(pool) and self.can_carry(fewer, busy) else target
        if target != before:
            self.changed_s = now_s
        if pool.requested or self.target is not None:  # before the first report there is nothing to go by
            self.target = target
        return Scale(target)

    def busy_replicas(self, pool: PoolView) -> float | None:
        """How many replicas' work there is, by the mean of the last `look_back_s`; None: not known."""
        full = pool.busy_fraction if pool.kv_utilization_mean is None else pool.kv_utilization_mean
        return None if full is None else self.busy.add(pool.ready * full, pool.interval_s)

    def can_carry(self, replicas: int, busy: float | None) -> bool:
        """True unless so many would be too busy."""
        return busy is None or busy <= self.rest_busy * replicas

    def may_remove(self, pool: PoolView) -> bool:
        """True unless `only_idle` asks for an idle replica and none was idle in its last report."""
        return not self.only_idle or any(
            view.state == "ready" and not view.in_flight for view in pool.replicas
        )
