"""Refuse what cannot make its deadline: its place is worth more to those that can."""

from __future__ import annotations

import random
from typing import Annotated

from msgspec import Meta

from policies.base import AdmissionPolicy
from policies.decisions import Admit, Reject
from policies.views import Completion, Ending, FleetView
from traces.schema import Request

_ADMIT = Admit()
_INFEASIBLE = Reject("cannot make its deadline")


class DeadlineFeasible(AdmissionPolicy):
    """Refuse a request whose expected wait and service, times `margin`, are longer than it has left. O(1).

    It waits for those that wait now: their number times the seconds between two ends while there is a backlog, which
    are measured and scaled by the ready replicas. Its service is the mean of what completed. The time it has is that of
    its deadline, else of its objective for the whole answer, else `deadline_s`, from its intended arrival. Whoever has
    none of these is let in, and so is everybody as long as nothing was measured or no replica is ready.

    Source: Xu, Colmenares, "Bouncer: Admission Control with Response Time Objectives for Low-latency Online Data
    Systems", SIGMOD Companion 2024 (early rejection by the expected wait of the queue and the processing time); there
    the wait is a sum over types of queries, here it follows from how fast a backlog was seen to drain.
    """

    margin: Annotated[float, Meta(gt=0)] = 1.0
    """Factor on the expected time; above 1: only what will make it with room to spare."""
    deadline_s: Annotated[float, Meta(gt=0)] | None = None
    """For requests with neither a deadline nor an objective for the whole answer; None: they are let in."""
    memory_requests: Annotated[float, Meta(ge=1)] = 100.0
    """Ends over which rates and services are averaged, the last ones counting most."""

    def reset(self, rng: random.Random) -> None:
        self.ready = 0
        self.backlog = 0
        """Requests that still wait of those that did when one last came."""
        self.last_end_s: float | None = None
        """When the last one ended, or the backlog began after it; None: there is none."""
        self.drain_replica_s = self.drained = 0.0
        """Replica seconds in which there was a backlog, and requests that ended in them; fading."""
        self.service_s = self.services = 0.0
        """Seconds of service, and how many these are of; fading."""

    def admit(self, request: Request, fleet: FleetView, now_s: float) -> Admit | Reject:
        self.ready = fleet.ready_replicas
        within_s = self._within_s(request)
        if within_s is not None and self.ready:
            expected_s = self.expected_s(fleet.queue_depth)
            if now_s - request.arrived_s + self.margin * expected_s > within_s:
                self._sees(fleet.queue_depth, now_s)
                return _INFEASIBLE
        self._sees(fleet.queue_depth + 1, now_s)
        return _ADMIT

    def expected_s(self, waiting: int) -> float:
        """Until the answer to a request that finds so many waiting, as far as was measured."""
        service_s = self.service_s / self.services if self.services else 0.0
        if not waiting or not self.drained or not self.ready:
            return service_s
        return waiting * self.drain_replica_s / self.drained / self.ready + service_s

    def _within_s(self, request: Request) -> float | None:
        if request.deadline_s is not None:
            return request.deadline_s
        if request.slo is not None and request.slo.e2e_s is not None:
            return request.slo.e2e_s
        return self.deadline_s

    def _sees(self, waiting: int, now_s: float) -> None:
        if self.last_end_s is None and waiting > 1:  # a backlog begins: it is not alone
            self.last_end_s = now_s
        self.backlog = waiting

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        if self.backlog > 0 and self.last_end_s is not None:
            keep = 1.0 - 1.0 / self.memory_requests
            passed_replica_s = (now_s - self.last_end_s) * max(1, self.ready)
            self.drain_replica_s = keep * self.drain_replica_s + passed_replica_s
            self.drained = keep * self.drained + 1.0
        self.backlog -= 1
        self.last_end_s = now_s if self.backlog > 0 else None

    def on_completed(self, completion: Completion, now_s: float) -> None:
        if completion.failure is None and completion.service_s is not None:
            keep = 1.0 - 1.0 / self.memory_requests
            self.service_s = keep * self.service_s + completion.service_s
            self.services = keep * self.services + 1.0
