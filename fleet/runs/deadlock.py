"""Virtual time knows when nothing will come of a run any more: it can see all that is left to happen.

A fleet at rest never falls silent: replicas report, probes are answered, the control loop turns. So a run in which
requests wait and only these rhythms are left would go on for ever. The one thing to know: this is no time-out of
anything. What the engines have under way, timers that actors set, and whatever is on its way will happen, however late,
and so is waited for; a deadlock is when an hour after the last of it nothing has come of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fleet.actor import Actor, Context, FleetError
from fleet.actors.health_checker import HealthChecker
from fleet.actors.replica import Replica
from fleet.messages import Message, Probe, ProbeAnswered, ReplicaReported, RunFinished, StepRan, Tick
from fleet.runtime.simulated import Recurring, SimulatedContext, SimulatedRuntime, SimulatedTimer

QUIET_S = 3_600.0
"""How long the rhythms must have moved nothing, and that twice. Only a scaling policy that sleeps for longer, while
requests wait and none arrive, could be wronged."""
QUIET_LOOKS = 2
GO_ROUND = (ReplicaReported, Probe, ProbeAnswered)
"""On their way, on a network that takes time, whether or not anything happens."""


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
        self._looked = 0
        """What the heap got after the last look has a larger number."""
        self._quiet = 0

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        self._looked = self._runtime.number()
        self._look_again()

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {Tick: self.on_tick}

    def on_tick(self, message: Tick) -> None:
        seen = (self._progress(), self._work_done())
        before, self._looked = self._looked, self._runtime.number()
        if seen != self._last:
            self._last, self._quiet = seen, 0
        elif not any(self._due_s(before)):
            # What is under way was begun since the last look. One thing may lead to another, as a start to a load; but
            # what is begun and given up again and again comes to nothing.
            self._quiet += 1
        if self._quiet == QUIET_LOOKS:
            raise DeadlockError(
                "deadlock: nothing that is left to happen can end these requests:\n  "
                + "\n  ".join(self._waiting())
            )
        self._look_again()

    def _look_again(self) -> None:
        """An hour after the last of what is under way is due."""
        now = self.ctx.now
        self.ctx.after(max(self._due_s(self._looked), default=now) - now + QUIET_S, Tick("look"))

    def _work_done(self) -> int:
        """Steps that engines have begun: a long answer is one dispatch and many of these."""
        actors = [context.actor for context in self._runtime.contexts.values()]
        return sum(actor.steps_begun() for actor in actors if isinstance(actor, Replica))

    def _due_s(self, before: int) -> Iterator[float]:
        """When that is due which the heap got before this number, and which may do more than go round."""
        return (
            at_s for at_s, number, timer in self._runtime.heap if number < before and self._matters(timer)
        )

    def _matters(self, timer: SimulatedTimer) -> bool:
        """It may do more than go round."""
        message, context = timer.message, timer.context
        if context is None or isinstance(timer, Recurring) or isinstance(message, GO_ROUND):
            return False
        if (
            isinstance(context, SimulatedContext)
            and self._runtime.contexts.get(context.address) is not context
        ):
            return False  # it was killed
        if not isinstance(context, SimulatedContext):
            return True
        if isinstance(context.actor, HealthChecker):
            return False  # a probe's time runs out
        if isinstance(message, (RunFinished, StepRan)) and isinstance(context.actor, Replica):
            return bool(context.actor.holds())  # else it runs a probe's request
        return True
