"""Greedy batching: never wait, take what is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import BatchingPolicy
from policies.decisions import Dispatch
from policies.views import QueueView, ReplicaView


class Greedy(BatchingPolicy):
    """Run all that waits, `max_batch` at most, as soon as a replica can take a batch. O(1).

    Batches grow by themselves as load does: while replicas are busy, requests gather.

    Source: Crankshaw et al., "Clipper: A Low-Latency Online Prediction Serving System", NSDI 2017,
    section 4.3 (batching without delay).
    """

    max_batch: Annotated[int, Meta(ge=1)] = 16
    """Requests in one batch, at most."""

    def next_batch(self, queue: QueueView, idle: Sequence[ReplicaView], now_s: float) -> Dispatch:
        return Dispatch(min(len(queue), self.max_batch))
