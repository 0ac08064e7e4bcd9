"""Random inputs for the conformance kit: everything that a policy may be shown, from one seed.

Edge cases come often: a single replica, equal counts, absent signals, bursts at one instant, long silences.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

from policies.views import Completion, FailureKind, ReplicaView, TokenSignals
from traces.schema import Request, Slo

T = TypeVar("T")

FAILURES: tuple[FailureKind, ...] = (
    "replica-lost", "message-lost", "engine-error", "unreachable", "overloaded",
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
    prompt_tokens = maybe(rng, rng.randint(1, 4096))
    blocks = None if prompt_tokens is None else maybe(rng, random_blocks(rng, -(-prompt_tokens // 512)))
    return Request(
        id=f"request-{number}",
        arrived_s=now_s,
        prompt_tokens=prompt_tokens,
        blocks=blocks,
        block_tokens=None if blocks is None else 512,
        session=maybe(rng, f"session-{rng.randrange(5)}"),
        tenant=maybe(rng, f"tenant-{rng.randrange(3)}"),
        kind="online" if rng.random() < 0.8 else "batch",
        priority=maybe(rng, rng.randrange(-2, 3)),
        deadline_s=maybe(rng, rng.uniform(0.1, 10.0)),
        slo=maybe(rng, Slo(e2e_s=maybe(rng, rng.uniform(0.1, 10.0)), ttft_s=maybe(rng, rng.random()))),
        work=maybe(rng, rng.uniform(0.1, 5.0)),
        extra={"colour": "blue"} if rng.random() < 0.5 else None,
    )


def random_blocks(rng: random.Random, count: int) -> tuple[int, ...]:
    """Hashes of a prompt's blocks: the beginning of one of a few documents, then its own."""
    document, shared = rng.randrange(4), rng.randrange(count + 1)
    return tuple(
        1_000 * document + block if block < shared else rng.getrandbits(48) + 10_000 for block in range(count)
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
        self.answering: dict[str, str] = {}
        """Request and replica of those that have their first token."""

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

    def first_tokens(self) -> Iterator[tuple[Request, str]]:
        """Attempts that get their first output token now."""
        for request, replica in list(self.in_flight):
            if request.id not in self.answering and self.rng.random() < 0.3:
                self.answering[request.id] = replica
                yield request, replica

    def completions(self) -> Iterator[Completion]:
        """Attempts that end now, mostly well; of some it is known how many tokens they gave."""
        while self.in_flight and self.rng.random() < 0.5:
            request, replica = self.in_flight.pop(self.rng.randrange(len(self.in_flight)))
            answering = self.answering.pop(request.id, None) is not None
            failed = self.rng.random() < 0.1
            yield Completion(
                request=request,
                replica=replica,
                attempt=1,
                failure=self.rng.choice(FAILURES) if failed else None,
                service_s=None if failed else self.rng.expovariate(10.0),
                e2e_s=self.now_s - request.arrived_s,
                output_tokens=self.rng.randint(1, 500) if answering and not failed else None,
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
