"""The router owns the request: it lets it in, sends it on, tries again, and is the only actor that may end one.

A request is *pending* from its `Submit` to its one `Reply`. It has one attempt or more; the first good one ends it, and
the others are withdrawn at that moment. Each attempt has a ticket; an answer with no ticket of a live one belongs to an
abandoned attempt and is counted and dropped.

This is the uppermost of five storeys: what a request lives through. Below are `admitting`, whether it is let in,
`ending`, how it ends, `placing`, how attempts are made, and `front`, who there is to make them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

from msgspec.structs import force_setattr, replace

from fleet.actors.admitting import Admitting
from fleet.actors.attempts import HEDGES
from fleet.actors.catalogue import Refusal
from fleet.actors.hearing import telling
from fleet.actors.pending import Answer, Attempt, Pending
from fleet.actors.placing import demand_sound
from fleet.actors.serving import Desk
from fleet.blame import blaming
from fleet.messages import (
    AttemptsEnded,
    Cancel,
    ConfirmRequests,
    Message,
    Payload,
    Reply,
    RequestsConfirmed,
    Streamed,
    Submit,
    Tick,
    TokensGenerated,
    Undeliverable,
    Usage,
)
from policies.base import PolicyError
from policies.decisions import GiveUp, Retry
from policies.views import Failure, FailureKind
from traces.schema import Request


class Router(Admitting):
    """The way in, answers, expiry and retry, in that order of a request's life."""

    def __init__(
        self,
        *,
        stamp_arrivals: bool = False,
        poison_limit: int = 3,
        **options: Any,  # Any: those of `Front`
    ) -> None:
        super().__init__(**options)
        self._poison_limit = poison_limit
        self._stamp_arrivals = stamp_arrivals
        """Clients have clocks of their own: a request arrives when it is received."""
        self.submitted = 0

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        handlers: dict[type[Message], Callable[[Any], None]] = {
            Submit: self.on_submit,
            AttemptsEnded: self.on_attempts_ended,
            TokensGenerated: self.on_tokens_generated,
            Cancel: self.on_cancel,
            ConfirmRequests: self.on_confirm_requests,
            Tick: self.on_tick,
            Undeliverable: self.on_undeliverable,
            **super().handlers(),
        }
        reached = any(desk.hooks.reaches_others for desk in self.catalogue.desks.values())
        if reached:
            self._tells = True
            return telling(self, self._calls, handlers)
        return handlers

    @property
    def queue_depth(self) -> int:
        """Requests let in, and with no replica: parked here, queued, on the way."""
        return len(self.pending) - self.running

    # --- in ----------------------------------------------------------------------------------------------------

    def on_submit(self, message: Submit) -> None:
        request, now = message.request, self.ctx.now
        self.submitted += 1
        if self._stamp_arrivals:
            request = replace(request, arrived_s=now)
        if request.id in self.pending or request.id in self.lobby:
            self._refuse(message, "rejected", f"a request with id {request.id!r} is pending already")
            return
        if self.admits_all:
            self._let_in(message, request, now)
        else:
            self._ask_admission(message, request, 0, now)

    def _let_in(self, message: Submit, request: Request, now: float) -> None:  # straight: calls cost
        shadow = None
        catalogue = self.catalogue
        variant = catalogue.only or catalogue.straight.get(request.model)
        if variant is None:
            choice = self.catalogue.choose(request, now)
            if isinstance(choice, Refusal):
                self._telemetry.decided(now, choice.slot, request.id, "Reject", reason=choice.reason)
                self._refuse(message, "rejected", choice.reason)
                return
            variant, shadow = choice
        answer_blocks = message.answer_blocks
        if answer_blocks and request.prompt_tokens != message.request.prompt_tokens:
            answer_blocks = ()  # they go on after another prompt
        desk = variant.desk or variant.desks[0]
        pending = Pending(
            request, message.reply_to, message.output_tokens, message.payload, answer_blocks, variant, desk
        )
        if message.stream:
            pending.tokens = []
        self.pending[request.id] = pending
        demand = desk.demand
        demand.in_flight += 1
        demand.arrivals_s += now
        variant.let_in += 1
        if not self.flat:
            desk.open[request.id] = pending
            pending.muted = variant.escalates
        deadline_s = request.deadline_s if request.deadline_s is not None else self.default_deadline_s
        if deadline_s is not None:
            left_s = max(0.0, request.arrived_s + deadline_s - now)
            pending.deadline = self.ctx.after(left_s, Tick("deadline", request.id))
        self._place(pending, now, new=True)
        if variant.parked and request.id in variant.parked:
            demand = pending.desk.demand
            if demand.in_flight - demand.running > pending.desk.capacity:
                self._shed(pending)
        if shadow is not None:
            self._cast_shadow(pending, shadow, now)

    def _shed(self, pending: Pending, detail: str | None = None) -> None:
        """One bound over all that waits, here and in the batcher's queues: beyond it one is turned away at once.

        `detail`: why it is given up, where a policy of its queue did that.
        """
        full = f"{pending.desk.capacity} requests wait already (queue_capacity)"
        self._come_to_nothing(pending, "shed", detail or full)

    # --- out ---------------------------------------------------------------------------------------------------

    def on_tokens_generated(self, message: TokensGenerated) -> None:
        """Pass output tokens on.

        What a client has it never gets again, and what was lost on the way it gets from the answer. Of several attempts
        the first to have a token is the one that is heard.
        """
        now = self.ctx.now
        for item in message.tokens:
            pending = self.pending.get(item.request_id)
            attempt = None if pending is None else pending.lead
            if pending is not None and (attempt is None or attempt.ticket != item.ticket):
                attempt = pending.other(item.ticket)
            if pending is None or attempt is None or attempt.replica != message.replica:
                if item.ticket not in self.shadows:
                    self._telemetry.counters["late_tokens"] += 1
                continue
            if pending.others:
                self._put_first(pending, attempt, now)
                self._withdraw_others(pending, now)
            first = not attempt.first_token
            pending.heard(attempt, message.replica, item.start + max(1, len(item.ids)), now)
            if pending.muted or (not first and pending.tokens is None):
                continue  # its client is not to hear it yet; or a policy listens, and no client
            streamed = pending.pass_on(item.start, item.ids)
            if streamed is None:
                self._telemetry.counters["tokens_out_of_order"] += 1
            else:
                self.ctx.send(pending.reply_to, streamed)

    def on_attempts_ended(self, message: AttemptsEnded) -> None:
        work = message.work
        desk = None
        if message.replica is not None:
            desk = self._desk_of(message.replica)
            view = None if desk is None else desk.roster.views.get(message.replica)
            if view is not None and desk is not None:
                if message.dispatched:
                    force_setattr(view, "capacity", self._signals.room(message.replica))
                if desk.late is None or message.dispatched:
                    force_setattr(view, "in_flight", view.in_flight - len(work))
        if message.failure is not None:
            self._attempts_failed(message)
            return
        if desk is not None:
            self._answered(message, desk)

    def _answered(self, message: AttemptsEnded, desk: Desk) -> None:
        """These completed, all at one replica of this pool."""
        work, find, end = message.work, self.pending.get, self._end
        size, service_s, cold, now = len(work), message.service_s, message.cold, self.ctx.now
        ended, judging, demand = 0, self._slo is not None, desk.demand
        listened, escalates, latency = desk.hooks.of_attempts, desk.escalates, demand.e2e_s.append
        results: Iterable[Payload | None] = message.results or repeat(None)
        usages: Iterable[Usage | None] = message.usage or repeat(None)
        rated: Iterable[float | None] = message.quality or repeat(None)
        for item, result, usage, quality in zip(work, results, usages, rated, strict=False):
            request = item.request
            pending = find(request.id)
            attempt = None if pending is None else pending.lead
            if pending is None or attempt is None or attempt.ticket != item.ticket:
                attempt = None if pending is None else pending.other(item.ticket)
                if pending is None or attempt is None:
                    self._late(item.ticket, message, usage, quality)
                    continue
                self._put_first(pending, attempt, now)
            if listened:
                pending.attempt_ended(attempt, None, now, service_s, usage, quality)
            if escalates and self._escalated(
                pending, Answer(attempt, pending.variant, size, service_s, cold, result, usage, quality)
            ):
                continue
            if pending.tokens is not None and (rest := pending.rest_of(result)) is not None:
                self.ctx.send(pending.reply_to, rest)
            ended += 1
            latency(now - request.arrived_s)
            met = None
            if usage is not None or judging or request.slo is not None:
                met = demand.judge(request, "completed", pending.first_token_s, usage, now)
            end(pending, "completed", size, service_s, cold, None, result, usage, quality, met)
        if ended:
            self.running -= ended
            demand.completed(ended, now)

    def _late(self, ticket: int, message: AttemptsEnded, usage: Usage | None, quality: float | None) -> None:
        """The answer of a shadow, or of an attempt that nobody waits for any more."""
        if not self._shadow_ended(ticket, message, usage, quality):
            self._telemetry.counters["late_answers"] += 1
            self._log.ended(ticket, message, usage, self.ctx.now)

    def _attempts_failed(self, message: AttemptsEnded) -> None:
        now, failure = self.ctx.now, message.failure
        usages: Iterable[Usage | None] = message.usage or repeat(None)
        for item, usage in zip(message.work, usages, strict=False):
            pending = self.pending.get(item.request.id)
            attempt = None if pending is None else pending.lead
            if pending is not None and (attempt is None or attempt.ticket != item.ticket):
                attempt = pending.other(item.ticket)
            if pending is None or attempt is None:
                if self._shadow_ended(item.ticket, message, usage, None):
                    continue
                self._log.ended(item.ticket, message, usage, now)
                if failure != "withdrawn":
                    self._telemetry.counters["late_answers"] += 1
            elif failure == "overloaded":
                self._overloaded(pending, attempt, message.detail, now)
            elif failure == "moved" or failure == "withdrawn":  # noqa: PLR1714  # narrows the type below
                self._moved(pending, attempt, now)
            elif failure is not None:
                self._failed(pending, attempt, failure, message.detail, message.service_s)

    def _overloaded(self, pending: Pending, attempt: Attempt, detail: str | None, now: float) -> None:
        """Its pool's queue is full, or a policy of its queue gave it up, as `detail` says.

        The request is turned away, or one attempt that is more than it needs is not made.
        """
        if pending.variant.early or attempt.started_s is not None:
            pending.attempt_ended(attempt, "overloaded", now)
        if len(pending.live()) > 1:
            self._never_ran(pending, attempt)
            if pending.hedge is not None:
                pending.hedge.cancel()  # the next one would not either
                pending.hedge = None
            self._drop(pending, attempt, now)
            self._telemetry.counters["hedges_overloaded"] += 1
            return
        self._shed(pending, detail)

    def _moved(self, pending: Pending, attempt: Attempt, now: float) -> None:
        """Its replica drains, or is not to be trusted, and it had not begun: elsewhere, at no cost in attempts."""
        if pending.variant.early or attempt.started_s is not None:
            pending.attempt_ended(attempt, "withdrawn", now)
        if attempt.limit is not None:
            attempt.limit.cancel()
        self._drop(pending, attempt, now)
        self._telemetry.counters["moved"] += 1
        if pending.lead is None:
            pending.never_ran(attempt)
            pending.role = attempt.role
            self._place(pending, now)
        else:
            self._never_ran(pending, attempt)

    def _never_ran(self, pending: Pending, attempt: Attempt) -> None:
        """It was none, and nothing comes in its place: others are live."""
        pending.never_ran(attempt)
        if attempt.role in HEDGES:
            self._telemetry.counters["hedges"] -= 1

    def _failed(
        self,
        pending: Pending,
        attempt: Attempt,
        kind: FailureKind,
        detail: str | None,
        service_s: float | None = None,
    ) -> None:
        request, now = pending.request, self.ctx.now
        if attempt.limit is not None:
            attempt.limit.cancel()
        if kind != "timed-out":  # of that it was told as it was withdrawn
            pending.attempt_ended(attempt, kind, now)
            self._log.write(request.id, attempt, kind, now, service_s)
        replica = attempt.replica
        if kind == "replica-lost" and pending.lost_with(replica) >= self._poison_limit:
            self._telemetry.counters["poisoned"] += 1
            why = f"poison: its attempts ended with the loss of {', '.join(pending.lost)}"
            self._telemetry.decided(now, "retry", request.id, "GiveUp", reason=why)
            self._put_first(pending, attempt, now)  # whatever else is live is withdrawn
            self._come_to_nothing(pending, "failed", why)
            return
        if len(pending.live()) > 1:
            self._drop(pending, attempt, now)  # another one is under way already
            return
        failure = Failure(
            kind=kind, attempt=pending.attempts, replica=replica, detail=detail, completions=self.ended["completed"],
        )  # fmt: skip
        try:
            decision = self._retry.after_failure(request, failure, now)
        except Exception as error:
            raise blaming(self._retry, error, request.id, now) from error
        if isinstance(decision, Retry):
            demand_sound(decision, self._retry, request)
            self._try_again(pending, attempt, decision, kind)
            return
        if not isinstance(decision, GiveUp):
            raise PolicyError(
                f"retry policy {self._retry.name()} answered {decision!r} for request {request.id!r}; "
                "expected Retry or GiveUp"
            )
        self._telemetry.decided(now, "retry", request.id, "GiveUp", reason=decision.reason or kind)
        self._come_to_nothing(pending, "failed", f"{kind}: {detail}" if detail else kind)

    def _try_again(self, pending: Pending, attempt: Attempt, decision: Retry, kind: FailureKind) -> None:
        request, now = pending.request, self.ctx.now
        self._drop(pending, attempt, now)
        if pending.hedge is not None:
            pending.hedge.cancel()
        if pending.desk.demand.waiting > pending.desk.capacity:
            self._shed(pending)
            return
        self._telemetry.counters["retries"] += 1
        self._telemetry.decided(
            now, "retry", request.id, "Retry", value=decision.after_s, reason=decision.reason or kind
        )
        pending.exclude, pending.role = decision.exclude, "retry"
        if decision.after_s > 0.0:
            pending.resting = True
            pending.variant.parked[request.id] = pending
            pending.timer = self.ctx.after(decision.after_s, Tick("place", request.id, pending.ticket))
        else:
            self._place(pending, now)

    # --- told from outside -------------------------------------------------------------------------------------

    def on_tick(self, message: Tick) -> None:
        if message.what == "admit":
            self._on_lobby_tick(message.key)
            return
        pending = self.pending.get(message.key)
        if pending is None:
            return
        now = self.ctx.now
        if message.what == "deadline":
            self._abandon(pending, "expired", self._why_expired(pending))
        elif message.what == "hedge":
            hedging, pending.hedging, pending.hedge = pending.hedging, None, None
            if hedging is not None:
                self._hedge(pending, hedging, now)
        elif message.what == "limit":
            attempt = next((item for item in pending.live() if item.ticket == message.number), None)
            if attempt is not None:
                self._withdraw(pending, attempt, now, "timed-out")
                self._failed(pending, attempt, "timed-out", "it took longer than one attempt may")
        elif pending.ticket == message.number and pending.lead is None:
            pending.variant.parked.pop(message.key, None)
            pending.timer, pending.resting = None, False
            self._place(pending, now)

    def _why_expired(self, pending: Pending) -> str:
        failure = self._start_failures.get(pending.desk.pool.name)
        if failure is None or pending.running:
            return "its deadline passed"
        return f"its deadline passed while no replica was ready: {failure}"

    def on_cancel(self, message: Cancel) -> None:
        pending = self.pending.get(message.request_id)
        delayed = self.lobby.get(message.request_id)
        theirs = pending or (None if delayed is None else delayed.message)
        if theirs is None:
            return
        if message.reply_to is not None and message.reply_to != theirs.reply_to:
            self._telemetry.counters["foreign_cancels"] += 1
        elif pending is not None:
            self._abandon(pending, "cancelled", "the client cancelled it")
        elif delayed is not None:
            self._leave_lobby(delayed, "cancelled", "the client cancelled it")

    def on_confirm_requests(self, message: ConfirmRequests) -> None:
        """A client asks whether its requests are still here, and whether anything is being done."""
        missing = []
        for request_id in message.requests:
            delayed = self.lobby.get(request_id)
            known = self.pending.get(request_id) or (None if delayed is None else delayed.message)
            if known is None or known.reply_to != message.reply_to:
                missing.append(request_id)
        working = any(view.busy_fraction or view.state == "loading" for view in self.views())
        self.ctx.send(message.reply_to, RequestsConfirmed(tuple(missing), working))

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

    def waiting(self) -> list[str]:
        """Who waits for what, for the deadlock report."""
        first = list(self.pending.items())[:20]
        delayed = list(self.lobby)[: 20 - len(first)]
        return [
            *(f"request {request_id} waits for {pending.waits_for}" for request_id, pending in first),
            *(f"request {request_id} waits to be let in" for request_id in delayed),
        ]
