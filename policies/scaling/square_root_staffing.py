"""Square-root staffing: the load, and a safety that grows with its root."""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Annotated, Literal

from msgspec import Meta

from policies.base import ScalingPolicy
from policies.decisions import Scale
from policies.scaling.averaging import TimeAverage
from policies.scaling.bounds import ROUNDING, asked_so_far, at_work, is_known, whole
from policies.scaling.erlang import beta_for, servers_for
from policies.scaling.service_rate import ServiceRate
from policies.scaling.target_utilization import largest
from policies.views import PoolView
from traces.values import BadValue


class SquareRootStaffing(ScalingPolicy):
    """Ask for `R + beta · sqrt(R)` replicas, `R` being arrivals times the time that one takes. O(1).

    So the probability that a request finds all replicas busy is the same at every scale, while a fixed utilisation
    wastes replicas where there are many, and has too few where there are few. `beta` is that of the probability in the
    limit of many servers, unless it is given; with `law = "erlang-c"` it is the fewest replicas with which Erlang's
    formula gives at most that probability, O(replicas). Arrivals are a mean over `average_s`; the time of a request is
    learnt from completions per busy replica second, unless it is given. Until it is known nothing changes. It goes down
    only to the largest number of `down_stabilization_s`.

    The formulas are of servers that take one request each, with Poisson arrivals; where replicas run batches, the time
    of a request is its share of its batch.

    Source: Halfin and Whitt, "Heavy-Traffic Limits for Queues with Many Exponential Servers", Operations Research
    1981; Borst, Mandelbaum and Reiman, "Dimensioning Large Call Centers", Operations Research 2004. The rule is
    Erlang's, of 1924.
    """

    wait_probability: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    """Part of the requests that may find all replicas busy."""
    beta: Annotated[float, Meta(ge=0, le=40)] | None = None
    """Replicas beyond the load, in units of its root; None: by `wait_probability`."""
    law: Literal["square-root", "erlang-c"] = "square-root"
    """The limit of many replicas, or the exact formula for M/M/c."""
    service_s: Annotated[float, Meta(gt=0)] | None = None
    """Seconds of a replica that a request takes; None: learnt."""
    average_s: Annotated[float, Meta(gt=0)] = 60.0
    """Seconds over which arrivals are averaged."""
    memory_s: Annotated[float, Meta(gt=0)] = 300.0
    """Time constant of what is learnt."""
    down_stabilization_s: Annotated[float, Meta(ge=0)] = 60.0
    """Seconds over which the largest recommendation counts on the way down."""

    def check_values(self) -> None:
        """Raises `BadValue` where `beta` would do nothing."""
        if self.beta is not None and self.law == "erlang-c":
            raise BadValue(
                "beta", 'erlang-c goes by wait_probability; leave beta out, or take law = "square-root"'
            )

    def reset(self, rng: random.Random) -> None:
        self.asked: int | None = None
        self.safety = beta_for(self.wait_probability) if self.beta is None else self.beta
        self.arrivals_per_s = TimeAverage(self.average_s)
        self.rate = ServiceRate(self.memory_s)
        self.highest: deque[tuple[float, int]] = deque()

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        asked = asked_so_far(pool, self.asked)
        arrivals_per_s = self.arrivals_per_s.add(pool.arrivals_per_s, pool.interval_s)
        learnt_per_s = self.rate.learn(pool)
        rate_per_s = learnt_per_s if self.service_s is None else 1.0 / self.service_s
        if rate_per_s is None or (pool.interval_s == 0.0 and self.asked is None):
            wanted = asked
        else:
            wanted = self.staff(arrivals_per_s / rate_per_s, pool.max_replicas)
        wanted = at_work(pool, wanted)
        decided = max(wanted, min(asked, largest(self.highest, now_s, wanted, self.down_stabilization_s)))
        if is_known(pool, self.asked):
            self.asked = decided
        return Scale(decided)

    def staff(self, load: float, most: int) -> int:
        """How many replicas for an offered load in replicas; not more than `most`."""
        if load <= ROUNDING:  # the root of a rounding error is none
            return 0
        if self.law == "erlang-c":
            return servers_for(load, self.wait_probability, most)
        return min(whole(load + self.safety * math.sqrt(load)), most)
