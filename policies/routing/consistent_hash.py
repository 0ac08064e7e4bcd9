"""Consistent hashing: a key keeps its replica as long as that is there, whoever else comes or goes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.routing.places import Places
from policies.routing.ring import KeyField, Ring, key_of
from policies.views import ReplicaView
from traces.schema import Request


class ConsistentHash(RoutingPolicy):
    """Go to the replica whose point on the ring is next to that of the request's key. O(log points).

    Of n replicas one that leaves moves its own keys, about 1/n of all, and one that comes takes as many; every other
    key stays. No load is looked at: a key that many requests bear is one replica's. A retry that may not go there goes
    to the next replica on the ring.

    Source: Karger et al., "Consistent Hashing and Random Trees", STOC 1997; the ring is that of libketama, with its 160
    points for each server (also those of nginx, `hash ... consistent`, for a weight of 1). Envoy's `ring_hash` has
    1,024 points in all at least (`minimum_ring_size`).
    """

    key: KeyField = "auto"
    """What of a request is hashed."""
    virtual_nodes: Annotated[int, Meta(ge=1, le=10_000)] = 160
    """Points of each replica on the ring. The spread of their shares is about 1 / √`virtual_nodes`."""

    def reset(self, rng: random.Random) -> None:
        self.ring = Ring(self.virtual_nodes)
        self.places = Places()

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        key = key_of(request, self.key)
        for replica in self.ring.walk(key):
            if self.places.find(replica, replicas) is not None:
                return Route(replica)
        self.ring.add(replica.id for replica in replicas)  # nobody has told of them
        return self.route(request, replicas, now_s)

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        self.places.learn(replicas)
        self.ring.keep_only(replica.id for replica in replicas)
        self.ring.add(replica.id for replica in replicas)
