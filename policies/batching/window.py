"""The batching window: trade a bounded wait for a fuller batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import BatchingPolicy
from policies.decisions import Dispatch, Wait
from policies.views import QueueView, ReplicaView

_CLOCK_ERROR_S = (
    1e-9  # a timer set for t may fire a rounding error before t; without this it would be set again
)


class Window(BatchingPolicy):
    """Run a batch when it is full, or when the oldest request has waited `window_s`. O(1).

    Source: Clipper (Crankshaw et al., NSDI 2017, section 4.3, delayed batching); NVIDIA Triton's dynamic
    batcher (`max_queue_delay_microseconds`).
    """

    max_batch: Annotated[int, Meta(ge=1)] = 16
    """Requests in one batch, at most."""
    window_s: Annotated[float, Meta(ge=0)] = 0.010
    """Seconds that the oldest request waits for company, at most."""

    def next_batch(self, queue: QueueView, idle: Sequence[ReplicaView], now_s: float) -> Dispatch | Wait:
        size = len(queue)
        if size >= self.max_batch:
            return Dispatch(self.max_batch)
        closes_s = queue.oldest_s + self.window_s
        if now_s >= closes_s - _CLOCK_ERROR_S:
            return Dispatch(size)
        return Wait(closes_s)
