"""The Horizontal Pod Autoscaler of Kubernetes: metrics in proportion to their targets, windows, limits of rate."""

from __future__ import annotations

import random
from typing import Annotated

from msgspec import Meta, field

from policies.base import ScalingPolicy
from policies.decisions import Scale
from policies.scaling.averaging import TimeAverage
from policies.scaling.behaviour import Behaviour, Limit, RateLimit, Select, Stabilizer
from policies.scaling.bounds import asked_so_far, at_work, is_known, whole, within
from policies.scaling.metrics import OF_REPLICAS, Metric, mean_of_ready, total_of_pool, unmeasured
from policies.views import PoolView
from traces.values import BadValue


def _default_metrics() -> dict[Metric, float]:
    return {"utilization": 0.8}


class HorizontalPodAutoscaler(ScalingPolicy):
    """Ask for `ceil(current · metric / target)` replicas, the most of all metrics. O(replicas) per sync.

    Every `sync_period_s`, of means over that period. What replicas measure in themselves (utilisation, memory, the
    cache) is a mean over the ready ones; what is counted where requests come in (in flight, queue depth, arrivals) is
    divided by `target` as it is, which is an external metric's `AverageValue`. Within `tolerance` of the target nothing
    changes. Replicas that are not ready count as 0 on the way up; ready ones without a measure as 0 on the way up and
    as the target on the way down; and what turns the direction round changes nothing. Of several metrics, one that is
    not known keeps it from going down. Then the windows apply, then the limits.

    The rule is not defined without replicas for what they measure in themselves: from none it goes to one as soon as a
    request waits, and to none only when none is in flight.

    Source: Kubernetes documentation, "Horizontal Pod Autoscaling" (algorithm details, configurable scaling behavior,
    default behavior); the API `autoscaling/v2`, whose defaults these are.
    """

    metrics: dict[Metric, Annotated[float, Meta(gt=0)]] = field(default_factory=_default_metrics)
    """The target of each: of what replicas measure 0..1, of the rest per replica."""
    tolerance: Annotated[float, Meta(ge=0)] = 0.1
    """How far `metric / target` may be from 1 before anything changes."""
    sync_period_s: Annotated[float, Meta(ge=0)] = 15.0
    """Seconds from one decision to the next."""
    up_stabilization_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    """Seconds over which the smallest recommendation counts on the way up."""
    down_stabilization_s: Annotated[float, Meta(ge=0, le=3600)] = 300.0
    """Seconds over which the largest recommendation counts on the way down."""
    up_limits: tuple[Limit, ...] = (("percent", 100, 15.0), ("pods", 4, 15.0))
    """At most so many replicas, or per cent, within so many seconds, on the way up."""
    up_select: Select = "max"
    """Which of them counts; `disabled`: it never goes up."""
    down_limits: tuple[Limit, ...] = (("percent", 100, 15.0),)
    """Likewise, on the way down."""
    down_select: Select = "max"
    """Which of them counts; `disabled`: it never goes down."""

    def check_values(self) -> None:
        """Raises `BadValue` where there is no metric, or no limit."""
        for name in ("metrics", "up_limits", "down_limits"):
            if not getattr(self, name):
                raise BadValue(name, "name at least one")

    def reset(self, rng: random.Random) -> None:
        self.asked: int | None = None
        self.synced_s: float | None = None
        self.means = {metric: TimeAverage(max(self.sync_period_s, 1e-9)) for metric in self.metrics}
        self.behaviour = Behaviour(
            Stabilizer(self.up_stabilization_s, self.down_stabilization_s),
            RateLimit(self.up_limits, self.up_select),
            RateLimit(self.down_limits, self.down_select),
        )

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        known = {metric: self._mean(pool, metric) for metric in self.metrics}
        asked = asked_so_far(pool, self.asked)
        if asked == 0 and (pool.queue_depth or pool.in_flight):
            decided = 1
        elif self.synced_s is not None and now_s - self.synced_s < self.sync_period_s - 1e-9:
            decided = asked
        else:
            self.synced_s = now_s
            wanted = at_work(pool, self._recommend(pool, asked, known))
            decided = within(pool, self.behaviour.applied(asked, wanted, now_s))
        if is_known(pool, self.asked):
            self.asked = decided
        return Scale(decided)

    def _mean(self, pool: PoolView, metric: Metric) -> float | None:
        value = mean_of_ready(pool, metric) if metric in OF_REPLICAS else total_of_pool(pool, metric)
        return None if value is None else self.means[metric].add(value, pool.interval_s)

    def _recommend(self, pool: PoolView, asked: int, known: dict[Metric, float | None]) -> int:
        """The most that any metric asks for."""
        most, unknown = 0, False
        for metric, target in self.metrics.items():
            mean = known[metric]
            if mean is None:
                unknown = True
            elif metric in OF_REPLICAS:
                silent = unmeasured(pool, metric)
                most = max(most, self._of_replicas(mean / target, asked, pool, silent))
            else:
                most = max(most, self._of_pool(mean / target, asked))
        return max(most, asked) if unknown else most

    def _of_pool(self, load: float, asked: int) -> int:
        """`load` is in replicas."""
        return asked if asked and abs(load / asked - 1.0) <= self.tolerance else whole(load)

    def _of_replicas(self, ratio: float, asked: int, pool: PoolView, silent: int) -> int:
        """`ratio` is that of the ready replicas that have a measure."""
        if silent == 0 and (ratio <= 1.0 or pool.starting == 0):
            return asked if abs(ratio - 1.0) <= self.tolerance else whole(ratio * pool.ready)
        if ratio == 1.0:  # neither way, so nothing is assumed of those without a measure
            return asked
        measured = pool.ready - silent
        counted = measured + silent + (pool.starting if ratio > 1.0 else 0)
        assumed = float(silent) if ratio < 1.0 else 0.0
        adjusted = (ratio * measured + assumed) / counted
        turned = (ratio - 1.0) * (adjusted - 1.0) < 0.0
        if turned or abs(adjusted - 1.0) <= self.tolerance:
            return asked
        wanted = whole(adjusted * counted)
        return max(wanted, asked) if ratio > 1.0 else min(wanted, asked)
