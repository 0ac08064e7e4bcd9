"""Weighted random routing: chance in proportion to speed."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated

from msgspec import Meta

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.views import ReplicaView
from traces.schema import Request


class WeightedRandom(RoutingPolicy):
    """Take a replica with probability proportional to its weight. O(n) in the number of replicas.

    A replica of weight 0 gets nothing, unless all candidates have weight 0: then each is equally likely.

    Source: weighted random load balancing as in Envoy ("Supported load balancers: Random", endpoint weights).
    """

    weights: dict[str, Annotated[float, Meta(ge=0)]] | None = None
    """Relative weight by replica id; for an id that is not here, the replica's own `weight`."""

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        if self.weights is None:
            cumulative = list(accumulate([replica.weight for replica in replicas]))
        else:
            given = self.weights
            cumulative = list(accumulate([given.get(replica.id, replica.weight) for replica in replicas]))
        total = cumulative[-1]
        if total <= 0.0:
            return Route(replicas[int(self.random() * len(replicas))].id)
        point = self.random() * total
        if point >= total:  # the product was rounded up; the last replica with a weight is meant
            return Route(replicas[bisect_left(cumulative, total)].id)
        return Route(replicas[bisect_right(cumulative, point)].id)
