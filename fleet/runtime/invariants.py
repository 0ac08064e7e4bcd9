"""The invariants of docs/invariants.md, checked while a simulation runs.

Cheap ones after every event; those that walk over what is in flight every `FULL_EVERY` events and at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet.actor import FleetError
from policies.decisions import Wait

if TYPE_CHECKING:
    from fleet.runtime.simulate import Simulation

FULL_EVERY = 1_000
"""Events between two full checks."""


class InvariantViolation(FleetError):
    """The fleet broke one of its own laws: a defect of fleetlab, not of a policy."""


class InvariantChecker:
    """Checks one simulation; `check` is called after every event."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._now = 0.0
        self._events = 0

    def check(self) -> None:
        simulation = self._simulation
        now = simulation.runtime.now
        if now < self._now:
            self._fail(3, "causality", f"time ran from {self._now} s back to {now} s")
        self._now = now
        router = simulation.head.router
        if router.submitted != len(router.pending) + sum(router.ended.values()):
            self._fail(1, "conservation", f"{router.submitted} submitted, {router.ended} ended, {len(router.pending)} pending")
        self._events += 1
        if self._events % FULL_EVERY == 0 or simulation.runtime.stopped:
            self.check_all()

    def check_all(self) -> None:
        """Every invariant that can be seen from a state between two events."""
        self._conservation()
        self._work_conserving()
        self._bounds()

    def _conservation(self) -> None:
        head, client = self._simulation.head, self._simulation.client
        if client.replied > client.submitted:
            self._fail(2, "once", f"{client.replied} replies to {client.submitted} requests")
        batcher = head.batcher
        if batcher.enqueued != batcher.finished + batcher.depth + batcher.dispatched:
            self._fail(1, "conservation", f"batcher: {batcher.enqueued} in, {batcher.finished} out, "
                       f"{batcher.depth} waiting, {batcher.dispatched} dispatched")  # fmt: skip
        for queue in batcher.queues():
            if len(queue.order) != len(queue.waiting):
                self._fail(1, "conservation", f"queueing policy {queue.order.name()} holds {len(queue.order)} of "
                           f"{len(queue.waiting)} waiting requests")  # fmt: skip

    def _work_conserving(self) -> None:
        for queue in self._simulation.head.batcher.queues():
            if queue.waiting and queue.idle and not queue.said_wait:
                self._fail(4, "work conserving", f"{queue.idle[0].id} is idle while {len(queue.waiting)} requests wait and "
                           f"{queue.batching.name()} did not say {Wait.__name__}")  # fmt: skip

    def _bounds(self) -> None:
        simulation = self._simulation
        for view in simulation.head.batcher.views():
            if not 0 <= view.capacity <= simulation.spec.max_inflight_batches or view.in_flight < 0:
                self._fail(5, "bounds", f"{view.id} has capacity {view.capacity} and {view.in_flight} in flight")
        for view in simulation.head.router.views():
            if view.in_flight < 0:
                self._fail(5, "bounds", f"the router counts {view.in_flight} in flight at {view.id}")
        if simulation.head.batcher.depth > simulation.spec.queue_capacity:
            self._fail(5, "bounds", f"{simulation.head.batcher.depth} wait, over queue_capacity")

    def _fail(self, number: int, name: str, detail: str) -> None:
        raise InvariantViolation(f"invariant {number} ({name}): {detail}")
