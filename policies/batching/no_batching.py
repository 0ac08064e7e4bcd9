"""No batching: the null baseline."""

from __future__ import annotations

from collections.abc import Sequence

from policies.base import BatchingPolicy
from policies.decisions import Dispatch
from policies.views import QueueView, ReplicaView

_ONE = Dispatch(1)


class NoBatching(BatchingPolicy):
    """Run every request alone, on the first replica that can take one. O(1).

    Source: none; with one replica and Poisson arrivals this is the M/G/1 queue.
    """

    def next_batch(self, queue: QueueView, idle: Sequence[ReplicaView], now_s: float) -> Dispatch:
        return _ONE
