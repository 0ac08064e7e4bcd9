"""Random inputs for the conformance kit: everything that a policy may be shown, from one seed.

Edge cases come often: a single replica, equal counts, absent signals, bursts at one instant, long silences.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

from policies.views import Completion, FailureKind, ReplicaView
from traces.schema import Request

T = TypeVar("T")

FAILURES: tuple[FailureKind, ...] = (
    "replica-lost", "message-lost", "engine-error", "timeout", "unreachable", "overloaded",
)  # fmt: skip


def maybe(rng: random.Random, value: T) -> T | None:
    """`value` or nothing."""
    return value if rng.random() < 0.6 else None


def later(rng: random.Random, now_s: float) -> float:
    """The time of the next event: often the same instant, now and then much later."""
    chance = rng.random()
    if chance < 0.2:
        return now_s
    return now_s + (rng.uniform(10.0, 100.0) if chance > 0.98 else rng.expovariate(50.0))


def random_request(rng: random.Random, number: int, now_s: float) -> Request:
    """A request that arrived at `now_s`; each optional field is there or not."""
    return Request(
        id=f"request-{number}",
        arrived_s=now_s,
        prompt_tokens=maybe(rng, rng.randint(1, 4096)),
        session=maybe(rng, f"session-{rng.randrange(5)}"),
        tenant=maybe(rng, f"tenant-{rng.randrange(3)}"),
        kind="online" if rng.random() < 0.8 else "batch",
        priority=maybe(rng, rng.randrange(-2, 3)),
        deadline_s=maybe(rng, rng.uniform(0.1, 10.0)),
        work=maybe(rng, rng.uniform(0.1, 5.0)),
        extra={"colour": "blue"} if rng.random() < 0.5 else None,
    )


def idle_replicas(count: int, now_s: float) -> list[ReplicaView]:
    """Replicas with nothing to do that have just said so."""
    return [
        ReplicaView(id=f"replica/{number}", as_of_s=now_s, busy_fraction=0.0, gpu_utilization=0.0)
        for number in range(count)
    ]


class World:
    """Replicas that come and go, and the requests that they have in flight."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now_s = 0.0
        self.numbers = list(range(rng.choice([1, 2, 3, 8])))
        self.in_flight: list[tuple[Request, str]] = []

    def change(self) -> None:
        """A replica goes, or a new one comes; its number is never used again."""
        if len(self.numbers) > 1 and self.rng.random() < 0.5:
            gone = self.rng.choice(self.numbers)
            self.numbers.remove(gone)
            self.in_flight = [item for item in self.in_flight if item[1] != f"replica/{gone}"]
        else:
            self.numbers.append(self.numbers[-1] + 1)

    def views(self) -> list[ReplicaView]:
        """Every replica, in the order of their numbers, with signals of different ages."""
        return [self._view(f"replica/{number}") for number in self.numbers]

    def _view(self, name: str) -> ReplicaView:
        rng = self.rng
        return ReplicaView(
            id=name,
            in_flight=sum(replica == name for _, replica in self.in_flight),
            capacity=rng.randrange(3),
            weight=rng.choice([0.0, 0.5, 1.0, 1.0, 2.0]),
            as_of_s=max(0.0, self.now_s - rng.expovariate(1.0)),
            busy_fraction=maybe(rng, rng.random()),
            gpu_utilization=maybe(rng, rng.random()),
            memory_used_bytes=maybe(rng, rng.randrange(80 * 2**30)),
            memory_total_bytes=80 * 2**30,
        )

    def some(self, views: Sequence[ReplicaView]) -> list[ReplicaView]:
        """Usually all of them; else some, as when a retry excludes the others."""
        if self.rng.random() < 0.8:
            return list(views)
        return [view for view in views if self.rng.random() < 0.5] or [self.rng.choice(views)]

    def completions(self) -> Iterator[Completion]:
        """Attempts that end now, mostly well."""
        while self.in_flight and self.rng.random() < 0.5:
            request, replica = self.in_flight.pop(self.rng.randrange(len(self.in_flight)))
            failed = self.rng.random() < 0.1
            yield Completion(
                request=request,
                replica=replica,
                attempt=1,
                failure=self.rng.choice(FAILURES) if failed else None,
                service_s=None if failed else self.rng.expovariate(10.0),
                e2e_s=self.now_s - request.arrived_s,
            )


class FakeQueue:
    """A queue of waiting requests, as a batching policy sees one."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, Request]] = []

    @property
    def oldest_s(self) -> float:
        """When the first was queued."""
        return self.waiting[0][0]

    def __len__(self) -> int:
        return len(self.waiting)

    def __iter__(self) -> Iterator[Request]:
        return iter([request for _, request in self.waiting])

    def push(self, request: Request, now_s: float) -> None:
        """Add one at the end."""
        self.waiting.append((now_s, request))

    def take(self, size: int, ids: tuple[str, ...] | None) -> None:
        """Remove what a dispatch names."""
        if ids is None:
            del self.waiting[:size]
        else:
            self.waiting = [item for item in self.waiting if item[1].id not in ids]
