"""The power of two choices: nearly as good as looking at every replica, at the price of looking at two."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.views import ReplicaView
from traces.schema import Request


class PowerOfTwoChoices(RoutingPolicy):
    """Sample `choices` replicas and take the one with the fewest requests in flight. O(choices).

    Draws are independent, so one replica may be drawn twice, as in the analysis; ties go to the first drawn.

    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001.
    """

    choices: Annotated[int, Meta(ge=1)] = 2
    """How many replicas to look at."""

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        draw, count = self.random, len(replicas)
        best = replicas[int(draw() * count)]
        for _ in range(self.choices - 1):
            other = replicas[int(draw() * count)]
            if other.in_flight < best.in_flight:
                best = other
        return Route(best.id)
