"""Virtual time knows when nothing will come of a run any more: it can see all that is left to happen.

A fleet at rest never falls silent: replicas report, probes are answered, the control loop turns. So a run in which requests
wait and only these rhythms are left would go on for ever. The one thing to know: this is no time-out of anything. What the
engines have under way, timers that actors set, and whatever is on its way will happen, however late, and so is waited
for; a deadlock is when an hour after the last of it nothing has come of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fleet.actor import Actor, Context, FleetError
from fleet.actors.replica import Replica
from fleet.messages import Message, Probe, ProbeAnswered, ReplicaReported, RunFinished, StepRan, Tick
from fleet.runtime.simulated import SimulatedContext, SimulatedRuntime, SimulatedTimer

QUIET_S = 3_600.0
"""How long the rhythms must have moved nothing. Only a scaling policy that sleeps for longer, while requests wait and none
arrive, could be wronged."""
LOOK_S = QUIET_S / 6
RHYTHMS = frozenset({"report", "control", "ready", "deep", "timeout"})
"""Timers of the fleet's reports, control loop and probes, which go round whether or not anything happens."""


class DeadlockError(FleetError):
    """Requests wait, and nothing that is left to happen will end them."""


class DeadlockWatch(Actor):
    """Looks now and then whether anything came of what happened, and ends a run of which nothing more will come."""

    def __init__(
        self, runtime: SimulatedRuntime, progress: Callable[[], object], waiting: Callable[[], Sequence[str]]
    ) -> None:
        """`progress` changes whenever work is done; `waiting` says who waits for what."""
        self._runtime, self._progress, self._waiting = runtime, progress, waiting
        self._last: object = None
        self._until_s = 0.0
        """What was to happen when the work stopped has happened by then, and an hour has passed."""
        self._looked = 0
        """What the heap got after the last look has a larger number."""

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        ctx.after(LOOK_S, Tick("look"))

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {Tick: self.on_tick}

    def on_tick(self, message: Tick) -> None:
        now, seen = self.ctx.now, (self._progress(), self._work_done())
        looked, self._looked = self._looked, self._runtime.number()
        if seen != self._last:
            self._last = seen
            self._until_s = self._busy_until_s(now, self._looked) + QUIET_S
        else:
            # One thing may lead to another, as a start to a load; but not what is begun and given up again and again.
            self._until_s = max(self._until_s, self._busy_until_s(0.0, looked) + QUIET_S)
        if now >= self._until_s:
            raise DeadlockError(
                "deadlock: nothing that is left to happen can end these requests:\n  "
                + "\n  ".join(self._waiting())
            )
        self.ctx.after(LOOK_S, message)

    def _work_done(self) -> int:
        """Steps that engines have begun: a long answer is one dispatch and many of these."""
        actors = [context.actor for context in self._runtime.contexts.values()]
        return sum(actor.steps_begun() for actor in actors if isinstance(actor, Replica))

    def _busy_until_s(self, now_s: float, before: int) -> float:
        """When the last of what was under way before this number is due; now when there is nothing."""
        heap = self._runtime.heap
        due = (at_s for at_s, number, timer in heap if number < before and self._matters(timer))
        return max(due, default=now_s)

    def _matters(self, timer: SimulatedTimer) -> bool:
        """It may do more than go round."""
        message, context = timer.message, timer.context
        if context is None or isinstance(message, (ReplicaReported, Probe, ProbeAnswered)):
            return False
        if isinstance(context, SimulatedContext) and self._runtime.contexts.get(context.address) is not context:
            return False  # it was killed
        if isinstance(message, Tick):
            return message.what not in RHYTHMS
        if not isinstance(context, SimulatedContext):
            return True
        if isinstance(message, (RunFinished, StepRan)) and isinstance(context.actor, Replica):
            return bool(context.actor.holds())  # else it runs a probe's request
        return True
