"""Slow start: a replica that has just become ready gets its share of the traffic little by little."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, field

from policies.base import RoutingPolicy
from policies.decisions import Hold, Reject, Route
from policies.routing.least_outstanding import LeastOutstanding
from policies.views import ReplicaLoad, ReplicaView
from traces.schema import Request


class GradualShift(RoutingPolicy):
    """`routing` chooses, among candidates that new ones belong to only now and then. O(1) when none is new, else O(n).

    A replica that became ready less than `window_s` ago is a candidate with a probability that grows with its age:
    max(`min_weight`, (max(age, 1 s) / `window_s`) ^ (1 / `aggression`)). A policy that looks for the least loaded
    would else give a replica with cold caches everything until it is as loaded as the others. When nobody is left all
    are candidates, as when the whole fleet is new.

    Differs from its source, where new hosts have less weight with balancers that know weights: by chance it works with
    any. With one that prefers idle replicas a new one gets more than its weight's share of the traffic, never more than
    that share of the choices.

    Source: Envoy, slow start mode (`slow_start_config`), with its defaults for `aggression`, 1.0, and
    `min_weight_percent`, 10 %. It has none for `slow_start_window`; a minute is one of those in its examples.
    """

    routing: RoutingPolicy = field(default_factory=LeastOutstanding)
    """Chooses among those that are candidates this time."""
    window_s: Annotated[float, Meta(gt=0)] = 60.0
    """Seconds for which a replica counts as new."""
    aggression: Annotated[float, Meta(gt=0)] = 1.0
    """1: the probability grows evenly; larger: sooner, smaller: later."""
    min_weight: Annotated[float, Meta(ge=0, le=1)] = 0.1
    """The probability at first, at least."""

    def __post_init__(self) -> None:
        if self.routing.oracle and not self.oracle:
            raise ValueError(
                "`routing` is an oracle; use a subclass of GradualShift that sets `oracle = True`"
            )

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random
        self.new_until_s = math.inf
        """From then on nobody is new. For ever, before anything is known."""
        super().reset(rng)

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route | Hold | Reject:
        if now_s >= self.new_until_s:
            return self.routing.route(request, replicas, now_s)
        new_since_s = now_s - self.window_s
        kept = [
            replica
            for replica in replicas
            if replica.ready_since_s <= new_since_s
            or self.random() < self.weight(now_s - replica.ready_since_s)
        ]
        return self.routing.route(request, kept or replicas, now_s)

    def weight(self, age_s: float) -> float:
        """The probability with which a replica is a candidate, so long after it became ready."""
        if age_s >= self.window_s:
            return 1.0
        # Of windows below a second Envoy has none; the first second counts as a whole one there too.
        passed = min(1.0, max(age_s, 1.0) / self.window_s)
        return max(self.min_weight, math.pow(passed, 1.0 / self.aggression))

    def probes(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[str]:
        return self.routing.probes(request, replicas, now_s)

    def on_load(self, load: ReplicaLoad, now_s: float) -> None:
        self.routing.on_load(load, now_s)

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        youngest_s = max((replica.ready_since_s for replica in replicas), default=-math.inf)
        self.new_until_s = youngest_s + self.window_s
        super().on_replicas(replicas, now_s)
