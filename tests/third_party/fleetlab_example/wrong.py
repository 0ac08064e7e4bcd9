"""What not to do: each of these breaks one rule, and is told so. None is offered by name."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from policies import ReplicaView, Request, Route, RoutingPolicy


class RollsItsOwnDice(RoutingPolicy):
    """Takes its chance from the random module, which no seed of a run governs."""

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        return Route(random.choice(replicas).id)


class LooksAtTheClock(RoutingPolicy):
    """Asks what time it is, in a run whose time is virtual."""

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        return Route(replicas[int(time.time()) % len(replicas)].id)


class NamesNobody(RoutingPolicy):
    """Answers with a replica that is not among the candidates."""

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        return Route("replica/nobody")
