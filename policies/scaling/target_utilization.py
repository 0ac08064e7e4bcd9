"""Scaling to a target utilisation: the rule of the Kubernetes Horizontal Pod Autoscaler."""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Annotated

from msgspec import Meta

from policies.base import ScalingPolicy
from policies.decisions import Scale
from policies.scaling.averaging import TimeAverage
from policies.views import PoolView

_ROUNDING = 1e-9  # 3 · 0.8 / 0.6 is a rounding error above 4, and means 4


class TargetUtilization(ScalingPolicy):
    """Ask for `ceil(ready · current / target)` replicas. Amortised O(1).

    `current` is the mean GPU utilisation of the ready replicas, or where no device reports one the fraction
    of time that their engines ran; while neither is known, nothing changes. What counts is `ready · current` by its
    mean over `average_s`. Within `tolerance` of the target nothing changes. It goes down only to the largest number
    that it would have asked for within `down_stabilization_s`, and up only to the smallest within
    `up_stabilization_s`. The rule is not defined without replicas: from none it goes to one as soon as a request
    waits, and to none only when none is in flight.

    Source: Kubernetes documentation, "Horizontal Pod Autoscaling" (algorithm details, stabilization window). The
    averaging is that of Knative's autoscaler ("stable window", 60 s), the activation from zero that of KEDA.
    """

    target: Annotated[float, Meta(gt=0, le=1)] = 0.7
    """Utilisation to hold, 0..1."""
    tolerance: Annotated[float, Meta(ge=0)] = 0.1
    """How far `current / target` may be from 1 before anything changes."""
    average_s: Annotated[float, Meta(ge=0)] = 60.0
    """Seconds over which utilisation is averaged: of a shorter mean the largest value of a long stabilization window is
    chance more than load."""
    up_stabilization_s: Annotated[float, Meta(ge=0)] = 0.0
    """Seconds over which the smallest recommendation counts on the way up."""
    down_stabilization_s: Annotated[float, Meta(ge=0)] = 300.0
    """Seconds over which the largest recommendation counts on the way down."""

    def reset(self, rng: random.Random) -> None:
        self.asked: int | None = None
        self.load = TimeAverage(self.average_s)
        self.highest: deque[tuple[float, int]] = deque()
        self.lowest: deque[tuple[float, int]] = deque()

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        asked = pool.ready + pool.starting if self.asked is None else self.asked
        asked = max(pool.min_replicas, min(asked, pool.max_replicas))
        wanted = self._recommend(pool, asked)
        highest = largest(self.highest, now_s, wanted, self.down_stabilization_s)
        lowest = -largest(self.lowest, now_s, -wanted, self.up_stabilization_s)
        decided = max(asked, lowest) if wanted > asked else min(asked, highest)
        if pool.requested or self.asked is not None:  # before the first report there is nothing to go by
            self.asked = decided
        return Scale(decided)

    def current(self, pool: PoolView) -> float | None:
        """The utilisation that is held at `target`; None: not known."""
        return pool.busy_fraction if pool.gpu_utilization is None else pool.gpu_utilization

    def _recommend(self, pool: PoolView, asked: int) -> int:
        """What the formula says now, within the pool's bounds."""
        if pool.ready == 0:
            return max(asked, 1) if pool.queue_depth else asked
        current = self.current(pool)
        if current is None:
            return asked
        load = self.load.add(pool.ready * current, pool.interval_s)
        if abs(load / (pool.ready * self.target) - 1.0) <= self.tolerance:
            return asked
        least = max(pool.min_replicas, 1) if pool.in_flight else pool.min_replicas
        return max(least, min(math.ceil(load / self.target - _ROUNDING), pool.max_replicas))


def largest(
    window: deque[tuple[float, int]], now_s: float, value: int, length_s: float, *, open_start: bool = False
) -> int:
    """The largest value of the last `length_s`, with `value` added now; `open_start`: without what is exactly as old.

    `window` keeps only values that may still become the largest: later ones are smaller.
    """
    while window and window[-1][1] <= value:
        window.pop()
    window.append((now_s, value))
    start_s = now_s - length_s
    while window[0][0] < start_s or (open_start and window[0][0] <= start_s and len(window) > 1):
        window.popleft()
    return window[0][1]
