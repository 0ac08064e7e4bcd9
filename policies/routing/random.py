"""Uniformly random routing: the null baseline that every other router must beat."""

from __future__ import annotations

import random
from collections.abc import Sequence

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.views import ReplicaView
from traces.schema import Request


class Random(RoutingPolicy):
    """Take any replica, each as likely as the others. O(1).

    Poisson arrivals over n replicas become n independent Poisson streams, so that theory gives the answer
    exactly (n separate M/G/1 queues).

    Source: Kleinrock, "Queueing Systems, Volume 1: Theory", 1975 (random splitting of a Poisson stream).
    """

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        return Route(replicas[int(self.random() * len(replicas))].id)
