"""Scaling to a number of requests in flight per replica: the default autoscaler of Ray Serve."""

from __future__ import annotations

import math
import random
from typing import Annotated

from msgspec import Meta

from policies.base import ScalingPolicy
from policies.decisions import Scale
from policies.scaling.averaging import TimeAverage
from policies.scaling.bounds import ROUNDING, asked_so_far, is_known, whole, within
from policies.views import PoolView


class TargetOngoingRequests(ScalingPolicy):
    """Ask for `ready · (1 + factor · (ongoing / (ready · target) - 1))` replicas, after a delay. Amortised O(1).

    `ongoing` is the mean number of requests in flight, those that wait included, over `look_back_period_s`; `factor`
    that of the direction. A change is made when so many decisions in a row have asked for it (not all for as much) as
    take the delay of its direction; one that asks for none, or for the other direction, begins the count anew. Where
    the factor alone keeps it from going down, it goes down by one. From none it goes at once to as many as
    `upscaling_factor`, rounded up, and to none from one only.

    Delays are counted in decisions, as Ray Serve counts them: of 30 s, 30 decisions in a row pass where the pool is
    looked at every second, and the 31st is followed.

    Source: Ray Serve, "Advanced Ray Serve Autoscaling" (`AutoscalingConfig`, whose names these are), and its default
    policy `replica_queue_length_autoscaling_policy`, version 2.51.1. Ray Serve decides every 0.1 s.
    """

    target_ongoing_requests: Annotated[float, Meta(gt=0)] = 2.0
    """Requests in flight per replica to hold."""
    look_back_period_s: Annotated[float, Meta(gt=0)] = 30.0
    """Seconds over which requests in flight are averaged."""
    upscale_delay_s: Annotated[float, Meta(ge=0)] = 30.0
    """Seconds for which every decision must have asked for more before there are more."""
    downscale_delay_s: Annotated[float, Meta(ge=0)] = 600.0
    """Likewise, for fewer."""
    downscale_to_zero_delay_s: Annotated[float, Meta(ge=0)] | None = None
    """Likewise, from one to none; None: as `downscale_delay_s`."""
    upscaling_factor: Annotated[float, Meta(gt=0)] = 1.0
    """How much of what is missing is asked for; what lies below 1 damps, above 1 exaggerates. Formerly
    `upscale_smoothing_factor`."""
    downscaling_factor: Annotated[float, Meta(gt=0)] = 1.0
    """How much of what is too many is given up."""

    def reset(self, rng: random.Random) -> None:
        self.asked: int | None = None
        self.ongoing = TimeAverage(self.look_back_period_s)
        self.in_a_row = 0
        """Decisions in a row that asked for more; below 0: for fewer."""

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        ongoing = self.ongoing.add(pool.in_flight_mean, pool.interval_s)
        asked = asked_so_far(pool, self.asked)
        if pool.ready == 0:
            waits = ongoing > ROUNDING or pool.in_flight > 0
            decided = max(asked, math.ceil(self.upscaling_factor)) if waits else asked
        else:
            decided = self._after_delay(pool, asked, self._wanted(pool, ongoing))
        decided = within(pool, decided)
        if is_known(pool, self.asked):
            self.asked = decided
        return Scale(decided)

    def _wanted(self, pool: PoolView, ongoing: float) -> int:
        """What the formula says now, within the pool's bounds."""
        ratio = ongoing / (self.target_ongoing_requests * pool.ready)
        factor = self.upscaling_factor if ratio >= 1.0 else self.downscaling_factor
        wanted = whole(pool.ready * (1.0 + (ratio - 1.0) * factor))
        if wanted == pool.ready and whole(pool.ready * ratio) < pool.ready:
            wanted -= 1
        return within(pool, wanted)

    def _after_delay(self, pool: PoolView, asked: int, wanted: int) -> int:
        if wanted == asked:
            self.in_a_row = 0
            return asked
        if wanted > asked:
            self.in_a_row = max(self.in_a_row, 0) + 1
            delay_s = self.upscale_delay_s
        else:
            self.in_a_row = min(self.in_a_row, 0) - 1
            delay_s = self.downscale_delay_s
            if asked == 1 and self.downscale_to_zero_delay_s is not None:
                delay_s = self.downscale_to_zero_delay_s
            wanted = wanted if asked == 1 else max(1, wanted)
        if pool.interval_s > 0.0:
            over = abs(self.in_a_row) > int(delay_s / pool.interval_s + ROUNDING)
        else:  # the first look: nobody knows yet how far apart looks are
            over = delay_s == 0.0
        if not over:
            return asked
        self.in_a_row = 0
        return wanted
