"""First in, first out: the null baseline."""

from __future__ import annotations

import random
from collections import OrderedDict

from policies.base import QueueingPolicy
from traces.schema import Request


class Fifo(QueueingPolicy):
    """First in, first out. O(1).

    Source: Kleinrock, "Queueing Systems, Volume 1: Theory", 1975 (first come, first served).
    """

    def reset(self, rng: random.Random) -> None:
        # A plain dict would find its first key in O(n) once many before it are gone.
        self.waiting: OrderedDict[str, Request] = OrderedDict()

    def push(self, request: Request, now_s: float) -> None:
        self.waiting[request.id] = request

    def pop(self, now_s: float) -> Request:
        return self.waiting.popitem(last=False)[1]

    def remove(self, request_id: str) -> bool:
        return self.waiting.pop(request_id, None) is not None

    def __len__(self) -> int:
        return len(self.waiting)
