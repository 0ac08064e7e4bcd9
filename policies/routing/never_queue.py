"""Never queue: an idle replica first, however slow; the shortest expected delay where there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.routing.delays import Concurrency, service_times, shortest_delay
from policies.views import ReplicaView
from traces.schema import Request


class NeverQueue(RoutingPolicy):
    """Take the fastest of the idle replicas, or that of the shortest expected delay where none is (NQ). O(n).

    It leaves nobody idle while somebody waits. That pays where speeds differ little; where they differ much, waiting
    for a fast one would have been sooner (`ShortestExpectedDelay`). Ties go to the fewest in flight, then to the first;
    one of weight 0 is not taken for being idle.

    Source: Shenker and Weinrib, "The Optimal Control of Heterogeneous Queueing Systems: A Paradigm for Load-Sharing and
    Routing", IEEE Transactions on Computers 38(12), 1989; the schedulers `nq` and `sed` of the Linux Virtual Server.
    """

    concurrency: Concurrency = 1
    """Requests that a replica serves side by side in the time of one: below that it has room; the published rule has
    1."""

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        concurrency = self.concurrency
        room = [number for number, replica in enumerate(replicas) if replica.in_flight < concurrency]
        if room:
            times = service_times(replicas)
            fastest = min([times[number] for number in room])
            if fastest < math.inf:
                chosen = min(
                    [(replicas[number].in_flight, number) for number in room if times[number] == fastest]
                )
                return Route(replicas[chosen[1]].id)
        return Route(shortest_delay(replicas, concurrency).id)
