"""Earliest deadline first."""

from __future__ import annotations

import math

from policies.queueing.keyed import KeyedQueue
from traces.schema import Request


class EarliestDeadline(KeyedQueue):
    """The request whose deadline comes first goes first; those without one go last, in order. O(log n).

    Source: Liu, Layland, "Scheduling Algorithms for Multiprogramming in a Hard-Real-Time Environment",
    Journal of the ACM 20(1), 1973.
    """

    def key(self, request: Request, now_s: float) -> float:
        return math.inf if request.deadline_s is None else request.arrived_s + request.deadline_s
