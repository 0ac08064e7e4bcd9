"""Controlled delay: a queue that stands longer than it should loses requests from its head, sooner and sooner."""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import QueueingPolicy
from traces.schema import Request

_REMEMBERED_INTERVALS = 16
"""How soon after the last drop a queue must stand again for the rate of drops to go on from where it was."""


class CoDel(QueueingPolicy, tag="codel"):
    """First in, first out; the head is dropped when the least waiting time of an interval is above target. O(1).

    Judged by what leaves: once requests have left `interval_s` long after waits of `target_s` or more each, one is
    dropped, and while it goes on another one after ``interval_s / sqrt(number of drops)`` each. It ends when one leaves
    sooner, or when no more than `spared` wait behind it. It drops from the head, before a batch is formed: who has
    waited longest is told first.

    Source: Nichols, Jacobson, "Controlling Queue Delay", ACM Queue 10(5), 2012; RFC 8289, 2018, section 5 (target 5 ms,
    interval 100 ms, for packets of the Internet: a queue of requests that take long needs a longer interval than one
    takes).
    """

    target_s: Annotated[float, Meta(gt=0)] = 0.005
    """Waiting time that a standing queue may cause (TARGET)."""
    interval_s: Annotated[float, Meta(gt=0)] = 0.1
    """How long waits may be above target before the first drop (INTERVAL): a request's round trip at worst."""
    spared: Annotated[int, Meta(ge=0)] = 1
    """No drop while no more than so many wait behind the head (the source's one packet of largest size)."""

    def reset(self, rng: random.Random) -> None:
        self.waiting: OrderedDict[str, tuple[float, Request]] = OrderedDict()
        """With the time at which each was queued."""
        self.above_until_s: float | None = None
        """When it will have been above target for an interval; None: the last one to leave was not."""
        self.dropping = False
        self.next_drop_s = -math.inf
        self.count = self.last_count = 0
        """Drops since dropping began, and what they began from the last time."""

    def push(self, request: Request, now_s: float) -> None:
        self.waiting[request.id] = now_s, request

    def pop(self, now_s: float) -> Request:
        queued_s, request = self.waiting.popitem(last=False)[1]
        if not self._stands(queued_s, len(self.waiting), now_s):
            self.dropping = False
        return request

    def remove(self, request_id: str) -> bool:
        return self.waiting.pop(request_id, None) is not None

    def __len__(self) -> int:
        return len(self.waiting)

    def drops(self, now_s: float) -> Sequence[str]:
        dropped: list[str] = []
        began = False
        behind = len(self.waiting)
        for request_id, (queued_s, _) in self.waiting.items():
            behind -= 1
            if not self._stands(queued_s, behind, now_s):
                self.dropping = False
                break
            if began:
                break  # the one after the first drop leaves, however long it waited
            if self.dropping:
                if dropped:  # its time is known once the queue is seen to stand still
                    self.next_drop_s = self._after(self.next_drop_s)
                if now_s < self.next_drop_s:
                    break
                self.count += 1
            else:
                self._begin(now_s)
                began = True
            dropped.append(request_id)
        return dropped

    def _stands(self, queued_s: float, behind: int, now_s: float) -> bool:
        """It leaves, and those that left before it were above target for an interval."""
        if now_s - queued_s < self.target_s or behind <= self.spared:
            self.above_until_s = None
            return False
        if self.above_until_s is None:
            self.above_until_s = now_s + self.interval_s
            return False
        return now_s >= self.above_until_s

    def _begin(self, now_s: float) -> None:
        """The first drop; if it ended a short while ago, at the rate that held the queue then."""
        self.dropping = True
        recently = now_s - self.next_drop_s < _REMEMBERED_INTERVALS * self.interval_s
        held = self.count - self.last_count
        self.count = self.last_count = held if held > 1 and recently else 1
        self.next_drop_s = self._after(now_s)

    def _after(self, then_s: float) -> float:
        """The control law."""
        return then_s + self.interval_s / math.sqrt(self.count)
