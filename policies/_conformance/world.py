"""Replicas that come and go, for driving the policies of a head."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from policies._conformance.calls import Ask
from policies._conformance.inputs import maybe
from policies._conformance.life import Life
from policies.base import Policy
from policies.views import ReplicaLoad, ReplicaView, TokenSignals
from traces.schema import Request

_KINDS: tuple[dict[str, Any], ...] = (  # Any: fields of a view
    {},
    {"pool": "fast", "device": "a100", "zone": "z1", "cost_per_hour": 4.0, "expected_service_s": 0.05},
    {"pool": "slow", "device": "l4", "zone": "z2", "cost_per_hour": 0.8, "expected_service_s": 0.3},
    {"pool": "free", "device": "cpu", "cost_per_hour": 0.0, "expected_service_s": 2.0},
    {"pool": "unpriced", "device": "l4", "expected_service_s": 0.3},
    {"pool": "untimed", "device": "h100", "cost_per_hour": 9.0},
)
"""Pools by what they say of themselves; the first one has no name and says nothing."""
_MIXES: tuple[tuple[int, ...], ...] = ((1, 2), (1, 3), (0,), (2, 1, 4), (0, 1, 2, 3, 4, 5))
"""Which of them there are, in the order in which they were declared. The kit's three seeds meet the third, the fifth
and the first: one pool, all of them, and two that say everything."""


class World:
    """Replicas that come and go, and what they have in flight, as a policy of the head sees and hears it.

    They are of one pool or of several, whose devices, prices and speeds differ and are not always known.
    """

    def __init__(self, policy: Policy, rng: random.Random, ask: Ask) -> None:
        self.rng = rng
        self.now_s = 0.0
        self.numbers = list(range(rng.choice([1, 2, 3, 8])))
        """Of the replicas that there are; what remains of one by the number of pools says which pool it is of."""
        self.pools = [_KINDS[kind] for kind in rng.choice(_MIXES)]
        self.life = Life(policy, rng, ask)
        self.life.replicas(self.views(), 0.0)
        self.asked: list[tuple[str, float]] = []
        """Replicas that were asked for their load, and when."""

    def goes_on(self, now_s: float) -> None:
        """It is later: some answers have come, and now and then the replicas changed."""
        self.now_s = now_s
        self.life.goes_on(now_s)
        self._answer_for_load(now_s)
        if self.rng.random() < 0.1:
            self.change()
            self.life.replicas(self.views(), now_s)

    def _answer_for_load(self, now_s: float) -> None:
        """Most of those that were asked answer; one that has gone meanwhile may have answered before."""
        asked, self.asked = self.asked, []
        for replica, asked_s in asked:
            if self.rng.random() < 0.9:
                load = ReplicaLoad(
                    replica=replica, in_flight=self.life.in_flight(replica), asked_s=asked_s,
                    latency_s=maybe(self.rng, self.rng.expovariate(10.0)),
                )  # fmt: skip
                self.life.answered_for_load(load, now_s)

    def ask_somebody(self) -> None:
        """The owner of a policy may ask for load on behalf of all its parts."""
        if self.rng.random() < 0.3:
            self.asked.append((self._name(self.rng.choice(self.numbers)), self.now_s))

    def somebody_serves(self, request: Request) -> None:
        """One of the replicas gets a request, whoever chose it."""
        self.life.dispatched([request], self._name(self.rng.choice(self.numbers)), self.now_s)

    def change(self) -> None:
        """A replica goes, or a new one comes; its number is never used again."""
        if len(self.numbers) > 1 and self.rng.random() < 0.5:
            self.numbers.remove(self.rng.choice(self.numbers))
        else:
            self.numbers.append(self.numbers[-1] + 1)

    def views(self) -> list[ReplicaView]:
        """Every replica, in the order of pools and numbers, with signals of different ages."""
        ordered = sorted(self.numbers, key=lambda number: (number % len(self.pools), number))
        return [self._view(number) for number in ordered]

    def _pool(self, number: int) -> dict[str, Any]:  # Any: fields of a view
        return self.pools[number % len(self.pools)]

    def _name(self, number: int) -> str:
        pool = self._pool(number).get("pool")
        return f"replica/{number}" if pool is None else f"replica/{pool}/{number}"

    def _view(self, number: int) -> ReplicaView:
        rng, name = self.rng, self._name(number)
        return ReplicaView(
            id=name,
            in_flight=self.life.in_flight(name),
            capacity=rng.randrange(3),
            weight=rng.choice([0.0, 0.5, 1.0, 1.0, 2.0]),
            as_of_s=max(0.0, self.now_s - rng.expovariate(1.0)),
            busy_fraction=maybe(rng, rng.random()),
            gpu_utilization=maybe(rng, rng.random()),
            memory_used_bytes=maybe(rng, rng.randrange(80 * 2**30)),
            memory_total_bytes=80 * 2**30,
            tokens=maybe(rng, self._signals()),
            **self._pool(number),
        )

    def _signals(self) -> TokenSignals:
        rng, total = self.rng, self.rng.choice([0, 64, 4096])
        used = rng.randint(0, total)
        return TokenSignals(
            waiting=rng.choice([0, 0, rng.randrange(50)]), running=rng.randrange(257),
            waiting_tokens=rng.randrange(50_000), used_blocks=used, cached_blocks=rng.randint(0, total - used),
            total_blocks=total,
        )  # fmt: skip

    def some(self, views: Sequence[ReplicaView]) -> list[ReplicaView]:
        """Usually all of them; else some, as when a retry excludes the others."""
        if self.rng.random() < 0.8:
            return list(views)
        return [view for view in views if self.rng.random() < 0.5] or [self.rng.choice(views)]
