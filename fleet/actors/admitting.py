"""Who is let in: now, later, for less, or not at all.

A storey of the router, above `ending`. The admission policy is asked as a request comes. One that is told to wait is
in the *lobby*: nothing of the fleet is its own there, no pool counts it in its demand, and no policy but admission's
knows of it; but its deadline runs, and its client may cancel it. The lobby has a bound of its own, so that whoever is
made to wait takes no room from those who are let in.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from fleet.actor import Timer
from fleet.actors.ending import Ending
from fleet.actors.placing import LONGEST_S, MOST_HOLDS
from fleet.blame import blaming
from fleet.engines.asked import with_most_output_tokens
from fleet.messages import Reply, Submit, Tick
from policies.admission.admit_all import AdmitAll
from policies.base import PolicyError
from policies.decisions import Admit, Degrade, Delay, Reject
from policies.views import FleetView, Outcome
from traces.schema import Request


class Delayed(Struct, gc=False):
    """A request in the lobby."""

    message: Submit
    request: Request
    timer: Timer
    delays: int
    """How often it has been told to wait."""
    expires: bool
    """Its deadline comes before the time at which admission is asked again."""


class Admitting(Ending):
    """Admission, and the lobby."""

    def __init__(
        self, *, default_deadline_s: float | None = None, **options: Any
    ) -> None:  # Any: those of `Front`
        super().__init__(**options)
        self.default_deadline_s = default_deadline_s
        """Of a request that brings none."""
        self.admits_all = type(self._admission) is AdmitAll
        self.refused = 0
        """Of those submitted, how many were not let in."""
        self.lobby: dict[str, Delayed] = {}
        """By request id, in the order in which they were last told to wait."""

    @abstractmethod
    def _let_in(self, message: Submit, request: Request, now: float) -> None:
        """It is pending from now on."""

    def _ask_admission(self, message: Submit, request: Request, delays: int, now: float) -> None:
        """`delays`: how often it was told to wait before."""
        decision = self._admit(request, now)
        if type(decision) is Admit:
            self._let_in(message, request, now)
        elif isinstance(decision, Reject):
            self._telemetry.decided(now, "admission", request.id, "Reject", reason=decision.reason)
            self._refuse(message, "rejected", decision.reason)
        elif isinstance(decision, Delay):
            self._delay(message, request, decision, delays + 1, now)
        elif not isinstance(decision, Degrade):
            raise PolicyError(
                f"admission policy {self._admission.name()} answered {decision!r}; expected Admit, Reject, Degrade or "
                "Delay"
            )
        else:
            degraded = self._degraded(request, decision, now)
            most, recorded = decision.max_output_tokens, message.output_tokens
            if most is not None:
                degraded = with_most_output_tokens(degraded, most)
                if recorded is not None and most < recorded:
                    message = replace(message, output_tokens=most, answer_blocks=())
            self._let_in(message, degraded, now)

    def _admit(self, request: Request, now: float) -> Admit | Reject | Degrade | Delay:
        in_flight = len(self.pending)
        only = self.catalogue.only
        ready = len(only.roster.candidates) if only is not None else self._ready_replicas()
        fleet = FleetView(
            in_flight=in_flight,
            queue_depth=in_flight - self.running,
            ready_replicas=ready,
            delayed=len(self.lobby),
        )
        try:
            return self._admission.admit(request, fleet, now)
        except Exception as error:
            raise blaming(self._admission, error, request.id, now) from error

    def _degraded(self, request: Request, decision: Degrade, now: float) -> Request:
        most = decision.max_output_tokens
        if most is not None and most < 1:
            raise PolicyError(
                f"admission policy {self._admission.name()} degraded request {request.id!r} to {most!r} output tokens; "
                "expected None, or 1 or more"
            )
        changed = decision.request
        if changed.id != request.id or changed.arrived_s != request.arrived_s:
            raise PolicyError(
                f"admission policy {self._admission.name()} degraded request {request.id!r} and changed its id or "
                "arrival; both must stay"
            )
        self._telemetry.decided(now, "admission", request.id, "Degrade", reason=decision.reason)
        return changed

    def _delay(self, message: Submit, request: Request, decision: Delay, delays: int, now: float) -> None:
        """It waits in the lobby until admission is asked again, or its deadline passes."""
        until_s, policy = decision.until_s, f"admission policy {self._admission.name()}"
        if not now < until_s < now + LONGEST_S:
            raise PolicyError(
                f"{policy} delays request {request.id!r} until {until_s!r} s at {now} s; until_s must be in the future"
            )
        if delays > MOST_HOLDS:
            raise PolicyError(
                f"{policy} delayed request {request.id!r} {MOST_HOLDS:,} times, the last time for "
                f"{until_s - now:.3g} s; it would never be let in"
            )
        if len(self.lobby) >= self.lobby_capacity:
            self._refuse(
                message, "shed", f"{self.lobby_capacity} requests are delayed already (queue_capacity)"
            )
            return
        self._telemetry.decided(now, "admission", request.id, "Delay", value=until_s, reason=decision.reason)
        ends_s = request.arrived_s + self._deadline_s(request)
        timer = self.ctx.after(max(0.0, min(until_s, ends_s) - now), Tick("admit", request.id))
        self.lobby[request.id] = Delayed(message, request, timer, delays, ends_s < until_s)

    @property
    def lobby_capacity(self) -> int:
        """How many may be delayed at a time: as many as may wait in all queues together."""
        return sum(desk.capacity for desk in self.catalogue.desks.values())

    def _deadline_s(self, request: Request) -> float:
        """After its arrival; infinite where it has none."""
        own = request.deadline_s if request.deadline_s is not None else self.default_deadline_s
        return math.inf if own is None else own

    def _on_lobby_tick(self, request_id: str) -> None:
        """The time of one that was told to wait has come: that of being asked again, or its last."""
        delayed, now = self.lobby.pop(request_id, None), self.ctx.now
        if delayed is None:
            return
        if delayed.expires:
            self._refuse(delayed.message, "expired", "its deadline passed before it was let in")
        else:
            self._ask_admission(delayed.message, delayed.request, delayed.delays, now)

    def _refuse(self, message: Submit, outcome: Outcome, detail: str | None) -> None:
        self.refused += 1
        self.ended[outcome] += 1
        self.ctx.send(message.reply_to, Reply(message.request.id, outcome, detail=detail))

    def _leave_lobby(self, delayed: Delayed, outcome: Outcome, detail: str) -> None:
        """It ends without having been let in."""
        del self.lobby[delayed.request.id]
        delayed.timer.cancel()
        self._refuse(delayed.message, outcome, detail)

    def abort(self, detail: str) -> None:
        for delayed in list(self.lobby.values()):
            self._leave_lobby(delayed, "failed", detail)
        super().abort(detail)
