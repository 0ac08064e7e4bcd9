"""Ray Serve's `@serve.batch`: batches that close by themselves, whether or not anybody can run them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Annotated

from msgspec import Meta

from policies.base import BatchingPolicy
from policies.batching.service_times import CLOCK_ERROR_S
from policies.decisions import Dispatch, Wait
from policies.views import QueueView, ReplicaView


class RayServeBatch(BatchingPolicy):
    """Run together who came within `batch_wait_timeout_s` of the first of them, `max_batch` at most. O(batch).

    A batch closes when it is full or its time is over, though the replica be busy, and then waits for its turn as it
    is. So, unlike with a window over the queue, a backlog makes batches no larger than arrivals make them: what waits
    is batches, not requests. Requests run in the order of arrival.

    Source: Ray Serve's `@serve.batch` (its documentation and defaults: `max_batch_size` 10, `batch_wait_timeout_s`
    0.01 s; the rules of `_BatchQueue` in `ray/serve/batching.py`, Ray 2.60). It gathers in each replica, as
    `binding = "early"` does. Its `max_concurrent_batches`, by default 1, is the fleet's `max_inflight_batches`. A
    deployment's `max_ongoing_requests`, by default 5, should be at least the product of these two, says its
    documentation: with less a batch is never full, and always waits for the whole time.
    """

    max_batch: Annotated[int, Meta(ge=1)] = 10
    """Requests in one batch, at most (`max_batch_size`)."""
    batch_wait_timeout_s: Annotated[float, Meta(ge=0)] = 0.01
    """Seconds after its first request at which a batch closes that is not full."""

    max_ongoing_requests: Annotated[int, Meta(ge=1)] | None = None
    """Requests that a replica is sent before it has answered them, running one batch at a time; None: any number."""

    def next_batch(self, queue: QueueView, idle: Sequence[ReplicaView], now_s: float) -> Dispatch | Wait:
        closes_s = queue.oldest_s + self.batch_wait_timeout_s
        most = self.max_batch
        if self.max_ongoing_requests is not None:
            most = min(most, self.max_ongoing_requests)
        full = most == self.max_batch and len(queue) >= most
        if not full and now_s < closes_s - CLOCK_ERROR_S:
            return Wait(closes_s)
        first = [request.id for request in islice(queue, most)]
        batch = [name for name in first if queue.queued_s(name) <= closes_s + CLOCK_ERROR_S]
        return Dispatch(len(batch), ids=tuple(batch))
