"""Static priority: the urgent go first."""

from __future__ import annotations

from policies.queueing.keyed import KeyedQueue
from traces.schema import Request


class Priority(KeyedQueue):
    """The largest `priority` goes first, first in first out within one. O(log n).

    A request without a priority counts as 0. Nothing ages: under overload the lowest may wait for ever.

    Source: Cobham, "Priority Assignment in Waiting Line Problems", Operations Research 2(1), 1954.
    """

    def key(self, request: Request, now_s: float) -> float:
        return 0.0 if request.priority is None else -request.priority
