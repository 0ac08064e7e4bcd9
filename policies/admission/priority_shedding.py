"""Shed the least urgent first: each level of priority has a load of its own from which it is refused."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from policies.base import AdmissionPolicy
from policies.decisions import Admit, Reject
from policies.views import FleetView
from traces.schema import Request
from traces.values import BadValue

_ADMIT = Admit()
_SHED = Reject("not urgent enough for this load")


class PriorityShedding(AdmissionPolicy):
    """Refuse a request when the load of a ready replica has reached the threshold of its priority. O(1).

    The first of `thresholds` is that of priority `lowest` and of what is less urgent, the next that of the next larger
    priority, and so on; what is more urgent than the last of them is never refused. A request without a priority counts
    as 0. Where no replica is ready, the load is that of one.

    Source: Beyer et al., "Site Reliability Engineering", 2016, chapter 21 (criticality: the least critical requests are
    rejected first as load grows).
    """

    thresholds: tuple[Annotated[float, Meta(ge=0)], ...] = (5.0, 10.0, 20.0)
    """Requests per ready replica from which each level is refused, the least urgent first; none smaller than the one
    before it."""
    lowest: int = 0
    """The priority that the first threshold is for."""
    load: Literal["queue_depth", "in_flight"] = "queue_depth"
    """Which requests count: those that wait for a replica, or all that were let in and have not ended."""

    def check_values(self) -> None:
        """Raises `BadValue` where a more urgent level would be refused sooner."""
        if list(self.thresholds) != sorted(self.thresholds):
            raise BadValue("thresholds", "must not fall: the more urgent are refused later")

    def admit(self, request: Request, fleet: FleetView, now_s: float) -> Admit | Reject:
        level = max(0, (request.priority or 0) - self.lowest)
        if level >= len(self.thresholds):
            return _ADMIT
        waiting = fleet.queue_depth if self.load == "queue_depth" else fleet.in_flight
        return _SHED if waiting >= self.thresholds[level] * max(1, fleet.ready_replicas) else _ADMIT
