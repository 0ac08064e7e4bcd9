"""Clipper's adaptive batching: find the largest batch that still meets a latency objective, by trying."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import BatchingPolicy
from policies.decisions import Dispatch
from policies.views import BatchCompletion, QueueView, ReplicaView


class ClipperAimd(BatchingPolicy):
    """Run all that waits up to a limit that grows by `increase` while batches meet `objective_s`, else shrinks. O(1).

    Additive increase: a full batch that took no longer than the objective raises its replica's limit by `increase`.
    Multiplicative decrease: one that took longer lowers it by `backoff` of its size. So the limit stays near the
    largest batch that meets the objective, and follows it when the model or the device becomes slower. A smaller batch
    that meets it says nothing about a larger one; batches that were sent under the old limit lower it only once. Each
    replica has a limit of its own, which begins at one request; one that was away begins anew.

    Source: Crankshaw et al., "Clipper: A Low-Latency Online Prediction Serving System", NSDI 2017, section 4.3
    (dynamic batch size: additive increase, a backoff of 10 %).
    """

    objective_s: Annotated[float, Meta(gt=0)] = 0.020
    """What a batch may take to run. Waiting comes on top: give it less than requests may take in all."""
    increase: Annotated[float, Meta(gt=0)] = 1.0
    """Requests added to the limit by a full batch within the objective."""
    backoff: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    """Part of its size that a batch beyond the objective takes off the limit."""
    max_batch: Annotated[int, Meta(ge=1)] = 1024
    """The limit's own limit."""

    def reset(self, rng: random.Random) -> None:
        self.limits: dict[str, float] = {}

    def next_batch(self, queue: QueueView, idle: Sequence[ReplicaView], now_s: float) -> Dispatch:
        replica = idle[0].id
        return Dispatch(min(len(queue), self.limit(replica)), replica)

    def limit(self, replica: str) -> int:
        """The most requests that a batch for this replica may have now."""
        return int(self.limits.get(replica, 1.0))

    def on_batch_completed(self, batch: BatchCompletion, now_s: float) -> None:
        if batch.service_s is None:
            return
        limit = self.limits.get(batch.replica, 1.0)
        if batch.service_s > self.objective_s:
            limit = max(1.0, min(limit, (1.0 - self.backoff) * batch.size))
        elif batch.size >= int(limit):
            limit = min(limit + self.increase, float(self.max_batch))
        self.limits[batch.replica] = limit

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        self.limits = {view.id: self.limits[view.id] for view in replicas if view.id in self.limits}
