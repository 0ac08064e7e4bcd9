"""Priority with ageing: the urgent go first, and who has waited long enough becomes urgent."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from policies.queueing.keyed import KeyedQueue
from traces.schema import Request


class PriorityAgeing(KeyedQueue):
    """The largest `priority` goes first, and each `level_s` since its arrival raises a request by one. O(log n).

    Who goes before whom never changes while both wait, because both age alike. Nobody starves: a request is overtaken
    only by those that arrive within `level_s` of it for each level that they are more urgent. A request without a
    priority counts as 0; first in, first out among equals.

    Source: Jackson, "Some Problems in Queueing with Dynamic Priorities", Naval Research Logistics Quarterly 7(3), 1960
    (the order of arrival times plus urgency numbers).
    """

    level_s: Annotated[float, Meta(ge=0)] = 10.0
    """Seconds of waiting that are worth one level of priority; 0: first come, first served."""

    def key(self, request: Request, now_s: float) -> float:
        return request.arrived_s - self.level_s * (request.priority or 0)
