"""A queue ordered by a number per request: what Priority, ShortestPrompt and EarliestDeadline share."""

from __future__ import annotations

import random
from abc import abstractmethod
from heapq import heapify, heappop, heappush

from policies.base import QueueingPolicy
from traces.schema import Request


class KeyedQueue(QueueingPolicy):
    """The smallest `key` goes first, first in first out among equals. O(log n); removal is lazy.

    A subclass defines `key`, which is asked once, when a request is queued.
    """

    @abstractmethod
    def key(self, request: Request, now_s: float) -> float:
        """Smaller goes sooner."""

    def reset(self, rng: random.Random) -> None:
        self.heap: list[tuple[float, int, Request]] = []
        self.waiting: dict[str, int] = {}
        self.pushed = 0

    def push(self, request: Request, now_s: float) -> None:
        self.pushed += 1
        self.waiting[request.id] = self.pushed
        heappush(self.heap, (self.key(request, now_s), self.pushed, request))

    def pop(self, now_s: float) -> Request:
        while True:
            _, number, request = heappop(self.heap)
            if self.waiting.get(request.id) == number:
                del self.waiting[request.id]
                return request

    def remove(self, request_id: str) -> bool:
        if self.waiting.pop(request_id, None) is None:
            return False
        if len(self.heap) > 2 * len(self.waiting) + 64:  # so that what was removed does not pile up
            self.heap = [item for item in self.heap if self.waiting.get(item[2].id) == item[1]]
            heapify(self.heap)
        return True

    def __len__(self) -> int:
        return len(self.waiting)
