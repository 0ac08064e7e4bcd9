"""Stickiness: the next turn of a conversation goes where the last one left its keys and values."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, field

from policies.base import RoutingPolicy
from policies.decisions import Hold, Reject, Route
from policies.routing.least_outstanding import LeastOutstanding
from policies.views import ReplicaView
from traces.schema import Request


class SessionAffinity(RoutingPolicy):
    """Keep a session on the replica that served it last; `fallback` places the rest. O(n) and what that costs.

    A request without a session goes by its user, one without either to the fallback. So does one whose replica is no
    candidate now, or has more than `max_imbalance` requests in flight above the mean: the session then stays where
    the fallback put it. It needs no block hashes and finds what the turns of one conversation share; unlike
    `PrefixAffinity` it does not see that different sessions begin alike.

    Source: nginx, `sticky` sessions (learnt, in a table of bounded size); the session-affinity scorer of llm-d's
    inference scheduler.
    """

    fallback: RoutingPolicy = field(default_factory=LeastOutstanding)
    """Places what has no replica to return to."""
    max_imbalance: Annotated[float, Meta(ge=0)] | None = 16.0
    """Requests in flight above the mean of the candidates up to which a session stays. None: always."""
    max_sessions: Annotated[int, Meta(ge=1)] = 65_536
    """How many to remember; the least recently used is forgotten first. A session stays when its replica goes, for
    that may be back before the next turn, and ids are never given twice."""

    def __post_init__(self) -> None:
        if self.fallback.oracle and not self.oracle:
            raise ValueError(
                "the fallback is an oracle; use a subclass of SessionAffinity that sets `oracle = True`"
            )

    def reset(self, rng: random.Random) -> None:
        self.homes: OrderedDict[tuple[str, str], str] = OrderedDict()
        """By session or user: the replica that has it."""
        super().reset(rng)

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route | Hold | Reject:
        key = _key(request)
        home = None if key is None else self.homes.get(key)
        if home is None:
            return self.fallback.route(request, replicas, now_s)
        for replica in replicas:
            if replica.id == home:
                if not self._overloaded(replica, replicas):
                    return Route(home, "affinity")
                replicas = [other for other in replicas if other.id != home]
                break
        return self.fallback.route(request, replicas, now_s)

    def _overloaded(self, replica: ReplicaView, replicas: Sequence[ReplicaView]) -> bool:
        """Never true of the only candidate, which is the mean."""
        if self.max_imbalance is None:
            return False
        mean = sum(other.in_flight for other in replicas) / len(replicas)
        return replica.in_flight - mean > self.max_imbalance

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        key = _key(request)
        if key is not None:
            self.homes[key] = replica
            self.homes.move_to_end(key)
            if len(self.homes) > self.max_sessions:
                self.homes.popitem(last=False)
        super().on_dispatched(request, replica, now_s)


def _key(request: Request) -> tuple[str, str] | None:
    if request.session is not None:
        return "session", request.session
    return None if request.user is None else ("user", request.user)
