"""Shortest expected delay: join the queue that is over soonest, not the one with the fewest in it."""

from __future__ import annotations

from collections.abc import Sequence

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.routing.delays import Concurrency, shortest_delay
from policies.views import ReplicaView
from traces.schema import Request


class ShortestExpectedDelay(RoutingPolicy):
    """Take the replica of the least (in flight + 1) × expected service time (SED). O(n) in the number of replicas.

    For replicas of unequal speed. There the fewest in flight is the wrong measure, and looking at a few at random may
    overload the slow ones although there is room. Where any candidate does not know its service time, 1 / weight stands
    for all of theirs. Ties go to the fewest in flight, then to the first: no chance is involved.

    Source: Shenker and Weinrib, "The Optimal Control of Heterogeneous Queueing Systems: A Paradigm for Load-Sharing and
    Routing", IEEE Transactions on Computers 38(12), 1989; Selen, Adan, Kapodistria and van Leeuwaarden, "Steady-State
    Analysis of Shortest Expected Delay Routing", Queueing Systems 84, 2016. Of a few at random: Hurtado-Lange and
    Maguluri, "Throughput and Delay Optimality of Power-of-d Choices in Inhomogeneous Load Balancing Systems",
    Operations Research Letters 49, 2021.
    """

    concurrency: Concurrency = 1
    """Requests that a replica serves side by side in the time of one; the published rule has 1."""

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        return Route(shortest_delay(replicas, self.concurrency).id)
