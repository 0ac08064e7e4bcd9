"""Replicas that come and go, for driving the policies of a head."""

from __future__ import annotations

import random
from collections.abc import Sequence

from policies._conformance.calls import Ask
from policies._conformance.inputs import maybe
from policies._conformance.life import Life
from policies.base import Policy
from policies.views import ReplicaView, TokenSignals
from traces.schema import Request


class World:
    """Replicas that come and go, and what they have in flight, as a policy of the head sees and hears it."""

    def __init__(self, policy: Policy, rng: random.Random, ask: Ask) -> None:
        self.rng = rng
        self.now_s = 0.0
        self.numbers = list(range(rng.choice([1, 2, 3, 8])))
        self.life = Life(policy, rng, ask)
        self.life.replicas(self.views(), 0.0)

    def goes_on(self, now_s: float) -> None:
        """It is later: some answers have come, and now and then the replicas changed."""
        self.now_s = now_s
        self.life.goes_on(now_s)
        if self.rng.random() < 0.1:
            self.change()
            self.life.replicas(self.views(), now_s)

    def somebody_serves(self, request: Request) -> None:
        """One of the replicas gets a request, whoever chose it."""
        self.life.dispatched([request], f"replica/{self.rng.choice(self.numbers)}", self.now_s)

    def change(self) -> None:
        """A replica goes, or a new one comes; its number is never used again."""
        if len(self.numbers) > 1 and self.rng.random() < 0.5:
            self.numbers.remove(self.rng.choice(self.numbers))
        else:
            self.numbers.append(self.numbers[-1] + 1)

    def views(self) -> list[ReplicaView]:
        """Every replica, in the order of their numbers, with signals of different ages."""
        return [self._view(f"replica/{number}") for number in self.numbers]

    def _view(self, name: str) -> ReplicaView:
        rng = self.rng
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
