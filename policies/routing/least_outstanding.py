"""Least outstanding requests: join the shortest queue, as the router counts it."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.views import ReplicaView
from traces.schema import Request

_in_flight = attrgetter("in_flight")


class LeastOutstanding(RoutingPolicy):
    """Take the replica with the fewest requests in flight. O(n) in the number of replicas.

    Ties go to the first of them in the order of the candidates, which is by id: no chance is involved.

    Source: Winston, "Optimality of the Shortest Line Discipline", Journal of Applied Probability 14, 1977.
    """

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        return Route(min(replicas, key=_in_flight).id)
