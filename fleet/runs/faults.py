"""Injecting a fault trace: one actor that plays it, and the surface that each runtime offers to it.

A fault names a place, and hits whoever is there. One that finds nobody is counted (`faults_without_victim`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from fleet.actor import Actor, Context
from fleet.actors.roster import Roster
from fleet.launch.places import FleetPlaces, Place
from fleet.messages import (
    Drain,
    InjectSlowness,
    Message,
    ReplicaExited,
    ReplicaReported,
    Tick,
    TrustChanged,
    Undeliverable,
)
from fleet.telemetry.sink import Telemetry
from traces.faults import Fault, FaultTrace


class FaultSurface(Protocol):
    """What a runtime can do to a replica. Addresses that do not exist are no error: it may be gone already."""

    @property
    def places(self) -> FleetPlaces: ...

    def break_place(self, place: Place, until_s: float) -> None:
        """No replica can come up there before then."""

    def has_process(self, address: str) -> bool:
        """Whether there is something to stop, slow down or cut off."""

    def crash(self, replica: str) -> None: ...

    def hang(self, replica: str) -> None: ...

    def resume(self, replica: str) -> None: ...

    def partition(self, replica: str, cut: bool) -> None: ...

    def drop(self, replica: str, probability: float) -> None: ...

    def fail_load(self, replica: str | None) -> None: ...

    def unused(self) -> int:
        """Loads that were to fail, and that nobody began."""


class FaultInjector(Actor):
    """Plays a fault trace. Its choice of victim, where the trace names none, is the longest-ready replica."""

    def __init__(self, trace: FaultTrace, surface: FaultSurface, telemetry: Telemetry) -> None:
        self._faults = trace.faults
        self._surface = surface
        self._telemetry = telemetry
        self._roster = Roster()
        self._victims: dict[int, str] = {}
        self._killed: set[str] = set()
        """Victims that a fault has killed and whose end is not known here yet: nobody can be killed twice."""
        self._called: set[str] = set()
        """Victims that were told to go, likewise: the next preemption is another one's."""

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        for number, fault in enumerate(self._faults):
            ctx.after(fault.at_s, Tick("begin", number=number))

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            Tick: self.on_tick,
            ReplicaReported: self.on_replica_reported,
            ReplicaExited: self.on_replica_exited,
            TrustChanged: self.on_trust_changed,
            Undeliverable: self.on_undeliverable,
        }

    def on_replica_reported(self, message: ReplicaReported) -> None:
        self._roster.reported(message, self.ctx.now)
        if message.state in ("stopped", "failed"):
            self._forget(message.replica)

    def on_replica_exited(self, message: ReplicaExited) -> None:
        self._roster.exited(message.replica)
        self._forget(message.replica)

    def _forget(self, replica: str) -> None:
        self._killed.discard(replica)
        self._called.discard(replica)

    def on_trust_changed(self, message: TrustChanged) -> None:
        self._roster.judged(message.replica, message.trust)

    def on_undeliverable(self, message: Undeliverable) -> None:
        """The victim is gone already."""

    def on_tick(self, message: Tick) -> None:
        fault = self._faults[message.number]
        if message.what == "end":
            self._end(fault, self._victims.pop(message.number))
            return
        if fault.kind == "fail-load":
            self._surface.fail_load(fault.replica)
            self._log(fault, fault.replica or "next")
            return
        victim, place = self._find(fault)
        if place is not None and fault.for_s is not None:
            self._break_place(fault, place, fault.for_s)
        if victim is None:
            self._telemetry.counters["faults_without_victim"] += 1
            return
        self._log(fault, victim)
        self._begin(fault, victim)
        if fault.kind == "preempt" or (fault.for_s is not None and fault.kind != "crash"):
            self._victims[message.number] = victim
            delay_s = fault.notice_s if fault.kind == "preempt" else fault.for_s or 0.0
            self.ctx.after(delay_s, Tick("end", number=message.number))

    def _find(self, fault: Fault) -> tuple[str | None, Place | None]:
        """Who is hit, if anybody is there, and at which place."""
        places = self._surface.places
        takes_away = fault.kind in ("crash", "preempt")  # what only comes up, too
        if fault.replica is None:
            victim = self._longest_ready()
            if victim is not None or not takes_away or not fault.for_s:
                return victim, self._broken_with(victim, None)
            place = places.lowest_in_order()
            return self._there(None if place is None else places.holder(place), takes_away), place
        if not fault.replica.startswith(("replica/", "place/")):  # a client, say
            return fault.replica if self._surface.has_process(fault.replica) else None, None
        victim = places.found(fault.replica)
        place = self._broken_with(victim, places.named(fault.replica))
        return self._there(victim, takes_away), place

    def _there(self, victim: str | None, takes_away: bool) -> str | None:
        """The victim, unless it was killed before, or has no process yet that could be stopped or slowed down."""
        if victim is None or victim in self._killed:
            return None
        return victim if takes_away or self._surface.has_process(victim) else None

    def _broken_with(self, victim: str | None, named: Place | None) -> Place | None:
        """The place that breaks with its holder; not with one that only lingers where a successor is."""
        places = self._surface.places
        place = named if victim is None else places.place_of(victim)
        return None if place is None or places.holder(place) not in (None, victim) else place

    def _break_place(self, fault: Fault, place: Place, for_s: float) -> None:
        """What is killed cannot come up again before the repair; nor what is told to go, from then on."""
        notice_s = fault.notice_s if fault.kind == "preempt" else 0.0
        if fault.kind in ("crash", "preempt") and for_s > 0.0:
            self._surface.break_place(place, self.ctx.now + notice_s + for_s)

    def _longest_ready(self) -> str | None:
        gone = self._killed | self._called
        ready = [view for view in self._roster.candidates if view.id not in gone]
        return min(ready, key=lambda view: view.ready_since_s).id if ready else None

    def close(self) -> None:
        """At the end of a run: a load that was to fail, and that nobody began, has hit nobody."""
        unused = self._surface.unused()
        if unused:
            self._telemetry.counters["faults"] -= unused
            self._telemetry.counters["faults_without_victim"] += unused

    def _log(self, fault: Fault, victim: str) -> None:
        self._telemetry.counters["faults"] += 1
        self._telemetry.decided(self.ctx.now, "fault", victim, fault.kind, value=fault.for_s)

    def _begin(self, fault: Fault, victim: str) -> None:
        if fault.kind == "crash":
            self._crash(victim)
        elif fault.kind == "hang":
            self._surface.hang(victim)
        elif fault.kind == "slow":
            self.ctx.send(victim, InjectSlowness(fault.factor))
        elif fault.kind == "partition":
            self._surface.partition(victim, True)
        elif fault.kind == "drop":
            self._surface.drop(victim, fault.probability)
        elif fault.kind == "preempt":
            self._called.add(victim)
            self.ctx.send(victim, Drain())

    def _crash(self, victim: str) -> None:
        if self._surface.places.place_of(victim) is not None:
            self._killed.add(victim)
        self._surface.crash(victim)

    def _end(self, fault: Fault, victim: str) -> None:
        if fault.kind == "hang":
            self._surface.resume(victim)
        elif fault.kind == "slow":
            self.ctx.send(victim, InjectSlowness(1.0))
        elif fault.kind == "partition":
            self._surface.partition(victim, False)
        elif fault.kind == "drop":
            self._surface.drop(victim, 0.0)
        elif fault.kind == "preempt":
            self._crash(victim)
