"""Prequal: ask a few replicas for their load with each request, and choose among the answers that came before."""

from __future__ import annotations

import math
import random
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.routing.draws import some_of
from policies.routing.places import Places
from policies.views import ReplicaLoad, ReplicaView
from traces.schema import Request


class PrequalHotCold(RoutingPolicy):
    """Of the replicas that answered lately the fastest that is cold; the least loaded when all are hot. O(pool).

    A replica is *hot* when it has more requests in flight than the `hot_quantile` of what answers said lately. With
    each request `probes_per_request` replicas are asked; answers come too late for it and go into a pool, which loses
    the oldest when it is full, what is older than `max_age_s`, what has been used as often as it may, and with each
    request `removals_per_request` more, in turns the worst (the most loaded hot one, else the slowest) and the oldest.
    A request that goes to a replica counts in the pool at once. With fewer than two answers it goes anywhere.

    An answer may be used max(1, (1 + `reuse_slack`) / ((1 - pool / replicas) × probes - removals)) times, rounded up or
    down by chance; with so few replicas that this is not positive, as often as its age allows. A replica that has ended
    nothing yet, and so has no latency, counts as the fastest.

    Differs from its source in that an answer's latency is the median of the last attempts there, not of those that met
    as many others, and that nothing is asked for while no request comes.

    Source: Wydrowski et al., "Load is Not What You Should Balance: Introducing Prequal", NSDI 2024, sections 4 and 5
    (r_probe 3, r_remove 1, a pool of 16, answers for 1 s, δ = 1, Q_RIF = 2^-0.25).
    """

    probes_per_request: Annotated[float, Meta(ge=0, le=64)] = 3.0
    """Replicas that are asked with each request (r_probe); a part of one is asked now and then."""
    removals_per_request: Annotated[float, Meta(ge=0, le=64)] = 1.0
    """Answers that leave the pool with each request (r_remove), beside those that are old or used."""
    pool_size: Annotated[int, Meta(ge=2, le=1024)] = 16
    """The most answers to keep (m)."""
    max_age_s: Annotated[float, Meta(gt=0)] = 1.0
    """Seconds for which an answer is kept."""
    hot_quantile: Annotated[float, Meta(ge=0, le=1)] = 2.0**-0.25
    """Of requests in flight, from answers (Q_RIF). 0: all are hot, only load counts; 1: none is, only latency does."""
    reuse_slack: Annotated[float, Meta(ge=0)] = 1.0
    """How many more uses than answers there should be, so that the pool does not run empty (δ)."""
    load_samples: Annotated[int, Meta(ge=1, le=100_000)] = 128
    """The last answers that the quantile is of. The source does not say."""

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random
        self.pool: list[_Answer] = []
        """The oldest first."""
        self.loads: deque[int] = deque()
        self.sorted_loads: list[int] = []
        """Requests in flight in the last answers: in their order, and sorted."""
        self.places = Places()
        self.replicas = 0
        self.due_probes = self.due_removals = 0.0
        self.remove_worst = True

    def probes(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[str]:
        self.replicas = len(replicas)
        self.due_probes += self.probes_per_request
        count = int(self.due_probes)
        self.due_probes -= count
        return [replicas[number].id for number in some_of(self.replicas, count, self.random)]

    def on_load(self, load: ReplicaLoad, now_s: float) -> None:
        uses = self.reuses(self.replicas)
        if math.isfinite(uses):
            whole = int(uses)
            uses = whole + (self.random() < uses - whole)
        self.pool.append(_Answer(load, now_s, uses))
        if len(self.pool) > self.pool_size:
            del self.pool[0]
        self.loads.append(load.in_flight)
        insort(self.sorted_loads, load.in_flight)
        if len(self.loads) > self.load_samples:
            del self.sorted_loads[bisect_left(self.sorted_loads, self.loads.popleft())]

    def reuses(self, replicas: int) -> float:
        """How often an answer may be used in a fleet of so many."""
        if not replicas:
            return 1.0
        new = (1.0 - self.pool_size / replicas) * self.probes_per_request - self.removals_per_request
        return max(1.0, (1.0 + self.reuse_slack) / new) if new > 0.0 else math.inf

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        since_s = now_s - self.max_age_s
        self.pool = [answer for answer in self.pool if answer.came_s >= since_s]
        known = [answer for answer in self.pool if self.places.find(answer.replica, replicas) is not None]
        if len(known) < 2:
            return Route(replicas[int(self.random() * len(replicas))].id, "too few answers")
        hot = self.hot_above()
        cold = [answer for answer in known if answer.in_flight <= hot]
        chosen = min(cold, key=_slowness) if cold else min(known, key=_load)
        self._use(chosen)
        self.due_removals += self.removals_per_request
        while self.due_removals >= 1.0:
            self.due_removals -= 1.0
            self._remove(hot)
        return Route(chosen.replica, "cold" if cold else "all are hot")

    def hot_above(self) -> float:
        """A replica with more requests in flight is hot."""
        if self.hot_quantile <= 0.0 or not self.sorted_loads:
            return -1.0
        if self.hot_quantile >= 1.0:
            return math.inf
        return self.sorted_loads[math.ceil(self.hot_quantile * len(self.sorted_loads)) - 1]

    def _use(self, chosen: _Answer) -> None:
        for answer in self.pool:
            if answer.replica == chosen.replica:
                answer.in_flight += 1
        chosen.uses -= 1
        if chosen.uses < 1:
            self.pool.remove(chosen)

    def _remove(self, hot: float) -> None:
        if self.pool and self.remove_worst:
            burning = [answer for answer in self.pool if answer.in_flight > hot]
            self.pool.remove(max(burning, key=_load) if burning else max(self.pool, key=_slowness))
        elif self.pool:
            del self.pool[0]
        self.remove_worst = not self.remove_worst

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        self.places.learn(replicas)
        self.pool = [answer for answer in self.pool if answer.replica in self.places]


class _Answer:
    """What a replica said of itself, and what has been sent there since."""

    __slots__ = ("came_s", "in_flight", "latency_s", "replica", "uses")

    def __init__(self, load: ReplicaLoad, came_s: float, uses: float) -> None:
        self.replica = load.replica
        self.in_flight = load.in_flight
        self.latency_s = -1.0 if load.latency_s is None else load.latency_s
        """Below every latency where none is known."""
        self.came_s = came_s
        self.uses = uses


def _slowness(answer: _Answer) -> tuple[float, int]:
    return answer.latency_s, answer.in_flight


def _load(answer: _Answer) -> tuple[int, float]:
    return answer.in_flight, answer.latency_s
