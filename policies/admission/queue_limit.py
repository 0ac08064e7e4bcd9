"""A bounded queue: refuse early what would only wait."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from policies.base import AdmissionPolicy
from policies.decisions import Admit, Reject
from policies.views import FleetView
from traces.schema import Request

_ADMIT = Admit()
_QUEUE_FULL = Reject("queue full")
_FLEET_FULL = Reject("too many in flight")


class QueueLimit(AdmissionPolicy):
    """Refuse a request that finds `max_queue_depth` waiting, or `max_in_flight` in the fleet. O(1).

    Source: Erlang, 1917 (loss systems); Beyer et al., "Site Reliability Engineering", 2016, chapter 22 (queue
    management, load shedding).
    """

    max_queue_depth: Annotated[int, Meta(ge=1)] = 1000
    """Requests that may wait for a replica at one time."""
    max_in_flight: Annotated[int, Meta(ge=1)] | None = None
    """Requests that may be in the fleet at one time, waiting or running; None: any number."""

    def admit(self, request: Request, fleet: FleetView, now_s: float) -> Admit | Reject:
        if fleet.queue_depth >= self.max_queue_depth:
            return _QUEUE_FULL
        if self.max_in_flight is not None and fleet.in_flight >= self.max_in_flight:
            return _FLEET_FULL
        return _ADMIT
