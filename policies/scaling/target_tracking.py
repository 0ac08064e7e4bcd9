"""Target tracking: alarms above and well below a target, and cooldowns, as in the Application Auto Scaling of AWS."""

from __future__ import annotations

import random
from typing import Annotated, Literal

from msgspec import Meta

from policies.base import ScalingPolicy
from policies.decisions import Scale
from policies.scaling.bounds import asked_so_far, at_work, is_known, whole
from policies.scaling.metrics import OF_REPLICAS, Metric, mean_of_ready, total_of_pool
from policies.views import PoolView


class TargetTracking(ScalingPolicy):
    """Ask for `ceil(ready · metric / target)` when an alarm goes off: out at once, in reluctantly. O(1).

    The metric, per ready replica, is averaged over periods of `period_s`. Scale out when `out_periods` in a row were
    above the target; scale in when `in_periods` in a row were below `in_below` of it. While the cooldown of a scale-out
    runs, another one adds only what it wants beyond what the first added; a scale-in waits until the cooldown of the
    last one is over, and a scale-out ends that. A period without a measure counts for neither.

    It is not defined without replicas, and AWS asks for step scaling there: from none it goes to one as soon as a
    request waits, and to none only when none is in flight.

    Source: AWS, "How target tracking scaling for Application Auto Scaling works" and `PutScalingPolicy`
    (`TargetTrackingScalingPolicyConfiguration`: cooldowns of 300 s for SageMaker); "Define a scaling policy" for
    SageMaker (`SageMakerVariantInvocationsPerInstance`, target 70 in its example). How many periods its alarms take,
    3 of a minute and 15, 10 % below the target, is how it makes them; no document promises it.
    """

    metric: Metric | Literal["invocations_per_minute"] = "invocations_per_minute"
    """What is held at the target, per replica."""
    target: Annotated[float, Meta(gt=0)] = 70.0
    """Of the metric's unit."""
    scale_out_cooldown_s: Annotated[float, Meta(ge=0)] = 300.0
    """Seconds after a scale-out in which another one adds only what is more than that."""
    scale_in_cooldown_s: Annotated[float, Meta(ge=0)] = 300.0
    """Seconds after a scale-in before the next."""
    period_s: Annotated[float, Meta(gt=0)] = 60.0
    """Seconds over which the metric is averaged into one datapoint."""
    out_periods: Annotated[int, Meta(ge=1, le=10_000)] = 3
    """Datapoints in a row above the target that make it scale out."""
    in_periods: Annotated[int, Meta(ge=1, le=10_000)] = 15
    """Datapoints in a row well below the target that make it scale in."""
    in_below: Annotated[float, Meta(gt=0, le=1)] = 0.9
    """What well below is, as a fraction of the target."""
    disable_scale_in: bool = False
    """Never scale in."""

    def reset(self, rng: random.Random) -> None:
        self.asked: int | None = None
        self.area = self.span_s = self.measured_s = 0.0
        self.above = self.below = 0
        """Datapoints in a row above the target, and well below it."""
        self.added = 0
        """By the scale-out whose cooldown runs."""
        self.out_until_s = self.in_until_s = 0.0

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        asked = asked_so_far(pool, self.asked)
        measure = self._datapoint(pool)
        if asked == 0 and (pool.queue_depth or pool.in_flight):
            decided = at_work(pool, 1)
        elif measure is None or pool.ready == 0:
            decided = asked
        else:
            self.above = self.above + 1 if measure > self.target else 0
            self.below = self.below + 1 if measure < self.in_below * self.target else 0
            decided = self._tracked(
                pool, asked, at_work(pool, whole(pool.ready * measure / self.target)), now_s
            )
        if is_known(pool, self.asked):
            self.asked = decided
        return Scale(decided)

    def _datapoint(self, pool: PoolView) -> float | None:
        """The mean over a period that has ended now; None: none has, or nothing was measured in it."""
        value = self._per_replica(pool)
        self.span_s += pool.interval_s
        if value is not None:
            self.area += value * pool.interval_s
            self.measured_s += pool.interval_s
        if self.span_s < self.period_s - 1e-9:
            return None
        mean = self.area / self.measured_s if self.measured_s > 0.0 else None
        self.area = self.span_s = self.measured_s = 0.0
        return mean

    def _per_replica(self, pool: PoolView) -> float | None:
        if self.metric == "invocations_per_minute":
            return 60.0 * pool.arrivals_per_s / pool.ready if pool.ready else None
        if self.metric in OF_REPLICAS:
            return mean_of_ready(pool, self.metric)
        return total_of_pool(pool, self.metric) / pool.ready if pool.ready else None

    def _tracked(self, pool: PoolView, asked: int, wanted: int, now_s: float) -> int:
        if self.above >= self.out_periods and wanted > asked:
            more = wanted - asked
            if now_s < self.out_until_s:
                more -= self.added
            if more > 0:
                self.added = more + (self.added if now_s < self.out_until_s else 0)
                self.out_until_s, self.in_until_s = now_s + self.scale_out_cooldown_s, 0.0
                return asked + more
        elif self.below >= self.in_periods and wanted < asked and self._may_scale_in(now_s):
            self.in_until_s = now_s + self.scale_in_cooldown_s
            return wanted
        return asked

    def _may_scale_in(self, now_s: float) -> bool:
        return not self.disable_scale_in and now_s >= self.in_until_s
