"""Scaling on GPU utilisation, the largest need of the last minutes: the autoscaling of Vertex AI."""

from __future__ import annotations

import random
from collections import deque
from typing import Annotated

from msgspec import Meta

from policies.base import ScalingPolicy
from policies.decisions import Scale
from policies.scaling.averaging import TimeAverage
from policies.scaling.bounds import asked_so_far, at_work, is_known, whole
from policies.scaling.metrics import mean_of_ready
from policies.scaling.target_utilization import largest
from policies.views import PoolView


class GpuUtilization(ScalingPolicy):
    """Every `adjust_s`, ask for the largest `ceil(ready · utilisation / target)` of `look_back_s`. Amortised O(1).

    Utilisation is what the devices of ready replicas report; where none reports any, the fraction of time that their
    engines ran, which is what a duty cycle is. So it goes up with the first look that asks for more, and down when
    nothing in the whole look-back did. `step` bounds each change. While utilisation is not known nothing changes, and
    without replicas the rule is not defined: from none it goes to one as soon as a request waits, and to none only when
    none is in flight.

    High utilisation tells that there are too few replicas, not how many: a device that is always busy says 1 whether
    one request waits or a thousand, so that one change multiplies the replicas by `1 / target` at most.

    Source: Google Cloud, "Scale inference nodes by using autoscaling" (Vertex AI: target 60 %, duty cycle of the
    accelerator, replicas adjusted every 15 s by the highest need of the previous 5 minutes).
    """

    target: Annotated[float, Meta(gt=0, le=1)] = 0.6
    """Utilisation to hold, 0..1."""
    look_back_s: Annotated[float, Meta(ge=0)] = 300.0
    """Seconds over which the largest need counts."""
    adjust_s: Annotated[float, Meta(ge=0)] = 15.0
    """Seconds over which utilisation is averaged, and from one adjustment to the next."""
    step: Annotated[int, Meta(ge=1)] | None = None
    """Replicas to add or remove at a time at most; None: as many as the rule says."""

    def reset(self, rng: random.Random) -> None:
        self.asked: int | None = None
        self.adjusted_s: float | None = None
        self.load = TimeAverage(max(self.adjust_s, 1e-9))
        self.needs: deque[tuple[float, int]] = deque()

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        asked = asked_so_far(pool, self.asked)
        utilization = mean_of_ready(pool, "utilization")
        load = None if utilization is None else self.load.add(pool.ready * utilization, pool.interval_s)
        due = self.adjusted_s is None or now_s - self.adjusted_s >= self.adjust_s - 1e-9
        decided = asked
        if asked == 0 and (pool.queue_depth or pool.in_flight):
            decided = at_work(pool, 1)
        elif load is not None and due:
            self.adjusted_s = now_s
            need = largest(self.needs, now_s, whole(load / self.target), self.look_back_s, open_start=True)
            if self.step is not None:
                need = max(asked - self.step, min(need, asked + self.step))
            decided = at_work(pool, need)
        if is_known(pool, self.asked):
            self.asked = decided
        return Scale(decided)
