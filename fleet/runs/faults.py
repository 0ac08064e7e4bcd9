"""Injecting a fault trace: one actor that plays it, and the surface that each runtime offers to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from fleet.actor import Actor, Context
from fleet.actors.roster import Roster
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

    def crash(self, replica: str) -> None: ...

    def hang(self, replica: str) -> None: ...

    def resume(self, replica: str) -> None: ...

    def partition(self, replica: str, cut: bool) -> None: ...

    def drop(self, replica: str, probability: float) -> None: ...

    def fail_load(self, replica: str | None) -> None: ...


class FaultInjector(Actor):
    """Plays a fault trace. Its choice of victim, where the trace names none, is the longest-ready replica."""

    def __init__(self, trace: FaultTrace, surface: FaultSurface, telemetry: Telemetry) -> None:
        self._faults = trace.faults
        self._surface = surface
        self._telemetry = telemetry
        self._roster = Roster()
        self._victims: dict[int, str] = {}

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

    def on_replica_exited(self, message: ReplicaExited) -> None:
        self._roster.exited(message.replica)

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
        victim = fault.replica or self._longest_ready()
        if victim is None:
            self._telemetry.counters["faults_without_victim"] += 1
            return
        self._log(fault, victim)
        self._begin(fault, victim)
        if fault.kind == "preempt" or (fault.for_s is not None and fault.kind != "crash"):
            self._victims[message.number] = victim
            delay_s = fault.notice_s if fault.kind == "preempt" else fault.for_s or 0.0
            self.ctx.after(delay_s, Tick("end", number=message.number))

    def _longest_ready(self) -> str | None:
        ready = self._roster.candidates
        return min(ready, key=lambda view: view.ready_since_s).id if ready else None

    def _log(self, fault: Fault, victim: str) -> None:
        self._telemetry.counters["faults"] += 1
        self._telemetry.decided(self.ctx.now, "fault", victim, fault.kind, value=fault.for_s)

    def _begin(self, fault: Fault, victim: str) -> None:
        if fault.kind == "crash":
            self._surface.crash(victim)
        elif fault.kind == "hang":
            self._surface.hang(victim)
        elif fault.kind == "slow":
            self.ctx.send(victim, InjectSlowness(fault.factor))
        elif fault.kind == "partition":
            self._surface.partition(victim, True)
        elif fault.kind == "drop":
            self._surface.drop(victim, fault.probability)
        elif fault.kind == "preempt":
            self.ctx.send(victim, Drain())

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
            self._surface.crash(victim)
