"""Two tiers: the best replica for what is urgent, any that is not overloaded for the rest."""

from __future__ import annotations

import random
from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated

from msgspec import Meta

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.views import ReplicaView
from traces.schema import Request

_in_flight = attrgetter("in_flight")


class PriorityTiers(RoutingPolicy):
    """Requests of high priority go to the least loaded replica, the others to any that is not overloaded. O(n).

    A replica is overloaded when it has more than `max_above_mean` requests in flight above the mean of the candidates.
    Spreading the lower tier by chance leaves replicas that are nearly idle, and these the upper tier finds; with
    `LeastOutstanding` for everybody there would be none. Ties go to the first in the order of the candidates.

    Source: none of its own; that a few requests placed with care see nearly idle servers while the mass is placed by
    chance is the gap between random placement and joining the shortest queue (Mitzenmacher, IEEE TPDS 12(10), 2001).
    """

    high_priority: int = 1
    """From this `Request.priority` on a request is of the upper tier; one without counts as 0."""
    max_above_mean: Annotated[float, Meta(ge=0)] = 4.0
    """Requests in flight above the mean up to which the lower tier may come."""

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        if (request.priority or 0) >= self.high_priority:
            return Route(min(replicas, key=_in_flight).id, "high priority")
        count = len(replicas)
        most = sum(map(_in_flight, replicas)) / count + self.max_above_mean
        first = replicas[int(self.random() * count)]
        if first.in_flight <= most:  # nearly always, and then nobody else need be looked at
            return Route(first.id)
        # Whoever has the least is never above the mean.
        spared = [replica for replica in replicas if replica.in_flight <= most]
        return Route(spared[int(self.random() * len(spared))].id, "not overloaded")
