"""Adaptive LIFO: newest first while the queue is congested, because who waits longest has most likely given up."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Annotated

from msgspec import Meta

from policies.base import QueueingPolicy
from traces.schema import Request


class AdaptiveLifo(QueueingPolicy):
    """First in, first out; last in, first out while the queue is congested. O(1), with `target_s` O(log n).

    It is congested when it has not been empty for longer than `interval_s`. With `target_s` what comes while it is
    congested is given up when it has waited so long, and what came before that after `interval_s` (controlled delay,
    which the source uses together with this). Without it nobody is given up, and those that came first wait until
    the congestion is over, or their deadlines.

    Source: Maurer, "Fail at Scale", ACM Queue 13(8), 2015, sections "Controlled Delay" (5 ms and 100 ms "work well
    across a wide set of use cases") and "Adaptive LIFO".
    """

    interval_s: Annotated[float, Meta(ge=0)] = 0.1
    """How long the queue may be without a moment in which it is empty before it is congested (N in the source)."""
    target_s: Annotated[float, Meta(gt=0)] | None = None
    """Waiting time after which what came during congestion is given up (M, 5 ms in the source); None: nothing is."""

    def reset(self, rng: random.Random) -> None:
        self.waiting: OrderedDict[str, tuple[int, Request]] = OrderedDict()
        """In the order they came, with their numbers."""
        self.pushed = 0
        self.filled_s = 0.0
        """Since when it has not been empty."""
        self.limits: list[tuple[float, int, str]] = []
        """When each is given up, its number and id; what has left is taken off lazily."""

    def _congested(self, now_s: float) -> bool:
        return now_s - self.filled_s > self.interval_s

    def push(self, request: Request, now_s: float) -> None:
        if not self.waiting:
            self.filled_s = now_s
            self.limits.clear()
        self.pushed += 1
        self.waiting[request.id] = self.pushed, request
        if self.target_s is not None:
            wait_s = self.target_s if self._congested(now_s) else self.interval_s
            heappush(self.limits, (now_s + wait_s, self.pushed, request.id))
            if len(self.limits) > 2 * len(self.waiting) + 64:  # so that what has left does not pile up
                self.limits = [limit for limit in self.limits if self._waits(limit)]
                heapify(self.limits)

    def pop(self, now_s: float) -> Request:
        return self.waiting.popitem(last=self._congested(now_s))[1][1]

    def remove(self, request_id: str) -> bool:
        return self.waiting.pop(request_id, None) is not None

    def __len__(self) -> int:
        return len(self.waiting)

    def drops(self, now_s: float) -> Sequence[str]:
        given_up = []
        while self.limits and self.limits[0][0] < now_s:
            limit = heappop(self.limits)
            if self._waits(limit):
                given_up.append(limit[2])
        return given_up

    def _waits(self, limit: tuple[float, int, str]) -> bool:
        """It is still there, and has not left and come back meanwhile."""
        _, number, request_id = limit
        return request_id in self.waiting and self.waiting[request_id][0] == number
