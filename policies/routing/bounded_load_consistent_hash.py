"""Consistent hashing with bounded loads: a key keeps its replica, unless that has more than its share."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated

from msgspec import Meta

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.routing.places import Places
from policies.routing.ring import KeyField, Ring, key_of
from policies.views import ReplicaView
from traces.schema import Request

_in_flight = attrgetter("in_flight")
_ROUNDING = 1e-9  # 1.1 × 10 / 11 is a little above 1


class BoundedLoadConsistentHash(RoutingPolicy):
    """Go clockwise from the request's key to the first replica with room. O(n), and as much as the ring is walked.

    With this request none may have more than ⌈`load_factor` × average⌉ requests in flight, the average being that of
    all candidates with this request. So where `ConsistentHash` leaves a replica with whatever its keys bring, this one
    passes on what is too much, always to the same next replicas; the share that is passed on falls with the factor.

    Source: Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018; 1.25 is the factor
    with which Vimeo ran it in HAProxy (`hash-balance-factor` 125). The ring is that of `ConsistentHash`.
    """

    load_factor: Annotated[float, Meta(ge=1)] = 1.25
    """The most requests that a replica may have, in averages; 1: as even as can be."""
    key: KeyField = "auto"
    """What of a request is hashed."""
    virtual_nodes: Annotated[int, Meta(ge=1, le=10_000)] = 160
    """Points of each replica on the ring."""

    def reset(self, rng: random.Random) -> None:
        self.ring = Ring(self.virtual_nodes)
        self.places = Places()

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        total = sum(map(_in_flight, replicas)) + 1
        # The least loaded is below the average, and so always has room.
        most = math.ceil(self.load_factor * total / len(replicas) - _ROUNDING)
        home = True
        for replica in self.ring.walk(key_of(request, self.key)):
            found = self.places.find(replica, replicas)
            if found is not None:
                if found.in_flight < most:
                    return Route(replica, None if home else "its replica is full")
                home = False
        self.ring.add(replica.id for replica in replicas)  # nobody has told of them
        return self.route(request, replicas, now_s)

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        self.places.learn(replicas)
        self.ring.keep_only(replica.id for replica in replicas)
        self.ring.add(replica.id for replica in replicas)
