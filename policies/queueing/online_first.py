"""Online work first; batch work fills the gaps."""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import Annotated

from msgspec import Meta

from policies.base import QueueingPolicy
from traces.schema import Request


class OnlineFirst(QueueingPolicy):
    """A request of kind `online` goes before one of kind `batch`, first in first out within each. O(1).

    While both wait, `batch_share` of what is taken is batch work, and batch work that has waited `max_batch_wait_s` is
    due too; but one batch request never follows another while online work waits. So whatever the parameters, an online
    request goes after at most one batch request more than there are online ones from before it, and it. What already
    runs is not this queue's to stop.

    Source: Cobham, "Priority Assignment in Waiting Line Problems", Operations Research 2(1), 1954 (two classes, without
    preemption); for serving, Qiao et al., "ConServe: Harvesting GPUs for Low-Latency and High-Throughput Large Language
    Model Serving", arXiv:2410.01228, 2024.
    """

    batch_share: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    """Of the requests taken while both kinds wait, the fraction that is batch work; 0: none while online work waits."""
    max_batch_wait_s: Annotated[float, Meta(gt=0)] | None = None
    """Waiting time after which batch work is due, whatever its share; None: it waits for a gap."""

    def reset(self, rng: random.Random) -> None:
        self.online: OrderedDict[str, Request] = OrderedDict()
        self.batch: OrderedDict[str, tuple[float, Request]] = OrderedDict()
        """With the time at which each was queued."""
        self.credit = 0.0
        """Batch requests that are due of their share, 0..1."""
        self.last_was_batch = False

    def push(self, request: Request, now_s: float) -> None:
        if request.kind == "batch":
            self.batch[request.id] = now_s, request
        else:
            self.online[request.id] = request

    def pop(self, now_s: float) -> Request:
        if not self.batch:
            return self._take_online()
        if not self.online:
            return self._take_batch()
        self.credit = min(1.0, self.credit + self.batch_share)
        if not self.last_was_batch and (self.credit >= 1.0 or self._is_overdue(now_s)):
            self.credit = max(0.0, self.credit - 1.0)
            return self._take_batch()
        return self._take_online()

    def _is_overdue(self, now_s: float) -> bool:
        if self.max_batch_wait_s is None:
            return False
        queued_s, _ = next(iter(self.batch.values()))
        return now_s - queued_s >= self.max_batch_wait_s

    def _take_online(self) -> Request:
        self.last_was_batch = False
        return self.online.popitem(last=False)[1]

    def _take_batch(self) -> Request:
        self.last_was_batch = True
        return self.batch.popitem(last=False)[1][1]

    def remove(self, request_id: str) -> bool:
        found = self.online.pop(request_id, None) or self.batch.pop(request_id, None)
        return found is not None

    def __len__(self) -> int:
        return len(self.online) + len(self.batch)
