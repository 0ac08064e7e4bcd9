"""Zone aware routing: stay in the request's zone as far as that leaves loads even."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.routing.draws import two_of
from policies.views import ReplicaView
from traces.schema import Request

_MAX_ZONES = 1024  # bounds what is counted of callers who make up zones
_FORGOTTEN = 1e-3
"""Requests, as old ones count, below which nothing is asked for."""


class ZoneAware(RoutingPolicy):
    """Serve a request in its own zone, as far as the zone's share of replicas is its share of requests. O(zones).

    When a zone asks for a larger share than it has replicas for, the part that it has replicas for stays, by chance,
    and the rest is spread over zones in proportion to what they have to spare. In the zone the fewest requests in
    flight of two different replicas get it. A request of an unknown zone goes to any zone; so does every one when there
    are fewer than `min_cluster_size` candidates.

    Differs from its source in where the share of a zone's requests comes from: there it is the share of the proxies
    that are in the zone, which are assumed to get as much each; here requests are counted, the older the less.

    Source: Envoy, zone aware routing, with its defaults (`min_cluster_size` 6, `routing_enabled` 100 %).
    """

    zone_key: str = "zone"
    """Where in `Request.extra` the zone of a request is."""
    min_cluster_size: Annotated[int, Meta(ge=1)] = 6
    """Candidates from which on zones are looked at."""
    window_s: Annotated[float, Meta(gt=0)] = 60.0
    """Seconds in which a counted request falls to 1/e."""

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random
        self.zones: dict[str, list[int]] = {}
        """By zone: the places of its replicas among the candidates."""
        self.candidates = 0
        """How many there were when that was written down."""
        self.demand: dict[str, tuple[float, float]] = {}
        """By zone: requests, older ones for less, and when they were counted."""

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        count, extra = len(replicas), request.extra
        zone = None if extra is None else extra.get(self.zone_key)
        if not isinstance(zone, str):
            return self._anywhere(replicas, "no zone")
        self._count(zone, now_s)
        if count < self.min_cluster_size:
            return self._anywhere(replicas, "too few replicas")
        if count != self.candidates:
            self._look(replicas)
        choice = self._zone(zone, now_s)
        if choice is None:
            return self._anywhere(replicas, "unknown zone")
        places = self.zones[choice]
        one, other = two_of(len(places), self.random)
        first, second = replicas[places[one]], replicas[places[other]]
        if not first.zone == second.zone == choice:  # others, though as many as before
            self._look(replicas)
            return self._anywhere(replicas, "other replicas")
        better = second if second.in_flight < first.in_flight else first
        return Route(better.id, "own zone" if choice == zone else "another zone")

    def _zone(self, zone: str, now_s: float) -> str | None:
        """Which zone is to serve a request of this one. None: no replica says where it is."""
        if not self.zones:
            return None
        total = math.fsum(self._demand(asking, now_s) for asking in self.demand) or 1.0
        here, asked = self._capacity(zone), self._demand(zone, now_s) / total
        if here and (asked <= here or self.random() < here / asked):
            return zone
        spare = {
            other: max(0.0, self._capacity(other) - self._demand(other, now_s) / total)
            for other in self.zones
            if other != zone
        }
        # Zones without a replica ask for nothing that could be spared, and those without spare have all they can do.
        return self._draw(spare) or self._draw({other: self._capacity(other) for other in spare}) or zone

    def _draw(self, weights: dict[str, float]) -> str | None:
        left = self.random() * math.fsum(weights.values())
        last = None
        for zone, weight in weights.items():
            if weight > 0.0:
                last = zone
                left -= weight
                if left < 0.0:
                    break
        return last

    def _capacity(self, zone: str) -> float:
        """Share of the candidates that are there."""
        return len(self.zones.get(zone, ())) / self.candidates

    def _demand(self, zone: str, now_s: float) -> float:
        count, at_s = self.demand.get(zone, (0.0, now_s))
        return count * math.exp((at_s - now_s) / self.window_s)

    def _count(self, zone: str, now_s: float) -> None:
        if zone in self.demand or len(self.demand) < _MAX_ZONES:
            self.demand[zone] = self._demand(zone, now_s) + 1.0, now_s

    def _anywhere(self, replicas: Sequence[ReplicaView], reason: str) -> Route:
        one, other = two_of(len(replicas), self.random)
        first, second = replicas[one], replicas[other]
        return Route((second if second.in_flight < first.in_flight else first).id, reason)

    def _look(self, replicas: Sequence[ReplicaView]) -> None:
        self.zones, self.candidates = {}, len(replicas)
        for place, replica in enumerate(replicas):
            if replica.zone is not None:
                self.zones.setdefault(replica.zone, []).append(place)

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        self._look(replicas)
        self.demand = {
            zone: counted for zone, counted in self.demand.items() if self._demand(zone, now_s) > _FORGOTTEN
        }
