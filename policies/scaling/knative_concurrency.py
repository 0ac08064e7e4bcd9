"""Scaling on requests in flight with a panic mode for bursts: the Knative Pod Autoscaler."""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Annotated

from msgspec import Meta

from policies.base import ScalingPolicy
from policies.decisions import Scale
from policies.scaling.averaging import TimeAverage
from policies.scaling.bounds import is_known, whole, within
from policies.scaling.target_utilization import largest
from policies.views import PoolView


class KnativeConcurrency(ScalingPolicy):
    """Ask for `concurrency / target` replicas, over a minute, or over its tenth in panic. Amortised O(1).

    Concurrency is the number of requests in flight, those that wait included; the target is `target_concurrency ·
    target_utilization_percentage / 100`. What its mean over the stable window asks for counts in stable mode. When the
    mean over the panic window asks for `panic_threshold_percentage` of the ready replicas or more, it panics: the
    larger of what both means ask for counts, and it never goes down, until it has been below that threshold for a
    stable window. It begins in panic where it finds more than one replica. From one look to the next it goes up and
    down at most by a factor. The reason of each decision tells the excess burst capacity: requests that ready replicas
    could take beside those in flight and a burst of `target_burst_capacity`; below 0, Knative has its activator hold
    requests.

    Where none is ready it reckons as if one were. The last one stays for `scale_to_zero_grace_period_s` after none was
    asked for: Knative waits at most so long for its activator to take over.

    Source: Knative Serving, "Additional autoscaling configuration for Knative Pod Autoscaler" and the ConfigMap
    `config-autoscaler` (whose names and defaults these are); its autoscaler, `pkg/autoscaler/scaling`.
    """

    target_concurrency: Annotated[float, Meta(ge=0.01)] = 100.0
    """Requests in flight that a replica can take (`container-concurrency-target-default`)."""
    target_utilization_percentage: Annotated[float, Meta(ge=1, le=100)] = 70.0
    """How much of that to hold (`container-concurrency-target-percentage`)."""
    stable_window_s: Annotated[float, Meta(ge=6, le=3600)] = 60.0
    """Seconds over which concurrency is averaged (`stable-window`)."""
    panic_window_percentage: Annotated[float, Meta(ge=1, le=100)] = 10.0
    """Likewise in panic, in per cent of the stable window, rounded to whole seconds."""
    panic_threshold_percentage: Annotated[float, Meta(ge=110, le=1000)] = 200.0
    """What the panic window must ask for, in per cent of the ready replicas, for panic to begin or go on."""
    max_scale_up_rate: Annotated[float, Meta(gt=1)] = 1000.0
    """What is asked for is at most so many times the ready replicas, rounded up."""
    max_scale_down_rate: Annotated[float, Meta(gt=1)] = 2.0
    """And at least the ready replicas over this, rounded down."""
    target_burst_capacity: Annotated[float, Meta(ge=-1)] = 211.0
    """Requests of a burst that should find room; -1: without end. It changes the reason only."""
    activation_scale: Annotated[int, Meta(ge=1)] = 1
    """Fewest replicas, where there are any: what it goes to from none."""
    scale_to_zero_grace_period_s: Annotated[float, Meta(ge=0)] = 30.0
    """Seconds for which the last replica stays after none was asked for."""
    scale_down_delay_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    """Seconds over which the largest number asked for counts."""
    initial_scale: Annotated[int, Meta(ge=0)] = 1
    """Replicas to ask for until so many have been ready for the first time."""

    def reset(self, rng: random.Random) -> None:
        panic_window_s = max(1.0, float(round(self.stable_window_s * self.panic_window_percentage / 100.0)))
        self.stable = TimeAverage(self.stable_window_s)
        self.panic = TimeAverage(panic_window_s)
        self.panic_s: float | None = None
        """When the panic window last asked for too much; None: no panic."""
        self.panic_replicas = 0
        """The most that was asked for in this panic."""
        self.begun = self.initialized = False
        self.highest: deque[tuple[float, int]] = deque()
        self.idle_since_s: float | None = None

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        stable = self.stable.add(pool.in_flight_mean, pool.interval_s)
        panic = self.panic.add(pool.in_flight_mean, pool.interval_s)
        if not self.begun:
            self._begin(pool, now_s)
            if pool.interval_s == 0.0:  # no time has been looked at yet
                return Scale(self._at_first(pool, pool.ready + pool.starting))
        replicas = self._decide(pool, stable, panic, now_s)
        if self.scale_down_delay_s > 0.0:
            replicas = largest(self.highest, now_s, replicas, self.scale_down_delay_s, open_start=True)
        replicas = self._at_first(pool, self._after_grace(replicas, pool, now_s))
        return Scale(replicas, f"excess burst capacity {self._excess(pool, panic):g}")

    def _begin(self, pool: PoolView, now_s: float) -> None:
        self.begun = is_known(pool, None)
        if pool.ready > 1:
            self.panic_s = now_s
        self.panic_replicas = pool.ready

    def _decide(self, pool: PoolView, stable: float, panic: float, now_s: float) -> int:
        """What Knative's autoscaler asks for, before delays and bounds."""
        ready = max(1, pool.ready)
        target = self.target_concurrency * self.target_utilization_percentage / 100.0
        by_stable, by_panic = whole(stable / target), whole(panic / target)
        if 100.0 * by_panic / ready >= self.panic_threshold_percentage:
            self.panic_s = now_s
        elif self.panic_s is not None and self.panic_s + self.stable_window_s < now_s:
            self.panic_s, self.panic_replicas = None, 0
        replicas = self._limited(by_stable, ready)
        if self.panic_s is not None:
            replicas = max(replicas, self._limited(by_panic, ready), self.panic_replicas)
            self.panic_replicas = replicas
        return replicas

    def _limited(self, replicas: int, ready: int) -> int:
        """`replicas`, within what one step may do, and not fewer than an activation begins with."""
        most = math.ceil(self.max_scale_up_rate * ready)
        least = math.floor(ready / self.max_scale_down_rate)
        limited = min(max(replicas, least), most)
        return max(limited, self.activation_scale) if replicas > 0 else limited

    def _after_grace(self, replicas: int, pool: PoolView, now_s: float) -> int:
        if replicas > 0:
            self.idle_since_s = None
        elif pool.ready + pool.starting > 0:
            if self.idle_since_s is None:
                self.idle_since_s = now_s
            if now_s - self.idle_since_s < self.scale_to_zero_grace_period_s:
                return 1
        elif pool.queue_depth > 0:  # what the activator holds counts at once, before any window has seen it
            return self.activation_scale
        return replicas

    def _at_first(self, pool: PoolView, replicas: int) -> int:
        if not self.initialized:
            self.initialized = pool.ready >= self.initial_scale
            replicas = max(replicas, self.initial_scale)
        return within(pool, replicas)

    def _excess(self, pool: PoolView, panic: float) -> float:
        if self.target_burst_capacity <= 0.0:  # 0: the activator is there for none only; -1: always
            return self.target_burst_capacity
        return math.floor(pool.ready * self.target_concurrency - self.target_burst_capacity - panic)
