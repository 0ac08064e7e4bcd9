"""Scaling on the length of a queue, from none and to none: KEDA."""

from __future__ import annotations

import random
from typing import Annotated

from msgspec import Meta

from policies.base import ScalingPolicy
from policies.decisions import Scale
from policies.scaling.averaging import TimeAverage
from policies.scaling.behaviour import Behaviour, RateLimit, Stabilizer
from policies.scaling.bounds import asked_so_far, at_work, is_known, whole, within
from policies.scaling.metrics import OF_REPLICAS, Metric, mean_of_ready, total_of_pool
from policies.views import PoolView


class KedaQueueLength(ScalingPolicy):
    """Between none and one by activation, above by `ceil(length / threshold)` as the HPA does it. Amortised O(1).

    Every `polling_interval_s` it looks whether the metric is above `activation_threshold`: then it goes from none to
    one; when it was not for `cooldown_period_s`, it goes to none, if the pool may have none. From one up every
    `hpa_sync_period_s` the length, by its mean over that time, is divided by `threshold`, with the tolerance, the
    stabilization window of 300 s on the way down, and the limits of rate that the Horizontal Pod Autoscaler has where
    nobody says otherwise. A metric that is not known leaves things as they are; after `fallback_failure_threshold`
    such looks in a row it asks for `fallback_replicas`, where that is given.

    Source: KEDA documentation, "ScaledObject specification" (`pollingInterval`, `cooldownPeriod`, `fallback`) and
    "Scaling Deployments, StatefulSets & Custom Resources" (activation and scaling thresholds); 5 is the default of
    `queueLength` of its scaler for AWS SQS.
    """

    metric: Metric = "queue_depth"
    """What is taken for the length of the queue; of what replicas measure in themselves, the sum over ready ones."""
    threshold: Annotated[float, Meta(gt=0)] = 5.0
    """How much of it one replica is for."""
    activation_threshold: Annotated[float, Meta(ge=0)] = 0.0
    """What it must be above for there to be a replica at all."""
    polling_interval_s: Annotated[float, Meta(ge=0)] = 30.0
    """Seconds between looks at whether it is (`pollingInterval`)."""
    cooldown_period_s: Annotated[float, Meta(ge=0)] = 300.0
    """Seconds after the last look that found it above, before there is none (`cooldownPeriod`)."""
    hpa_sync_period_s: Annotated[float, Meta(ge=0)] = 15.0
    """Seconds between decisions from one replica up (`--horizontal-pod-autoscaler-sync-period`)."""
    tolerance: Annotated[float, Meta(ge=0)] = 0.1
    """How far the length per replica may be from the threshold, relative to it, before anything changes."""
    down_stabilization_s: Annotated[float, Meta(ge=0, le=3600)] = 300.0
    """Seconds over which the largest recommendation counts on the way down."""
    fallback_replicas: Annotated[int, Meta(ge=0)] | None = None
    """What to ask for while the metric is not known; None: what there is."""
    fallback_failure_threshold: Annotated[int, Meta(ge=1)] = 3
    """Looks in a row without it after which that is asked for (`fallback.failureThreshold`)."""

    def reset(self, rng: random.Random) -> None:
        self.asked: int | None = None
        self.polled_s: float | None = None
        self.synced_s: float | None = None
        self.active_s: float | None = None
        """When a look last found it above the activation threshold."""
        self.failures = 0
        self.length = TimeAverage(max(self.hpa_sync_period_s, 1e-9))
        self.behaviour = Behaviour(
            Stabilizer(0.0, self.down_stabilization_s),
            RateLimit((("percent", 100, 15.0), ("pods", 4, 15.0)), "max"),
            RateLimit((("percent", 100, 15.0),), "max"),
        )

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        asked = asked_so_far(pool, self.asked)
        now = self._length_now(pool)
        mean = None if now is None else self.length.add(self._length_mean(pool, now), pool.interval_s)
        if _due(self.polled_s, self.polling_interval_s, now_s):
            self.polled_s = now_s
            self.failures = self.failures + 1 if now is None else 0
            asked = self._activated(pool, asked, now, now_s)
        if mean is None:
            falls_back = (
                self.fallback_replicas is not None and self.failures >= self.fallback_failure_threshold
            )
            decided = within(pool, self.fallback_replicas or 0) if falls_back else asked
        elif asked > 0 and _due(self.synced_s, self.hpa_sync_period_s, now_s):
            self.synced_s = now_s
            decided = within(pool, max(1, self._scaled(pool, asked, mean, now_s)))
        else:
            decided = asked
        if is_known(pool, self.asked):
            self.asked = decided
        return Scale(decided)

    def _length_now(self, pool: PoolView) -> float | None:
        if self.metric in OF_REPLICAS:
            mean = mean_of_ready(pool, self.metric)
            return None if mean is None else pool.ready * mean
        if self.metric == "in_flight":
            return float(pool.in_flight)
        return float(pool.queue_depth) if self.metric == "queue_depth" else pool.arrivals_per_s

    def _length_mean(self, pool: PoolView, now: float) -> float:
        return now if self.metric in OF_REPLICAS else total_of_pool(pool, self.metric)

    def _activated(self, pool: PoolView, asked: int, length: float | None, now_s: float) -> int:
        """What the operator itself does, between none and one."""
        if length is not None and length > self.activation_threshold:
            self.active_s = now_s
            return max(asked, within(pool, 1))
        if self.active_s is None:
            self.active_s = now_s  # what there is when it begins is given its cooldown too
        over = length is not None and now_s - self.active_s >= self.cooldown_period_s
        return pool.min_replicas if over and pool.min_replicas == 0 and not pool.in_flight else asked

    def _scaled(self, pool: PoolView, asked: int, mean: float, now_s: float) -> int:
        """What the Horizontal Pod Autoscaler does, from one up."""
        load = mean / self.threshold
        wanted = asked if abs(load / asked - 1.0) <= self.tolerance else whole(load)
        return self.behaviour.applied(asked, max(1, at_work(pool, wanted)), now_s)


def _due(last_s: float | None, period_s: float, now_s: float) -> bool:
    return last_s is None or now_s - last_s >= period_s - 1e-9
