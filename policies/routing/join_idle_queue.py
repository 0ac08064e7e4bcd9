"""Join-idle-queue: idle replicas report for work, so that a request need not look for one."""

from __future__ import annotations

import random
from collections.abc import Sequence

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.routing.places import Places
from policies.views import Completion, ReplicaView
from traces.schema import Request


class JoinIdleQueue(RoutingPolicy):
    """Take the replica that has been idle longest; any at random when none is. O(1).

    A replica joins the queue when its last request in flight ends, and leaves it with the next one that it gets. At
    moderate load nearly every request finds an idle one, as with `LeastOutstanding`, at a price that does not grow with
    the fleet; at high load it is `Random`.

    Source: Lu et al., "Join-Idle-Queue: A Novel Load Balancing Algorithm for Dynamically Scalable Web Services",
    Performance Evaluation 68(11), 2011 (JIQ-Random; with one dispatcher, which has all of the idle queue).
    """

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random
        self.idle: dict[str, None] = {}
        """The idle queue: a dict, for a replica in the middle of it to leave at once."""
        self.in_flight: dict[str, int] = {}
        """By replica, as long as it has any."""
        self.places = Places()

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        for replica in self.idle:
            if self.places.find(replica, replicas) is not None:
                return Route(replica, "idle")
        return Route(replicas[int(self.random() * len(replicas))].id, "random")

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        self.in_flight[replica] = self.in_flight.get(replica, 0) + 1
        self.idle.pop(replica, None)

    def on_completed(self, completion: Completion, now_s: float) -> None:
        replica = completion.replica
        left = self.in_flight.get(replica, 1) - 1
        if left:
            self.in_flight[replica] = left
            return
        self.in_flight.pop(replica, None)
        if replica in self.places:
            self.idle[replica] = None

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        self.places.learn(replicas)
        self.idle = {replica: None for replica in self.idle if replica in self.places}
        for replica in replicas:
            if replica.id not in self.in_flight and not replica.in_flight:
                self.idle.setdefault(replica.id)
