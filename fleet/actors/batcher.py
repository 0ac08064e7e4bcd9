"""The batcher owns waiting: it queues attempts, asks the batching policy, and sends batches to replicas.

Late binding: one queue for the pool, and batches are pulled for whichever replica is free. Early binding: one
queue for each replica, and the routing policy chose it on arrival. Both are the same `WaitingQueue`; they
differ in which replicas may take from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import force_setattr, replace

from fleet.actor import Actor, Context
from fleet.actors.operations import RetirePool
from fleet.actors.queue_hearing import QueueHearing
from fleet.actors.registrar import Signals
from fleet.actors.roster import Reports, take_signals, view_of
from fleet.actors.waiting import WaitingQueue
from fleet.blame import blaming, reset
from fleet.messages import (
    AskLoad,
    AttemptsEnded,
    BatchesMissing,
    BatchFinished,
    CancelBatch,
    ConfirmBatches,
    Dequeue,
    Dispatched,
    Enqueue,
    Message,
    PoolReport,
    ReplicaExited,
    ReplicaReported,
    ReportPool,
    RunBatch,
    Tick,
    Told,
    TrustChanged,
    Undeliverable,
    Work,
)
from fleet.pools import Pool
from fleet.telemetry.sink import Telemetry
from policies.base import BatchingPolicy, PolicyError, QueueingPolicy
from policies.decisions import Dispatch, Drop, Wait
from policies.views import FailureKind, ReplicaView


class Batcher(Actor):
    """Queues, forms batches, and knows which batch is where."""

    def __init__(
        self,
        *,
        queueing: QueueingPolicy,
        batching: BatchingPolicy,
        early_binding: bool,
        telemetry: Telemetry,
        signals: Signals,
        pool: Pool,
        router: str = "router",
    ) -> None:
        self.pool = pool
        self._queueing, self._batching = queueing, batching
        self.hearing = QueueHearing(queueing, batching)
        self._early = early_binding
        self._telemetry = telemetry
        self._signals = signals
        self._engines = telemetry.engines
        self._router = router
        self._views: dict[str, ReplicaView] = {}
        self._queues: dict[str | None, WaitingQueue] = {}
        self._by_number: dict[int, WaitingQueue] = {}
        self._batches: dict[str, dict[int, list[Work] | None]] = {}
        """What each replica holds. None: its attempts were taken back, but the replica has not said yet that it is
        rid of the batch, which so long takes up room there."""
        self._reports = Reports()
        self._last_batch = self._last_queue = 0
        self.reveal: Callable[[str], int | None] | None = None
        """Simulation: true output lengths, for policies that declare themselves oracles."""
        self.depth = 0
        """Attempts waiting, over all queues."""
        self.dispatched = 0
        """Attempts with a replica."""
        self.enqueued = 0
        self.finished = 0

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        if not self._early:
            self._open_queue(None)

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            Enqueue: self.on_enqueue,
            BatchFinished: self.on_batch_finished,
            BatchesMissing: self.on_batches_missing,
            Tick: self.on_tick,
            Dequeue: self.on_dequeue,
            ReportPool: self.on_report_pool,
            ReplicaReported: self.on_replica_reported,
            ReplicaExited: self.on_replica_exited,
            TrustChanged: self.on_trust_changed,
            Undeliverable: self.on_undeliverable,
            Told: self.on_told,
            AskLoad: self.on_ask_load,
            RetirePool: self.on_retire_pool,
        }

    def _open_queue(self, replica: str | None) -> WaitingQueue:
        self._last_queue += 1
        queue = WaitingQueue(self._last_queue, replica, self._queueing.fresh(), self._batching.fresh())
        reset(queue.order, self.ctx.rng)
        reset(queue.batching, self.ctx.rng)
        for policy in (queue.order, queue.batching):
            if policy.oracle and self.reveal is not None:
                policy.reveal(self.reveal)
        self._queues[replica] = self._by_number[queue.number] = queue
        return queue

    def queues(self) -> list[WaitingQueue]:
        """All queues, for the invariant checker."""
        return list(self._by_number.values())

    def batches(self) -> list[tuple[str, list[Work]]]:
        """Replica and attempts of every batch that was sent and has not come back, for the invariant checker."""
        return [
            (replica, work)
            for replica, held in self._batches.items()
            for work in held.values()
            if work is not None
        ]

    def taken_back(self) -> list[str]:
        """The replica of every batch that was taken back and may still run, for the invariant checker."""
        return [replica for replica, held in self._batches.items() for work in held.values() if work is None]

    def views(self) -> list[ReplicaView]:
        """All replicas, for the invariant checker."""
        return list(self._views.values())

    # --- waiting -----------------------------------------------------------------------------------------------

    def on_enqueue(self, message: Enqueue) -> None:
        work = message.work
        self.enqueued += 1
        queue = self._queues.get(message.replica)
        if queue is None:
            self._end([work], message.replica, dispatched=False, failure="replica-lost", detail="it is gone")
            return
        if self.depth >= message.room:
            self._end([work], message.replica, dispatched=False, failure="overloaded")
            return
        self.depth += 1
        shadow = queue.add(work, self.ctx.now)
        if shadow is not None:
            self.depth -= 1
            self._end([shadow], queue.replica, dispatched=False, failure="withdrawn")
        if queue.idle:
            self._form(queue)

    def on_dequeue(self, message: Dequeue) -> None:
        queue = self._queues.get(message.replica if self._early else None)
        entry = None if queue is None else queue.waiting.get(message.request_id)
        if queue is None or entry is None or entry[0].ticket != message.ticket:
            self._take_back(message)
            return
        queue.take(message.request_id)
        self.depth -= 1
        self._end([entry[0]], message.replica, dispatched=False, failure="withdrawn")

    def _take_back(self, message: Dequeue) -> None:
        """It was dispatched: its replica is told, and what it takes up there counts until the replica answers."""
        if message.replica is None:
            return
        for number, work in self._batches.get(message.replica, {}).items():
            if work is not None and any(item.ticket == message.ticket for item in work):
                self.hearing.withdrawn(message.ticket)
                self.ctx.send(message.replica, CancelBatch(number, (message.ticket,)))
                return

    def _count_out(self, replica: str, attempts: int) -> None:
        view = self._views.get(replica)
        if view is not None:
            force_setattr(view, "in_flight", view.in_flight - attempts)

    def on_tick(self, message: Tick) -> None:
        queue = self._by_number.get(message.number)
        if queue is not None:
            queue.timer = queue.wait_until_s = None
            self._form(queue)

    # --- forming batches ---------------------------------------------------------------------------------------

    def _form(self, queue: WaitingQueue) -> None:
        """Ask the batching policy until it waits, or nothing waits, or no replica has room."""
        now = self.ctx.now
        while queue.idle and queue.waiting:
            if queue.drops and self._dropped_by_order(queue, now):
                continue
            try:
                decision = queue.batching.next_batch(queue, queue.idle, now)
            except Exception as error:
                raise blaming(queue.batching, error, f"{len(queue)} waiting requests", now) from error
            if type(decision) is Dispatch:
                self._dispatch(queue, decision, now)
            elif isinstance(decision, Wait):
                queue.said_wait = True
                self._wait(queue, decision, now)
                return
            elif isinstance(decision, Drop):
                self._drop(queue, decision.ids, f"batching policy {queue.batching.name()}", decision.reason)
            else:
                raise PolicyError(
                    f"batching policy {queue.batching.name()} answered {decision!r}; expected Dispatch, Wait or Drop"
                )
        queue.said_wait = False
        queue.disarm()

    def _dropped_by_order(self, queue: WaitingQueue, now: float) -> bool:
        """Whether the queueing policy gave up some of what waits."""
        try:
            ids = queue.order.drops(now)
        except Exception as error:
            raise blaming(queue.order, error, f"{len(queue)} waiting requests", now) from error
        if ids:
            self._drop(queue, ids, f"queueing policy {queue.order.name()}", None)
        return bool(ids)

    def _drop(self, queue: WaitingQueue, ids: Sequence[str], policy: str, reason: str | None) -> None:
        """These are given up while they wait."""
        taken = [queue.take(request_id) for request_id in ids]
        work = [item for item in taken if item is not None]
        if len(work) != len(taken) or not work:
            raise PolicyError(f"{policy} gave up requests that do not wait: {tuple(ids)}")
        self.depth -= len(work)
        self._telemetry.counters["dropped"] += len(work)
        detail = f"given up by {policy}" + (f": {reason}" if reason else "")
        self._end(work, queue.replica, dispatched=False, failure="overloaded", detail=detail)

    def _wait(self, queue: WaitingQueue, decision: Wait, now: float) -> None:
        if decision.until_s == queue.wait_until_s:
            return
        queue.disarm()
        if decision.until_s is None:
            return
        if not decision.until_s > now:
            raise PolicyError(
                f"batching policy {queue.batching.name()} waits until {decision.until_s} s at {now} s; "
                "until_s must be in the future"
            )
        queue.wait_until_s = decision.until_s
        queue.timer = self.ctx.after(decision.until_s - now, Tick("batch", number=queue.number))

    def _dispatch(self, queue: WaitingQueue, decision: Dispatch, now: float) -> None:
        view = queue.idle[0] if decision.replica is None else self._idle_view(queue, decision.replica)
        if decision.ids is not None:
            taken = [queue.take(request_id) for request_id in decision.ids]
            work = [item for item in taken if item is not None]
            if len(work) != len(taken) or not work:
                raise PolicyError(
                    f"batching policy {queue.batching.name()} named requests that do not wait: {decision.ids}"
                )
        else:
            size = decision.size
            if not 1 <= size <= len(queue.waiting):
                raise PolicyError(
                    f"batching policy {queue.batching.name()} asked for a batch of {size} with {len(queue)} waiting"
                )
            pop, waiting = queue.order.pop, queue.waiting
            try:
                work = [waiting.pop(pop(now).id)[0] for _ in range(size)]
            except Exception as error:
                raise blaming(queue.order, error, f"the next of {len(queue)} waiting", now) from error
        self.depth -= len(work)
        self.dispatched += len(work)
        self._last_batch += 1
        held = self._batches[view.id]
        if not held:
            self._engines.began(view.id, now)
        held[self._last_batch] = work
        self._set_room(queue, view, view.capacity - 1)
        force_setattr(view, "in_flight", view.in_flight + len(work))
        self._telemetry.dispatched(now, view.id, len(work), len(queue.waiting), decision.reason)
        if self.hearing.listens:
            self.hearing.dispatched(queue, view.id, work, now)
        self.ctx.send(self._router, Dispatched(view.id, work))
        self.ctx.send(view.id, RunBatch(self._last_batch, work, self.ctx.address))

    def _idle_view(self, queue: WaitingQueue, replica: str) -> ReplicaView:
        view = self._views.get(replica)
        if view is None or view.capacity < 1 or all(view is not candidate for candidate in queue.idle):
            raise PolicyError(
                f"batching policy {queue.batching.name()} named replica {replica!r}, which has no room "
                f"(idle: {', '.join(v.id for v in queue.idle[:8])})"
            )
        return view

    # --- batches come back -------------------------------------------------------------------------------------

    def on_batch_finished(self, message: BatchFinished) -> None:
        if message.timings is not None:
            self._telemetry.timed(self.ctx.now, message.replica, message.timings)
        held = self._batches.get(message.replica)
        if held is None:  # it has ended, and what it had is lost
            self._telemetry.counters["late_batches"] += 1
            return
        if message.tickets:
            self._part_finished(held, message)
        else:
            self._finished(held, message)
        self._engines.said(message.replica, message.busy_s, self.ctx.now, bool(held))

    def _finished(self, held: dict[int, list[Work] | None], message: BatchFinished) -> None:
        replica = message.replica
        taken_back = message.batch in held
        work = held.pop(message.batch, None)
        if work is None:
            self._telemetry.counters["late_batches"] += 1
            if taken_back:
                self._give_room(replica, 0)
            return
        self.dispatched -= len(work)
        self._end_work(work, message)
        self._give_room(replica, len(work))

    def _part_finished(self, held: dict[int, list[Work] | None], message: BatchFinished) -> None:
        """Some of a batch ended; its replica has the others still, and there is room only when none is left.

        Of a batch that was taken back it is not known which those are: the replica's next report says whether it is
        rid of it.
        """
        work = held.get(message.batch) or []
        ended = [item for item in work if item.ticket in message.tickets]
        if not ended:
            self._telemetry.counters["late_batches"] += 1
            return
        self.dispatched -= len(ended)
        if len(ended) < len(work):
            held[message.batch] = [item for item in work if item.ticket not in message.tickets]
            self._count_out(message.replica, len(ended))
            self._end_work(ended, message)
            return
        del held[message.batch]
        self._end_work(ended, message)
        self._give_room(message.replica, len(ended))

    def _end_work(self, work: list[Work], message: BatchFinished) -> None:
        failure: FailureKind | None = None
        error = message.error
        if error is not None:
            failure = "refused" if message.refused else "engine-error"
        else:
            error = _mismatch(len(work), message)
            failure = None if error is None else "engine-error"
        good = failure is None
        self._end(
            work, message.replica, dispatched=True, failure=failure, detail=error, service_s=message.service_s,
            cold=message.cold, results=message.results if good else None, usage=message.usage if good else None,
            quality=message.quality if good else None,
        )  # fmt: skip

    def on_batches_missing(self, message: BatchesMissing) -> None:
        """The replica knows nothing of them: they, or their answers, were lost on the way."""
        held = self._batches.get(message.replica)
        for number in message.batches:
            if held is None or number not in held:
                continue  # its answer came meanwhile
            work = held.pop(number)
            if work is not None:
                self.dispatched -= len(work)
                self._telemetry.counters["lost_batches"] += 1
                detail = f"the batch, or its answer, was lost on the way to {message.replica} or back"
                self._end(work, message.replica, dispatched=True, failure="message-lost", detail=detail)
            if not held:
                self._engines.rests(message.replica)
            self._give_room(message.replica, len(work or ()))

    def _give_room(self, replica: str, attempts: int) -> None:
        view = self._views.get(replica)
        if view is None:
            return
        force_setattr(view, "in_flight", view.in_flight - attempts)
        queue = self._queues.get(replica if self._early else None)
        if queue is None:
            force_setattr(view, "capacity", view.capacity + 1)
            return
        self._set_room(queue, view, view.capacity + 1)
        self._form(queue)

    def _set_room(self, queue: WaitingQueue, view: ReplicaView, capacity: int) -> None:
        """It can take so many batches now, and stands among those that have room accordingly."""
        before = view.capacity
        if self._early and before > 0 and capacity > 0:  # the only one of its queue: there is no order
            force_setattr(view, "capacity", capacity)
            return
        if before > 0:
            queue.withhold(view)
        force_setattr(view, "capacity", capacity)
        if capacity > 0 and self._takes_work(view):
            queue.offer(view)

    def _end(
        self, work: list[Work], replica: str | None, *, dispatched: bool, **ended: Any
    ) -> None:  # Any: see AttemptsEnded
        self.finished += len(work)
        if dispatched and self.hearing.listens:
            self.hearing.ended(self._queue_of(replica), work, self.ctx.now, **ended)
        self.ctx.send(self._router, AttemptsEnded(work, replica, dispatched, **ended))

    def on_undeliverable(self, message: Undeliverable) -> None:
        """A batch did not reach its replica."""
        if not isinstance(message.message, RunBatch):
            return
        replica, number = message.to, message.message.batch
        held = self._batches.get(replica)
        if held is None or number not in held:
            return
        work = held.pop(number) or []
        if not held:
            self._engines.rests(replica)
        self.dispatched -= len(work)
        self._telemetry.counters["undeliverable_batches"] += 1
        # Whether it is gone or clogged, the attempts are the retry policy's to place elsewhere. One that no message can
        # hold none can take.
        if work:
            detail = message.detail if message.never else f"{replica} is {message.reason}"
            failure: FailureKind = "refused" if message.never else "unreachable"
            self._end(work, replica, dispatched=True, failure=failure, detail=detail)
        view = self._views.get(replica)
        if message.reason == "unreachable" and view is not None:
            # No more for it until it reports again, or is known to have ended.
            force_setattr(view, "state", "provisioning")
            self._offer(view)
            self._lose(replica, "unreachable", "it cannot be reached")
        self._give_room(replica, len(work))

    def _queue_of(self, replica: str | None) -> WaitingQueue | None:
        return self._queues.get(replica if self._early else None)

    def on_told(self, message: Told) -> None:
        """The router tells of tokens, which do not pass through here."""
        for name, arguments in message.calls:
            self.hearing.told(self._queue_of(arguments[1]), name, arguments, self.ctx.now)

    def on_ask_load(self, message: AskLoad) -> None:
        """Of a replica, on its way there: what waits here for it alone is part of its load."""
        queue = self._queues.get(message.replica)
        if queue is not None:
            self.ctx.send(message.replica, replace(message, waiting=len(queue)))

    # --- replicas ----------------------------------------------------------------------------------------------

    def _takes_work(self, view: ReplicaView) -> bool:
        return view.state == "ready" and view.trust == "healthy"

    def on_replica_reported(self, message: ReplicaReported) -> None:
        replica = message.replica
        if not self._reports.believe(message):
            return
        if message.state in ("stopped", "failed"):
            self._forget(replica, message.detail or f"it is {message.state}")
            return
        view = self._views.get(replica)
        if view is None:
            view = view_of(message, self.pool, message.max_inflight_batches)
            self._views[replica] = view
            self._batches[replica] = {}
            self._signals.show_in(view, self._batches[replica].keys())
            if self._early:
                self._open_queue(replica)
            self._offer(view)
            return
        take_signals(view, message, self.ctx.now)
        unknown = self._batches[replica].keys() - message.holds
        if unknown:  # on its way, or answered, or lost; messages keep their order, so the replica can tell
            self.ctx.send(replica, ConfirmBatches(tuple(sorted(unknown)), self.ctx.address))
        if view.state != message.state:
            force_setattr(view, "state", message.state)
            self._offer(view)
            if message.state != "ready" and self._early:
                self._return_waiting(replica, "moved", f"its replica is {message.state}")

    def on_trust_changed(self, message: TrustChanged) -> None:
        view = self._views.get(message.replica)
        if view is None:
            return
        force_setattr(view, "trust", message.trust)
        self._offer(view)
        if message.trust == "failed":
            self._lose(message.replica, "replica-lost", message.reason or "it failed its health checks")
        elif message.trust == "suspect" and self._early:
            self._return_waiting(message.replica, "moved", "its replica is suspect")

    def on_replica_exited(self, message: ReplicaExited) -> None:
        self._forget(message.replica, message.detail)

    def _offer(self, view: ReplicaView) -> None:
        """Put a replica among those that may take work from its queue, or take it out."""
        queue = self._queues.get(view.id if self._early else None)
        if queue is None:
            return
        queue.withhold(view)
        if self.hearing.replicas:
            self.hearing.offered(queue, view, self._takes_work(view), self.ctx.now)
        if self._takes_work(view) and view.capacity > 0:
            queue.offer(view)
            self._form(queue)

    def _forget(self, replica: str, detail: str) -> None:
        if self._reports.has_ended(replica):
            return
        self._reports.ended(replica)
        self._engines.gone(replica, self.ctx.now)
        view = self._views.get(replica)
        self._lose(replica, "replica-lost", detail)
        self._batches.pop(replica, None)
        self._views.pop(replica, None)
        queue = self._queues.pop(replica, None) if self._early else self._queues[None]
        if queue is not None and self._early:
            queue.disarm()
            del self._by_number[queue.number]
        elif queue is not None and view is not None:
            queue.withhold(view)
            if self.hearing.replicas:
                self.hearing.offered(queue, view, False, self.ctx.now)

    def _lose(self, replica: str, failure: FailureKind, detail: str) -> None:
        """What a replica had is lost; what waited for it alone goes elsewhere."""
        held = self._batches.get(replica, {})
        view = self._views.get(replica)
        for number, work in list(held.items()):
            if work is None:
                continue
            held[number] = None
            self.dispatched -= len(work)
            if view is not None:
                force_setattr(view, "in_flight", view.in_flight - len(work))
            self._end(work, replica, dispatched=True, failure=failure, detail=detail)
            if not self._reports.has_ended(replica):
                self.ctx.send(replica, CancelBatch(number))
        if self._early:
            self._return_waiting(replica, "moved", detail)

    def _return_waiting(self, replica: str, failure: str, detail: str) -> None:
        queue = self._queues.get(replica)
        if queue is not None and queue.waiting:
            work = queue.clear()
            self.depth -= len(work)
            self._end(work, replica, dispatched=False, failure=failure, detail=detail)

    def on_retire_pool(self, message: RetirePool) -> None:
        """Its pool takes nothing new: what waits goes elsewhere."""
        for queue in self.queues():
            work = queue.clear()
            self.depth -= len(work)
            if work:
                self._end(
                    work, queue.replica, dispatched=False, failure="moved", detail="its pool is retired"
                )

    # --- reports -----------------------------------------------------------------------------------------------

    def on_report_pool(self, message: ReportPool) -> None:
        """The router has said what is asked of the pool; this is what its replicas' engines have done."""
        if message.demand is not None:
            engines = self._engines.by_replica(self.ctx.now, self._views)
            self.ctx.send(message.reply_to, PoolReport(message.demand, engines))


def _mismatch(attempts: int, message: BatchFinished) -> str | None:
    """What is wrong with an answer that has not one result, or one usage, for each attempt."""
    for what, items in (
        ("results", message.results), ("usages", message.usage), ("ratings", message.quality),
    ):  # fmt: skip
        if items is not None and len(items) != attempts:
            return f"{message.replica} answered with {len(items)} {what} to {attempts} attempts"
    return None
