"""Round robin: even by count, blind to how long requests take."""

from __future__ import annotations

import random
from collections.abc import Sequence

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.views import ReplicaView
from traces.schema import Request


class RoundRobin(RoutingPolicy):
    """Take the replicas in turn. O(1).

    The turn is a position among the candidates, not a replica: when their number changes it goes on from the
    same position, and wraps at the end.

    Source: Nagle, "On Packet Switches with Infinite Storage", RFC 970, 1985.
    """

    def reset(self, rng: random.Random) -> None:
        self.turn = 0

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        turn = self.turn if self.turn < len(replicas) else 0
        self.turn = turn + 1
        return Route(replicas[turn].id)
