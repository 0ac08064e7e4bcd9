"""Batching: wait for a few, but not for long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies import BatchingPolicy, Dispatch, QueueView, ReplicaView, Wait


class AtLeast(BatchingPolicy):
    """Wait for `least` requests, `patience_s` at most; take up to `most`. O(1).

    Source: none.
    """

    least: Annotated[int, Meta(ge=1)] = 4
    most: Annotated[int, Meta(ge=1)] = 16
    patience_s: Annotated[float, Meta(ge=0)] = 0.02

    def next_batch(self, queue: QueueView, idle: Sequence[ReplicaView], now_s: float) -> Dispatch | Wait:
        until_s = queue.oldest_s + self.patience_s
        if len(queue) < self.least and now_s < until_s:
            return Wait(until_s)
        return Dispatch(min(len(queue), self.most))
