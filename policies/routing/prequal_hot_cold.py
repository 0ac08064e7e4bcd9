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
from policies.routing.attempts import Attempts
from policies.routing.draws import some_of
from policies.routing.places import Places
from policies.views import Completion, ReplicaLoad, ReplicaView
from traces.schema import Request

_KEPT = 32
"""Of the latencies of a replica, how many are kept..."""
_NEAR = 5
"""...and the median is of how many. The source says neither."""


class PrequalHotCold(RoutingPolicy):
    """Of the replicas that answered lately the fastest that is cold; the least loaded when all are hot. O(pool).

    A replica is *hot* when it has more requests in flight than the `hot_quantile` of what answers said lately. With
    each request `probes_per_request` replicas are asked; answers come too late for it and go into a pool, in place of
    what the same replica said before. The pool loses the oldest when it is full, what is older than `max_age_s`, what
    was used as often as it may, and with each request `removals_per_request` more: in turns the worst (the most loaded
    hot one, else the slowest) and the oldest. A request that goes to a replica counts in the pool at once. With fewer
    than two answers it goes anywhere.

    How fast a replica is: the median latency of the last attempts that met about as many there as there are now. Where
    none has ended yet it is what the replica says, and where that is nothing it counts as the fastest. An answer may be
    used max(1, (1 + `reuse_slack`) / ((1 - pool / replicas) × probes - removals)) times, rounded up or down by chance;
    with so few replicas that this is not positive, as often as its age allows.

    Differs from its source in that latencies are measured where requests are sent instead of by the replicas, waiting
    on the way included, and in that nothing is asked for while no request comes. Where latency is nearly in proportion
    to the requests in flight, as with replicas that serve all of them side by side, load alone (`hot_quantile` 0) says
    more than such medians.

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
        self.attempts: Attempts[tuple[float, int]] = Attempts()
        """When each was sent, and how many its replica then had with it."""
        self.in_flight: dict[str, int] = {}
        """By replica, as long as it has any."""
        self.latencies: dict[str, _Latencies] = {}
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
        latencies = self.latencies.get(load.replica)
        latency_s = load.latency_s if latencies is None else latencies.near(load.in_flight)
        self.pool = [answer for answer in self.pool if answer.replica != load.replica]
        self.pool.append(_Answer(load, latency_s, now_s, uses))
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

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        count = self.in_flight[replica] = self.in_flight.get(replica, 0) + 1
        self.attempts.add(request.id, replica, (now_s, count))

    def on_completed(self, completion: Completion, now_s: float) -> None:
        replica = completion.replica
        attempt = self.attempts.take(completion.request.id, replica)
        if attempt is None:
            return
        self.in_flight[replica] -= 1
        if not self.in_flight[replica]:
            del self.in_flight[replica]
        if completion.failure is None and replica in self.places:
            sent_s, count = attempt
            self.latencies.setdefault(replica, _Latencies()).add(count, now_s - sent_s)

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        self.places.learn(replicas)
        self.latencies = {replica: kept for replica, kept in self.latencies.items() if replica in self.places}
        self.pool = [answer for answer in self.pool if answer.replica in self.places]


class _Answer:
    """What a replica said of itself, and what has been sent there since."""

    __slots__ = ("came_s", "in_flight", "latency_s", "replica", "uses")

    def __init__(self, load: ReplicaLoad, latency_s: float | None, came_s: float, uses: float) -> None:
        self.replica = load.replica
        self.in_flight = load.in_flight
        self.latency_s = -1.0 if latency_s is None else latency_s
        """Below every latency where none is known."""
        self.came_s = came_s
        self.uses = uses


class _Latencies:
    """The last attempts at a replica that ended well: how many it had when each came, and how long that took."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: deque[tuple[int, float]] = deque(maxlen=_KEPT)

    def add(self, count: int, took_s: float) -> None:
        """One more."""
        self._last.append((count, took_s))

    def near(self, count: int) -> float:
        """The median of those that met about as many."""
        by_distance = sorted([(abs(met - count), took_s) for met, took_s in self._last])
        near = sorted([took_s for _, took_s in by_distance[:_NEAR]])
        return near[len(near) // 2]


def _slowness(answer: _Answer) -> tuple[float, int]:
    return answer.latency_s, answer.in_flight


def _load(answer: _Answer) -> tuple[int, float]:
    return answer.in_flight, answer.latency_s
