"""The router owns the request: it lets it in, sends it on, tries again, and is the only actor that may end one.

A request is *pending* from its `Submit` to its one `Reply`. Each attempt at it has a ticket; an answer that does
not carry the current one belongs to an abandoned attempt and is counted and dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import count, repeat
from typing import Any

from msgspec.structs import force_setattr, replace

from fleet.actor import Actor, Context
from fleet.actors.demand import Demand
from fleet.actors.hearing import Announcer
from fleet.actors.pending import Pending
from fleet.actors.registrar import Signals
from fleet.actors.roster import Roster
from fleet.blame import blaming, reset
from fleet.messages import (
    UNBOUNDED,
    AttemptsEnded,
    Cancel,
    ConfirmRequests,
    Dequeue,
    Dispatched,
    Enqueue,
    Message,
    Payload,
    ReplicaExited,
    ReplicaReported,
    Reply,
    ReportPool,
    RequestsConfirmed,
    StartFailed,
    Streamed,
    Submit,
    Tick,
    TokensGenerated,
    TrustChanged,
    Undeliverable,
    Usage,
)
from fleet.telemetry.sink import Telemetry
from policies.base import AdmissionPolicy, PolicyError, RetryPolicy, RoutingPolicy
from policies.decisions import Admit, Degrade, Hold, Reject, Retry, Route
from policies.views import Failure, FailureKind, FleetView, Outcome, ReplicaView
from traces.schema import Request, Slo

MOST_HOLDS = 100_000
"""Of one request: a policy that holds it more often only looks busy."""


class Router(Actor):
    """Admission, routing, expiry and retry, in that order of a request's life."""

    def __init__(
        self,
        *,
        admission: AdmissionPolicy,
        routing: RoutingPolicy,
        retry: RetryPolicy,
        early_binding: bool,
        batcher: str,
        telemetry: Telemetry,
        signals: Signals,
        queue_capacity: int = 100_000,
        default_deadline_s: float | None = None,
        slo: Slo | None = None,
        stamp_arrivals: bool = False,
        poison_limit: int = 3,
        hear: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self._admission, self._routing, self._retry = admission, routing, retry
        self._early = early_binding
        self._batcher = batcher
        self._telemetry = telemetry
        self._capacity = queue_capacity
        self._default_deadline_s = default_deadline_s
        self._poison_limit = poison_limit
        self._stamp_arrivals = stamp_arrivals
        """Clients have clocks of their own: a request arrives when it is received."""
        self.pending: dict[str, Pending] = {}
        self._parked: dict[str, Pending] = {}
        """Those that wait here, in order: for a replica they may go to, or (`resting`) for their next attempt."""
        self._roster = Roster(follow=signals.show_in)
        self._start_failure: str | None = None
        """Why the last start failed, while no replica may be chosen."""
        self.demand = Demand(slo)
        self._next_ticket = count(1).__next__
        self.submitted = self.refused = 0
        """Of those submitted, `refused` were not let in."""
        self.ended: Counter[Outcome] = Counter()
        # `hear`: the hooks that policies of other actors want, by address.
        self._hooks = Announcer(admission, routing, retry, elsewhere=hear or {})

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        for policy in (self._admission, self._routing, self._retry):
            reset(policy, ctx.rng)

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        handlers: dict[type[Message], Callable[[Any], None]] = {
            Submit: self.on_submit,
            AttemptsEnded: self.on_attempts_ended,
            Dispatched: self.on_dispatched,
            TokensGenerated: self.on_tokens_generated,
            Cancel: self.on_cancel,
            ConfirmRequests: self.on_confirm_requests,
            ReportPool: self.on_report_pool,
            Tick: self.on_tick,
            ReplicaReported: self.on_replica_reported,
            ReplicaExited: self.on_replica_exited,
            StartFailed: self.on_start_failed,
            TrustChanged: self.on_trust_changed,
            Undeliverable: self.on_undeliverable,
        }
        return self._hooks.telling(self, handlers)

    @property
    def queue_depth(self) -> int:
        """Requests let in, and with no replica: parked here, queued, on the way."""
        return len(self.pending) - self.demand.running

    # --- in ----------------------------------------------------------------------------------------------------

    def on_submit(self, message: Submit) -> None:
        request, now = message.request, self.ctx.now
        self.submitted += 1
        if self._stamp_arrivals:
            request = replace(request, arrived_s=now)
        if request.id in self.pending:
            self._refuse(message, "rejected", f"a request with id {request.id!r} is pending already")
            return
        in_flight = len(self.pending)
        fleet = FleetView(
            in_flight=in_flight,
            queue_depth=in_flight - self.demand.running,
            ready_replicas=len(self._roster.candidates),
        )
        try:
            decision = self._admission.admit(request, fleet, now)
        except Exception as error:
            raise blaming(self._admission, error, request.id, now) from error
        if type(decision) is not Admit:
            if isinstance(decision, Reject):
                self._telemetry.decided(now, "admission", request.id, "Reject", reason=decision.reason)
                self._refuse(message, "rejected", decision.reason)
                return
            request = self._degraded(request, decision, now)
        self.demand.arrivals_s += now
        answer_blocks = message.answer_blocks
        if answer_blocks and request.prompt_tokens != message.request.prompt_tokens:
            answer_blocks = ()  # they go on after another prompt
        pending = Pending(request, message.reply_to, message.output_tokens, message.payload, answer_blocks)
        if message.stream:
            pending.tokens = []
        self.pending[request.id] = pending
        deadline_s = request.deadline_s if request.deadline_s is not None else self._default_deadline_s
        if deadline_s is not None:
            left_s = max(0.0, request.arrived_s + deadline_s - now)
            pending.deadline = self.ctx.after(left_s, Tick("deadline", request.id))
        parked = self._parked
        self._place(pending, now, self._capacity - len(parked))
        if parked and request.id in parked and self.queue_depth > self._capacity:
            self._shed(pending)

    def _degraded(self, request: Request, decision: object, now: float) -> Request:
        if not isinstance(decision, Degrade):
            raise PolicyError(
                f"admission policy {self._admission.name()} answered {decision!r}; expected Admit, Reject or Degrade"
            )
        changed = decision.request
        if changed.id != request.id or changed.arrived_s != request.arrived_s:
            raise PolicyError(
                f"admission policy {self._admission.name()} degraded request {request.id!r} and changed its id or "
                "arrival; both must stay"
            )
        self._telemetry.decided(now, "admission", request.id, "Degrade", reason=decision.reason)
        return changed

    def _refuse(self, message: Submit, outcome: Outcome, detail: str | None) -> None:
        self.refused += 1
        self.ended[outcome] += 1
        self.ctx.send(message.reply_to, Reply(message.request.id, outcome, detail=detail))

    def _shed(self, pending: Pending) -> None:
        """One bound over all that waits, here and in the batcher's queues: beyond it one is turned away at once."""
        self._end(pending, "shed", detail=f"{self._capacity} requests wait already (queue_capacity)")

    # --- placing -----------------------------------------------------------------------------------------------

    def _place(self, pending: Pending, now: float, room: int = UNBOUNDED) -> None:
        """Start the next attempt, or hold the request until one can start. `room`: see `Enqueue`."""
        replica = None
        if self._early:
            replica = self._choose(pending, now)
            if replica is None:
                return
            if self._hooks.on_dispatched:
                self._hooks.tell("on_dispatched", now, pending.request, replica)
        work = pending.begin(replica, self._next_ticket(), each_token=self._hooks.on_tokens)
        self.ctx.send(self._batcher, Enqueue(work, replica, room))

    def _choose(self, pending: Pending, now: float) -> str | None:
        """Ask the routing policy; None when the request is held or was rejected."""
        request, roster = pending.request, self._roster
        candidates = roster.candidates
        if pending.exclude:
            candidates = tuple(view for view in candidates if view.id not in pending.exclude) or candidates
        if not candidates:
            self._hold(pending)
            return None
        try:
            decision = self._routing.route(request, candidates, now)
        except Exception as error:
            raise blaming(self._routing, error, request.id, now) from error
        if type(decision) is Route:
            view = roster.chosen.get(decision.replica)
            if view is None or (candidates is not roster.candidates and view not in candidates):
                known = ", ".join(view.id for view in candidates[:8])
                raise PolicyError(
                    f"routing policy {self._routing.name()} named replica {decision.replica!r}, "
                    f"which is not a candidate for request {request.id!r} at {now:.6f} s (candidates: {known})"
                )
            force_setattr(view, "in_flight", view.in_flight + 1)
            self._telemetry.routed(now, request.id, decision, now - view.as_of_s)
            return view.id
        if isinstance(decision, Hold):
            if not decision.until_s > now:
                raise PolicyError(
                    f"routing policy {self._routing.name()} held request {request.id!r} until {decision.until_s} s "
                    f"at {now} s; until_s must be in the future"
                )
            pending.holds += 1
            if pending.holds > MOST_HOLDS:
                raise PolicyError(
                    f"routing policy {self._routing.name()} held request {request.id!r} {MOST_HOLDS:,} times, "
                    f"the last time for {decision.until_s - now:.3g} s; it would never be placed"
                )
            self._telemetry.decided(
                now, "routing", request.id, "Hold", value=decision.until_s, reason=decision.reason
            )
            self._hold(pending)
            pending.timer = self.ctx.after(decision.until_s - now, Tick("place", request.id, pending.ticket))
            return None
        if isinstance(decision, Reject):
            self._telemetry.decided(now, "routing", request.id, "Reject", reason=decision.reason)
            self._end(pending, "rejected", detail=decision.reason)
            return None
        raise PolicyError(
            f"routing policy {self._routing.name()} answered {decision!r}; expected Route, Hold or Reject"
        )

    def _hold(self, pending: Pending) -> None:
        pending.placed = pending.running = False
        pending.replica = None
        self._parked[pending.request.id] = pending

    def _release(self) -> None:
        """The candidates changed: try everything that is held, in order."""
        for pending in [pending for pending in self._parked.values() if not pending.resting]:
            del self._parked[pending.request.id]
            self._unset(pending)
            self._place(pending, self.ctx.now)

    # --- out ---------------------------------------------------------------------------------------------------

    def on_dispatched(self, message: Dispatched) -> None:
        view = self._roster.views.get(message.replica)
        if view is not None and not self._early:
            force_setattr(view, "in_flight", view.in_flight + len(message.work))
        find, replica, late, started = self.pending.get, message.replica, not self._early, 0
        for work in message.work:
            pending = find(work.request.id)
            if pending is not None and pending.ticket == work.ticket:
                pending.running = True
                pending.replica = replica
                started += 1
                if late:
                    self._bound_late(pending, replica)
        self.demand.started(started, self.ctx.now)

    def _bound_late(self, pending: Pending, replica: str) -> None:
        if replica in pending.exclude:  # whoever is free takes the batch
            self._telemetry.counters["excludes_ignored"] += 1
        if self._hooks.on_dispatched:
            self._hooks.tell("on_dispatched", self.ctx.now, pending.request, replica)

    def on_tokens_generated(self, message: TokensGenerated) -> None:
        """Pass output tokens on.

        What a client has it never gets again, and what was lost on the way it gets from the answer.
        """
        for item in message.tokens:
            pending = self.pending.get(item.request_id)
            if pending is None or pending.ticket != item.ticket or pending.replica != message.replica:
                self._telemetry.counters["late_tokens"] += 1
                continue
            first = not pending.first_token
            self._hooks.tokens_came(
                pending, message.replica, item.start + max(1, len(item.ids)), self.ctx.now
            )
            if not first and pending.tokens is None:
                continue  # a policy listens, and no client
            streamed = pending.pass_on(item.start, item.ids)
            if streamed is None:
                self._telemetry.counters["tokens_out_of_order"] += 1
            else:
                self.ctx.send(pending.reply_to, streamed)

    def on_attempts_ended(self, message: AttemptsEnded) -> None:
        work = message.work
        if message.replica is not None:
            view = self._roster.views.get(message.replica)
            if view is not None and (self._early or message.dispatched):
                force_setattr(view, "in_flight", view.in_flight - len(work))
        if message.failure is not None:
            self._attempts_failed(message)
            return
        find, end, observed = self.pending.get, self._end, self._hooks.of_attempts
        size, service_s, cold, now = len(work), message.service_s, message.cold, self.ctx.now
        demand, ended = self.demand, 0
        latency, judging = demand.e2e_s.append, demand.slo is not None
        results: Iterable[Payload | None] = message.results or repeat(None)
        usages: Iterable[Usage | None] = message.usage or repeat(None)
        for item, result, usage in zip(work, results, usages, strict=False):
            request = item.request
            pending = find(request.id)
            if pending is None or pending.ticket != item.ticket:
                self._telemetry.counters["late_answers"] += 1
                continue
            if observed:
                self._hooks.attempt_ended(pending, None, self.ctx.now, service_s, usage)
            if pending.tokens is not None and (rest := pending.rest_of(result)) is not None:
                self.ctx.send(pending.reply_to, rest)
            ended += 1
            latency(now - request.arrived_s)
            if usage is not None or judging or request.slo is not None:
                demand.judge(pending, "completed", usage, now)
            end(pending, "completed", size, service_s, cold, None, result, usage)
        demand.completed(ended, now)

    def _attempts_failed(self, message: AttemptsEnded) -> None:
        for item in message.work:
            pending = self.pending.get(item.request.id)
            if pending is None or pending.ticket != item.ticket:
                if message.failure != "withdrawn":
                    self._telemetry.counters["late_answers"] += 1
                continue
            if message.failure == "overloaded":
                self._withdraw(pending, "overloaded")
                self._shed(pending)
            elif message.failure == "moved" or message.failure == "withdrawn":  # noqa: PLR1714  # narrows the type below
                self._withdraw(pending, "withdrawn")
                self._restart(pending)
                pending.attempt -= 1  # it never ran
                self._telemetry.counters["moved"] += 1
                self._place(pending, self.ctx.now)
            elif message.failure is not None:
                self._failed(pending, message.failure, message.detail)

    def _failed(self, pending: Pending, kind: FailureKind, detail: str | None) -> None:
        request, now = pending.request, self.ctx.now
        self._hooks.attempt_ended(pending, kind, now)
        if kind == "replica-lost" and pending.lost_with(pending.replica) >= self._poison_limit:
            self._telemetry.counters["poisoned"] += 1
            why = f"poison: its attempts ended with the loss of {', '.join(pending.lost)}"
            self._telemetry.decided(now, "retry", request.id, "GiveUp", reason=why)
            self._end(pending, "failed", detail=why)
            return
        failure = Failure(
            kind=kind, attempt=pending.attempt, replica=pending.replica, detail=detail,
            completions=self.ended["completed"],
        )  # fmt: skip
        try:
            decision = self._retry.after_failure(request, failure, now)
        except Exception as error:
            raise blaming(self._retry, error, request.id, now) from error
        if isinstance(decision, Retry):
            self._restart(pending)
            if self.queue_depth > self._capacity:
                self._shed(pending)
                return
            self._telemetry.counters["retries"] += 1
            self._telemetry.decided(
                now, "retry", request.id, "Retry", value=decision.after_s, reason=decision.reason or kind
            )
            pending.exclude = decision.exclude
            if decision.after_s > 0.0:
                pending.resting = True
                self._parked[request.id] = pending
                pending.timer = self.ctx.after(decision.after_s, Tick("place", request.id, pending.ticket))
            else:
                self._place(pending, now)
            return
        self._telemetry.decided(now, "retry", request.id, "GiveUp", reason=decision.reason or kind)
        self._end(pending, "failed", detail=f"{kind}: {detail}" if detail else kind)

    def _restart(self, pending: Pending) -> None:
        if pending.running:
            self.demand.stopped(self.ctx.now)
        pending.placed = pending.running = False

    def _withdraw(self, pending: Pending, kind: FailureKind) -> None:
        """An attempt ends without an answer: whoever heard that it was sent hears that too."""
        if self._early or pending.running:
            self._hooks.attempt_ended(pending, kind, self.ctx.now)

    def _end(  # noqa: PLR0917  # called for every request, and keywords cost
        self,
        pending: Pending,
        outcome: Outcome,
        batch_size: int = 0,
        service_s: float | None = None,
        cold: bool = False,
        detail: str | None = None,
        result: Payload | None = None,
        usage: Usage | None = None,
    ) -> None:
        """The only place where a request ends."""
        request_id = pending.request.id
        del self.pending[request_id]
        if outcome != "completed":  # those are counted together, as they end
            self.demand.came_to_nothing(pending, outcome, self.ctx.now)
        if pending.deadline is not None:
            pending.deadline.cancel()
        if pending.timer is not None:
            self._unset(pending)
        if self._parked:
            self._parked.pop(request_id, None)
        self.ended[outcome] += 1
        if self._hooks.on_request_ended:
            now = self.ctx.now
            self._hooks.tell("on_request_ended", now, pending.ending(outcome, usage, now))
        reply = Reply(
            request_id, outcome, pending.attempt, pending.replica, batch_size, service_s, cold, detail, result, usage
        )  # fmt: skip
        self.ctx.send(pending.reply_to, reply)

    def _unset(self, pending: Pending) -> None:
        if pending.timer is not None:
            pending.timer.cancel()
            pending.timer = None

    def on_tick(self, message: Tick) -> None:
        pending = self.pending.get(message.key)
        if pending is None:
            return
        if message.what == "deadline":
            self._abandon(pending, "expired", self._why_expired(pending))
        elif pending.ticket == message.number and not pending.placed:
            self._parked.pop(message.key, None)
            pending.timer, pending.resting = None, False
            self._place(pending, self.ctx.now)

    def _why_expired(self, pending: Pending) -> str:
        if self._start_failure is None or pending.running:
            return "its deadline passed"
        return f"its deadline passed while no replica was ready: {self._start_failure}"

    def on_cancel(self, message: Cancel) -> None:
        pending = self.pending.get(message.request_id)
        if pending is None:
            return
        if message.reply_to is not None and message.reply_to != pending.reply_to:
            self._telemetry.counters["foreign_cancels"] += 1
            return
        self._abandon(pending, "cancelled", "the client cancelled it")

    def on_confirm_requests(self, message: ConfirmRequests) -> None:
        """A client asks whether its requests are still here, and whether anything is being done."""
        missing = []
        for request_id in message.requests:
            pending = self.pending.get(request_id)
            if pending is None or pending.reply_to != message.reply_to:
                missing.append(request_id)
        working = any(view.busy_fraction or view.state == "loading" for view in self._roster.views.values())
        self.ctx.send(message.reply_to, RequestsConfirmed(tuple(missing), working))

    def _abandon(self, pending: Pending, outcome: Outcome, detail: str) -> None:
        if pending.placed:
            self._withdraw(pending, "withdrawn")
            self.ctx.send(self._batcher, Dequeue(pending.request.id, pending.ticket, pending.replica))
        self._end(pending, outcome, detail=detail)

    def abort(self, detail: str) -> None:
        """The fleet stops: end every pending request as failed."""
        for pending in list(self.pending.values()):
            self._end(pending, "failed", detail=detail)

    def on_report_pool(self, message: ReportPool) -> None:
        """All that waits is seen: what is held here too, or a pool of no replicas would look like one without work."""
        now = self.ctx.now
        first = next((pending for pending in self.pending.values() if not pending.running), None)
        oldest_wait_s = 0.0 if first is None else max(0.0, now - first.request.arrived_s)
        report = self.demand.report(
            now,
            arrived=self.submitted - self.refused,
            completed=self.ended["completed"],
            in_flight=len(self.pending),
            oldest_wait_s=oldest_wait_s,
        )
        self.ctx.send(self._batcher, ReportPool(message.reply_to, report))

    def on_undeliverable(self, message: Undeliverable) -> None:
        """A client is gone, or does not read: its request has ended all the same, and its stream ends here."""
        lost = message.message
        if isinstance(lost, Reply) and message.never:
            self._shorten(lost, message)
            return
        if not isinstance(lost, Streamed):
            if isinstance(lost, Reply):
                self._telemetry.counters["undeliverable_replies"] += 1
            return
        self._telemetry.counters["undeliverable_tokens"] += len(lost.ids) or 1
        pending = self.pending.get(lost.request_id)
        if pending is None:
            return
        if message.reason == "unreachable":
            self._abandon(pending, "cancelled", "its client is gone")
        else:
            pending.take_back(lost)

    def _shorten(self, lost: Reply, message: Undeliverable) -> None:
        """An answer that no message can hold: its client hears that, instead of nothing."""
        if lost.result is not None:
            self.ended[lost.outcome] -= 1
            self.ended["failed"] += 1
            detail = f"refused: {message.detail}"
            self.ctx.send(message.to, replace(lost, outcome="failed", detail=detail, result=None))

    # --- replicas ----------------------------------------------------------------------------------------------

    def on_replica_reported(self, message: ReplicaReported) -> None:
        if self._roster.reported(message, self.ctx.now):
            self._replicas_changed()

    def on_trust_changed(self, message: TrustChanged) -> None:
        if self._roster.judged(message.replica, message.trust):
            self._replicas_changed()

    def on_replica_exited(self, message: ReplicaExited) -> None:
        if self._roster.exited(message.replica):
            self._replicas_changed()

    def on_start_failed(self, message: StartFailed) -> None:
        """When there is no replica and no start succeeds, what waits for one ends with the reason."""
        if any(view.state == "ready" for view in self._roster.views.values()):
            return
        self._start_failure = message.detail
        if message.hopeless:
            for pending in [item for item in self.pending.values() if not item.running]:
                self._abandon(pending, "failed", f"no replica can be started: {message.detail}")

    def _replicas_changed(self) -> None:
        candidates = self._roster.candidates
        if candidates:
            self._start_failure = None
        if self._hooks.on_replicas:
            self._hooks.tell("on_replicas", self.ctx.now, candidates)
        if candidates and self._parked:
            self._release()

    def views(self) -> list[ReplicaView]:
        """All replicas, for the invariant checker."""
        return list(self._roster.views.values())

    def waiting(self) -> list[str]:
        """Who waits for what, for the deadlock report."""
        first = list(self.pending.items())[:20]
        return [f"request {request_id} waits for {pending.waits_for}" for request_id, pending in first]
