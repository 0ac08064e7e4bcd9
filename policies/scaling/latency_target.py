"""Scaling to a latency objective: learn from answers how much load a replica can take."""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Annotated

from msgspec import Meta

from policies.base import ScalingPolicy
from policies.decisions import Scale
from policies.scaling.target_utilization import largest
from policies.views import Ending, PoolView

_ROUNDING = 1e-9
_NOT_OURS = frozenset(("cancelled", "rejected"))  # its client's doing, or another policy's


class LatencyTarget(ScalingPolicy):
    """Ask for `arrivals / rate` replicas, `rate` being the load of one that still keeps the objective. Amortised O(1).

    The objective: of the requests that end, `attainment` have their answer within their own `slo.e2e_s`, or `target_s`
    where they bring none; what is shed, expires or fails missed it. In each interval that kept it the rate is raised
    to the load that the replicas had, and by `probe` more where they were near it; in one that did not it is cut to `1
    - backoff` of that load. What is late while the last change takes effect says nothing new, so for `settle_s` the
    rate is not cut again. It goes down only to the largest number that it would have asked for within
    `down_stabilization_s`.

    Before the first answer, and while nothing is known, it asks for what there is; for what waits, at least for one.

    Source: the law of the Kubernetes Horizontal Pod Autoscaler (desired = ceil(metric / target), stabilization window),
    with a target that is learnt as a congestion window is: Chiu and Jain, "Analysis of the Increase and Decrease
    Algorithms for Congestion Avoidance in Computer Networks", 1989.
    """

    target_s: Annotated[float, Meta(gt=0)] = 1.0
    """Latency from arrival to the whole answer that a request without an objective of its own should have at most."""
    attainment: Annotated[float, Meta(gt=0, le=1)] = 0.95
    """Part of the requests that should meet it."""
    probe: Annotated[float, Meta(ge=0)] = 0.01
    """Growth of the rate in an interval that was good under about as much load."""
    backoff: Annotated[float, Meta(gt=0, lt=1)] = 0.15
    """How far below a load that was too high it goes."""
    settle_s: Annotated[float, Meta(ge=0)] = 10.0
    """Seconds after a cut in which there is no other."""
    smoothing_s: Annotated[float, Meta(gt=0)] = 5.0
    """Time constant of the mean of arrivals."""
    down_stabilization_s: Annotated[float, Meta(ge=0)] = 60.0
    """Seconds over which the largest recommendation counts on the way down."""

    def reset(self, rng: random.Random) -> None:
        self.rate_per_s: float | None = None
        """Arrivals a second that one replica is believed to serve within the objective."""
        self.arrivals_per_s: float | None = None
        self.met = self.missed = 0
        self.asked_s = 0.0
        self.cut_s = -math.inf
        self.highest: deque[tuple[float, int]] = deque()

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        self._smooth(pool, now_s)
        if pool.ready:
            self._learn(pool, now_s)
        wanted = self._wanted(pool)
        return Scale(largest(self.highest, now_s, wanted, self.down_stabilization_s))

    def _smooth(self, pool: PoolView, now_s: float) -> None:
        span_s, self.asked_s = now_s - self.asked_s, now_s
        if self.arrivals_per_s is None:
            self.arrivals_per_s = pool.arrivals_per_s if span_s > 0.0 else None
        else:
            part = 1.0 - math.exp(-span_s / self.smoothing_s)
            self.arrivals_per_s += part * (pool.arrivals_per_s - self.arrivals_per_s)

    def _learn(self, pool: PoolView, now_s: float) -> None:
        """From what ended in the last interval."""
        met, missed = self.met, self.missed
        self.met = self.missed = 0
        if not met + missed or not self.arrivals_per_s:
            return
        load = self.arrivals_per_s / pool.ready
        rate = load if self.rate_per_s is None else self.rate_per_s
        if met >= self.attainment * (met + missed):
            near = load > 0.9 * rate
            self.rate_per_s = max(rate * (1.0 + self.probe) if near else rate, load)
        elif now_s - self.cut_s >= self.settle_s:
            self.rate_per_s = min(rate, (1.0 - self.backoff) * load)
            self.cut_s = now_s

    def _wanted(self, pool: PoolView) -> int:
        if self.rate_per_s is None or self.arrivals_per_s is None:
            wanted = pool.requested
        else:
            wanted = math.ceil(self.arrivals_per_s / self.rate_per_s - _ROUNDING)
        if pool.queue_depth or pool.in_flight:
            wanted = max(1, wanted)
        return max(pool.min_replicas, min(wanted, pool.max_replicas))

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        if ending.outcome in _NOT_OURS:
            return
        slo = ending.request.slo
        own_s = None if slo is None else slo.e2e_s
        target_s = self.target_s if own_s is None else own_s
        if ending.outcome == "completed" and ending.e2e_s <= target_s:
            self.met += 1
        else:
            self.missed += 1
