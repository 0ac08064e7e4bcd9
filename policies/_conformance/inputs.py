"""Random inputs for the conformance kit: everything that a policy may be shown, from one seed.

Edge cases come often: a single replica, equal counts, absent signals, bursts at one instant, long silences.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TypeVar

from policies.views import FailureKind, ReplicaView
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
        extra={"colour": "blue", "zone": "z1"} if rng.random() < 0.5 else None,
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


class FakeQueue:
    """A queue of waiting requests, as a batching policy sees one."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, Request]] = []

    @property
    def oldest_s(self) -> float:
        """When the first was queued."""
        return self.waiting[0][0]

    def queued_s(self, request_id: str) -> float:
        """When this one was queued."""
        return next(queued_s for queued_s, request in self.waiting if request.id == request_id)

    def __len__(self) -> int:
        return len(self.waiting)

    def __iter__(self) -> Iterator[Request]:
        return iter([request for _, request in self.waiting])

    def push(self, request: Request, now_s: float) -> None:
        """Add one at the end."""
        self.waiting.append((now_s, request))

    def take(self, size: int, ids: tuple[str, ...] | None) -> list[Request]:
        """Remove what a dispatch names."""
        if ids is None:
            taken, self.waiting = self.waiting[:size], self.waiting[size:]
        else:
            taken = [item for item in self.waiting if item[1].id in ids]
            self.waiting = [item for item in self.waiting if item[1].id not in ids]
        return [request for _, request in taken]
