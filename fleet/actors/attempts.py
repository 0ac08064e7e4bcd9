"""The account of attempts: what each was for, where it went, when it began and ended, and what it took.

An attempt that was its request's only one and completed has no row: its request's record says it all. So a run of
single attempts pays nothing. One that is withdrawn from a replica ends when that says so, and only then is it known
what it took: so long it is kept here.
"""

from __future__ import annotations

from typing import NamedTuple

from fleet.actors.pending import Attempt
from fleet.messages import AttemptsEnded, Usage
from fleet.telemetry.sink import Telemetry
from policies.views import FailureKind

HEDGES = frozenset({"hedge", "tied"})


class Left(NamedTuple):
    """An attempt that nobody waits for any more."""

    request_id: str
    attempt: Attempt
    end: FailureKind


class AttemptLog:
    """Writes `run.attempts`."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._left: dict[int, Left] = {}
        """By ticket."""

    def write(  # noqa: PLR0917  # a row has so many cells
        self,
        request_id: str,
        attempt: Attempt,
        end: FailureKind | str | None,
        ended_s: float | None,
        service_s: float | None = None,
        usage: Usage | None = None,
    ) -> None:
        """One row. `end` is ``completed``, or why it came to nothing; None: the run ended first."""
        pool = attempt.desk.pool
        if end == "completed" and attempt.role in HEDGES:
            self._telemetry.counters["hedges_won"] += 1
        if service_s is None and attempt.started_s is not None and ended_s is not None:
            service_s = ended_s - attempt.started_s
        self._telemetry.attempt_ended(
            request_id, attempt.role, attempt.number, pool.name, pool.version, pool.variant, attempt.replica,
            pool.device, attempt.sent_s, attempt.started_s, ended_s, end, service_s,
            None if usage is None else usage.output_tokens - attempt.resumed,
        )  # fmt: skip

    def leave(self, request_id: str, attempt: Attempt, end: FailureKind) -> None:
        """It was withdrawn; the batcher will say when it has ended."""
        self._left[attempt.ticket] = Left(request_id, attempt, end)

    def ended(self, ticket: int, message: AttemptsEnded, usage: Usage | None, now_s: float) -> bool:
        """Its batcher says that it has ended, however it did; False: it was not withdrawn."""
        left = self._left.pop(ticket, None)
        if left is None:
            return False
        service_s = message.service_s if message.dispatched else 0.0
        self.write(left.request_id, left.attempt, left.end, now_s, service_s, usage)
        return True

    def close(self) -> None:
        """The run ends: what was withdrawn and is still at a replica has not ended."""
        for request_id, attempt, end in self._left.values():
            self.write(request_id, attempt, end, None)
        self._left.clear()
