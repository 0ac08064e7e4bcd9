"""A replica that runs whole requests: one batch at a time, in the order they came.

Up to `max_inflight_batches` are at its door, so that the next one starts when the last one ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from fleet.actors.replica import Replica, ReplicaSettings
from fleet.engines.base import BatchEngine
from fleet.messages import BatchFinished, CancelBatch, Message, RunBatch, RunFinished, Tick


class BatchReplica(Replica):
    """Runs batches on its engine, in order."""

    _engine: BatchEngine

    def __init__(self, settings: ReplicaSettings, **options: Any) -> None:  # Any: those of every replica
        super().__init__(settings, **options)
        self._doorstep: deque[RunBatch] = deque()
        self._running: RunBatch | None = None
        self._started_s = 0.0
        self._finished: RunFinished | None = None
        """Held back by an injected slowness."""
        self._withdrawn = False
        """Nobody wants what runs any more."""
        self._unwanted: dict[int, set[int]] = {}
        """Cancelled attempts of the batches it has, by ticket."""
        self._disowned: int | None = None
        """The batch that ran when the engine answered for another one. Its own answer may still come."""
        self._answered: RunBatch | None = None
        """The last batch that was answered."""
        self._came_s: dict[int, float] = {}
        """When each batch came, once somebody has asked for its load."""

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {**super().handlers(), RunFinished: self.on_run_finished}

    def batches(self) -> list[int]:
        running = [] if self._running is None else [self._running.batch]
        return running + [item.batch for item in self._doorstep]

    def attempts(self) -> int:
        has = [] if self._running is None else [self._running]
        return sum(len(item.work) for item in (*has, *self._doorstep) if item.batch > 0)

    def accept(self, message: RunBatch) -> None:
        if self._latencies_s is not None:
            self._came_s[message.batch] = self.ctx.now
        self._doorstep.append(message)
        if self._running is None:
            self._run_next()

    def _run_next(self) -> None:
        if self._doorstep:
            self._running = self._doorstep.popleft()
            self._started_s = self.ctx.now
            self._withdrawn = False
            self.engine_started()
            self._engine.run(self._running.batch, self._running.work)

    def on_run_finished(self, message: RunFinished) -> None:
        running = self._running
        if running is None or running.batch != message.batch:
            self._misanswered(message.batch)
            return
        if self._slowness > 1.0 and self._finished is None:
            if not (self._withdrawn and self._engine.interruptible):
                self._finished = message
                self.ctx.after((self._slowness - 1.0) * message.service_s, Tick("slow", number=message.batch))
                return
            message = self._interrupted(message.batch)
        elapsed_s = message.service_s if self._finished is None else self.ctx.now - self._started_s
        self._finished = None
        self.engine_ended()
        self._running = None
        self._unwanted.pop(running.batch, None)
        self._answer(running, message, elapsed_s)
        self._run_next()
        if self.state == "draining":
            self._stop_if_empty()

    def _misanswered(self, batch: int) -> None:
        """The engine answers for what it was not given: what it was given fails at once, since it may never be told."""
        if batch == self._disowned:
            self._disowned = None
            return
        complaint = f"{self._engine.name()} answered for batch {batch}, which it was not running"
        running = self._running
        if running is None:
            self.complain(complaint)
            return
        self._disowned = running.batch
        self._finished = RunFinished(running.batch, self.ctx.now - self._started_s, error=complaint)
        self.on_run_finished(self._finished)

    def _answer(self, running: RunBatch, finished: RunFinished, service_s: float) -> None:
        error, results = finished.error, finished.results
        came_s = self._came_s.pop(running.batch, None)
        if came_s is not None and self._latencies_s is not None and error is None:
            self._latencies_s.append(self.ctx.now - came_s)
        if self._timings is not None and error is None:
            self._timings.batch_ended(self.ctx.now, running.work, finished.service_s)
        if results is not None and len(results) != len(running.work):
            error = f"{self._engine.name()} gave {len(results)} results for a batch of {len(running.work)}"
        if self.answered_probe(running.batch, error):
            return
        quality = None
        if error is None:
            quality, error = self.rated(running.work, results)
        self._answered = running
        self.ctx.send(
            running.reply_to,
            BatchFinished(
                self.ctx.address,
                running.batch,
                service_s,
                self.first_answer(),
                error,
                None if error else results,
                busy_s=self.busy_s,
                quality=quality,
                timings=self.timings(),
            ),
        )

    def unanswerable(self, to: str, lost: BatchFinished, why: str) -> None:
        """Each may be too large, or all together: they go one by one, and those that cannot are refused."""
        batch, results = self._answered, lost.results or []
        if batch is None or batch.batch != lost.batch or len(batch.work) != len(results) or len(results) == 1:
            super().unanswerable(to, lost, why)
            return
        self._answered = None  # each comes back here by itself
        for number, (work, result) in enumerate(zip(batch.work, results, strict=True)):
            quality = None if lost.quality is None else [lost.quality[number]]
            self.ctx.send(to, replace(lost, results=[result], tickets=(work.ticket,), quality=quality))

    def timed(self, message: Tick) -> None:
        if self._finished is not None and self._finished.batch == message.number:
            self.on_run_finished(self._finished)

    def _withdraw(self, batch: int) -> None:
        """Nobody wants anything of the batch that runs: it ends now if its engine can end it, slow or not."""
        self._withdrawn = True
        if self._finished is None:
            self._engine.cancel(batch)
        elif self._engine.interruptible:
            self.on_run_finished(self._interrupted(batch))

    def _interrupted(self, batch: int) -> RunFinished:
        """It ends now, and took what it has run."""
        return RunFinished(batch, self.ctx.now - self._started_s, error="cancelled")

    def on_cancel_batch(self, message: CancelBatch) -> None:
        """A batch is cancelled when nobody wants anything of it. One that runs ends when its engine says so."""
        batch = next(
            (item for item in (self._running, *self._doorstep) if item and item.batch == message.batch), None
        )
        if batch is None:
            return
        if message.tickets:
            unwanted = self._unwanted.setdefault(message.batch, set())
            unwanted.update(message.tickets)
            if any(work.ticket not in unwanted for work in batch.work):
                return
        if self._running is not None and self._running.batch == message.batch:
            self._withdraw(message.batch)
            return
        for index, waiting in enumerate(self._doorstep):
            if waiting.batch == message.batch:
                del self._doorstep[index]
                self._unwanted.pop(message.batch, None)
                self._came_s.pop(message.batch, None)
                answer = BatchFinished(
                    self.ctx.address, waiting.batch, 0.0, error="cancelled", busy_s=self.busy_s
                )
                self.ctx.send(waiting.reply_to, answer)
                return
