"""Routing: random choice with one place of memory."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies import ReplicaView, Request, Route, RoutingPolicy


class LoadBalancingWithMemory(RoutingPolicy):
    """Take the least loaded of `choices` random replicas and a remembered one. O(choices + n) in the replicas.

    Source: Mitzenmacher, Prabhakar, Shah, "Load Balancing with Memory", FOCS 2002.
    """

    choices: Annotated[int, Meta(ge=1)] = 1

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random
        self.best = ""

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        seen = [replicas[int(self.random() * len(replicas))] for _ in range(self.choices)]
        seen += [replica for replica in replicas if replica.id == self.best]
        choice = min(seen, key=lambda replica: replica.in_flight)
        self.best = min(seen, key=lambda replica: replica.in_flight + (replica is choice)).id
        return Route(choice.id)
