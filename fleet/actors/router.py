"""The router owns the request: it lets it in, sends it on, tries again, and is the only actor that may end one.

A request is *pending* from its `Submit` to its one `Reply`. It has one attempt or more; the first good one ends it, and
the others are withdrawn at that moment. Each attempt has a ticket; an answer that carries no ticket of a live one belongs
to an abandoned attempt and is counted and dropped.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count, repeat
from typing import Any

from msgspec.structs import force_setattr, replace

from fleet.actor import Actor, Context
from fleet.actors.attempts import AttemptLog
from fleet.actors.catalogue import Catalogue, Model, Refusal
from fleet.actors.hearing import Announcer, Calls, Hooks, telling
from fleet.actors.operations import (
    DescribeServing,
    MoveRollout,
    PoolEmptied,
    RetirePool,
    RolloutMoved,
    ServePool,
    ServingDescribed,
    SteerRollout,
)
from fleet.actors.pending import Answer, Attempt, Pending
from fleet.actors.registrar import Signals
from fleet.actors.roster import Roster
from fleet.actors.serving import Desk, Variant
from fleet.blame import blaming, reset, tell
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
from fleet.pools import ModelSpec, Pool, pool_of
from fleet.telemetry.sink import Telemetry
from policies.admission.admit_all import AdmitAll
from policies.base import AdmissionPolicy, PolicyError, RetryPolicy
from policies.decisions import Admit, Degrade, Escalate, Hedge, Hold, Reject, Retry, Route
from policies.views import AnswerView, Failure, FailureKind, FleetView, Outcome, ReplicaView
from traces.schema import Request, Slo

MOST_HOLDS = 100_000
"""Of one request: a policy that holds it more often only looks busy."""
ADMITTED = Admit()
HEALTH = "health"

Served = tuple[Pool, ModelSpec, str, str]
"""A pool, who chooses among the versions and variants of its model, and the addresses of its batcher and autoscaler."""
Listeners = Callable[[Pool], Mapping[str, frozenset[str]]]
"""What the router tells other actors of a pool's requests: the hooks that their policies listen to, by address."""


class Router(Actor):
    """Admission, choice of what serves it, routing, hedging, expiry and retry, in that order of a request's life."""

    def __init__(
        self,
        *,
        admission: AdmissionPolicy,
        retry: RetryPolicy,
        serving: Iterable[Served],
        flat: bool,
        telemetry: Telemetry,
        signals: Signals,
        hear: Listeners,
        default_deadline_s: float | None = None,
        slo: Slo | None = None,
        stamp_arrivals: bool = False,
        poison_limit: int = 3,
        window_s: float = 1.0,
    ) -> None:
        """`flat`: a fleet of one pool that has no name."""
        self._admission, self._retry = admission, retry
        self._admits_all = type(admission) is AdmitAll
        self._limits = type(retry).attempt_limit_s is not RetryPolicy.attempt_limit_s
        self._telemetry, self._signals, self._hear = telemetry, signals, hear
        self._default_deadline_s, self._slo = default_deadline_s, slo
        self._poison_limit = poison_limit
        self._stamp_arrivals = stamp_arrivals
        """Clients have clocks of their own: a request arrives when it is received."""
        self.pending: dict[str, Pending] = {}
        self.flat = flat
        """There is nothing to say of what served a request."""
        self._serving = tuple(serving)
        self.catalogue = Catalogue(telemetry, window_s)
        self._calls: Calls = {}
        self._hooks = Hooks(admission, retry)
        """Of the policies that are the fleet's: who may be chosen in all of it."""
        self._log = AttemptLog(telemetry)
        self.shadows: dict[int, tuple[Request, Attempt]] = {}
        """Live attempts that decide nothing, by ticket; the requests may have ended."""
        self._start_failures: dict[str, str] = {}
        """Why the last start failed, by pool, while none of its replicas may be chosen."""
        self._next_ticket = count(1).__next__
        self.submitted = self.refused = self.running = 0
        """Of those submitted, `refused` were not let in; `running` of those pending are with a replica."""
        self.ended: Counter[Outcome] = Counter()

    def start(self, ctx: Context) -> None:
        self.ctx = ctx
        reset(self._admission, ctx.rng)
        for served in self._serving:
            self._add_pool(*served)
        reset(self._retry, ctx.rng)
        super().start(ctx)

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
            ServePool: self.on_serve_pool,
            RetirePool: self.on_retire_pool,
            PoolEmptied: self.on_pool_emptied,
            SteerRollout: self.on_steer_rollout,
            MoveRollout: self.on_move_rollout,
            DescribeServing: self.on_describe_serving,
            Undeliverable: self.on_undeliverable,
        }
        reached = any(desk.hooks.reaches_others for desk in self.catalogue.desks.values())
        return telling(self, self._calls, handlers) if reached or not self.flat else handlers

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
        if request.id in self.pending:
            self._refuse(message, "rejected", f"a request with id {request.id!r} is pending already")
            return
        decision = ADMITTED if self._admits_all else self._admit(request, now)
        if type(decision) is not Admit:
            if isinstance(decision, Reject):
                self._telemetry.decided(now, "admission", request.id, "Reject", reason=decision.reason)
                self._refuse(message, "rejected", decision.reason)
                return
            request = self._degraded(request, decision, now)
        variant, shadow = self.catalogue.only, None
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
        deadline_s = request.deadline_s if request.deadline_s is not None else self._default_deadline_s
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

    def _admit(self, request: Request, now: float) -> Admit | Reject | Degrade:
        in_flight = len(self.pending)
        only = self.catalogue.only
        ready = len(only.roster.candidates) if only is not None else self._ready_replicas()
        fleet = FleetView(in_flight=in_flight, queue_depth=in_flight - self.running, ready_replicas=ready)
        try:
            return self._admission.admit(request, fleet, now)
        except Exception as error:
            raise blaming(self._admission, error, request.id, now) from error

    def _ready_replicas(self) -> int:
        return sum(len(variant.roster.candidates) for variant in self._variants())

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
        self._end(pending, "shed", detail=f"{pending.desk.capacity} requests wait already (queue_capacity)")

    # --- placing -----------------------------------------------------------------------------------------------

    def _place(self, pending: Pending, now: float, *, new: bool = False) -> None:
        """Start the next attempt, or hold the request until one can start. `new`: it has just come, and may be shed."""
        variant = pending.variant
        replica, desk = None, variant.desk
        if desk is None and not variant.desks:
            self._choose_again(pending, now)
            return
        if variant.early:
            view = self._choose(pending, now)
            if view is None:
                return
            replica = view.id
            desk = desk or self.catalogue.desks[view.pool]
        if desk is None:
            raise PolicyError(
                f"pools {[item.pool.name for item in variant.desks]} are bound late, and nobody chooses"
            )
        if desk is not pending.desk:
            self._move(pending, desk, now, new=new)
        hooks = desk.hooks
        if replica is not None and hooks.on_dispatched:
            hooks.tell("on_dispatched", now, pending.request, replica)
        attempt = pending.begin(desk, replica, self._next_ticket(), now)
        work = pending.work(attempt, each_token=hooks.on_tokens)
        room = desk.capacity - len(variant.parked) if new else UNBOUNDED
        self.ctx.send(desk.batcher, Enqueue(work, replica, room))
        if variant.hedge is not None:
            self._plan_hedge(pending, variant, now)
        if self._limits:
            self._limit(pending, attempt, now)

    def _choose(self, pending: Pending, now: float) -> ReplicaView | None:
        """Ask the routing policy; None when the request is held or was rejected."""
        request, variant = pending.request, pending.variant
        candidates = variant.candidates(request, pending.exclude, now)
        if not candidates:
            self._hold(pending)
            return None
        slot = "breaker"
        decision: object = candidates
        if isinstance(candidates, tuple):
            slot, decision = "routing", variant.route(request, candidates, now)
            if type(decision) is Route:
                view = variant.chosen(decision, candidates, request, now)
                force_setattr(view, "in_flight", view.in_flight + 1)
                self._telemetry.routed(now, request.id, decision, now - view.as_of_s)
                return view
        asked = variant.breaker if slot == "breaker" and variant.breaker is not None else variant.routing
        policy = f"{slot} policy {asked.name()}"
        if isinstance(decision, Hold):
            variant.demand_future(decision, policy, request, now)
            pending.holds += 1
            if pending.holds > MOST_HOLDS:
                raise PolicyError(
                    f"{policy} held request {request.id!r} {MOST_HOLDS:,} times, "
                    f"the last time for {decision.until_s - now:.3g} s; it would never be placed"
                )
            self._telemetry.decided(
                now, slot, request.id, "Hold", value=decision.until_s, reason=decision.reason
            )
            self._hold(pending)
            pending.timer = self.ctx.after(decision.until_s - now, Tick("place", request.id, pending.ticket))
            return None
        if isinstance(decision, Reject):
            self._telemetry.decided(now, slot, request.id, "Reject", reason=decision.reason)
            self._come_to_nothing(pending, "rejected", decision.reason)
            return None
        raise PolicyError(f"{policy} answered {decision!r}; expected Route, Hold or Reject")

    def _hold(self, pending: Pending) -> None:
        pending.replica = None
        pending.variant.parked[pending.request.id] = pending

    def _release(self, variant: Variant) -> None:
        """The candidates changed: try everything that is held, in order."""
        for pending in [pending for pending in variant.parked.values() if not pending.resting]:
            del variant.parked[pending.request.id]
            self._unset(pending)
            self._place(pending, self.ctx.now)

    def _move(self, pending: Pending, desk: Desk, now: float, *, new: bool = False) -> None:
        """It counts in the demand of this pool from now on. `new`: it never did in that of another."""
        before, running = pending.desk, pending.running > 0
        if before is desk:
            return
        before.demand.uncount(now) if new else before.demand.went(running, now)
        desk.demand.came(now)
        if running:
            desk.demand.started(1, now)
        before.open.pop(pending.request.id, None)
        if not self.flat:
            desk.open[pending.request.id] = pending
        pending.desk = desk

    def _choose_again(self, pending: Pending, now: float) -> None:
        """What was to serve it is served no more."""
        choice = self.catalogue.choose(pending.request, now)
        if isinstance(choice, Refusal):
            detail = f"what was to serve it is served no more, and {choice.reason or 'nothing else may'}"
            self._come_to_nothing(pending, "failed", detail)
            return
        variant = choice.variant
        pending.variant = variant
        variant.let_in += 1
        pending.muted = variant.escalates and not pending.tokens
        self._move(pending, variant.desk or variant.desks[0], now)
        self._place(pending, now)

    # --- more than one attempt ---------------------------------------------------------------------------------

    def _plan_hedge(self, pending: Pending, variant: Variant, now: float) -> None:
        """Ask when there is to be another attempt beside those that it has."""
        policy, request = variant.hedge, pending.request
        if policy is None:
            return
        try:
            decision = policy.after_s(request, [attempt.view() for attempt in pending.live()], now)
        except Exception as error:
            raise blaming(policy, error, request.id, now) from error
        if decision is None:
            return
        if not isinstance(decision, Hedge) or not 0.0 <= decision.after_s < 1e9:  # 30 years
            raise PolicyError(
                f"hedge policy {policy.name()} answered {decision!r} for request {request.id!r}; "
                "expected None or a Hedge with after_s >= 0"
            )
        if pending.hedge is not None:
            pending.hedge.cancel()
        pending.hedging = decision
        pending.hedge = self.ctx.after(decision.after_s, Tick("hedge", request.id, pending.ticket))

    def _hedge(self, pending: Pending, decision: Hedge, now: float) -> None:
        """The time has come: one more attempt, if there is anybody to make it."""
        variant, request, counters = pending.variant, pending.request, self._telemetry.counters
        live = pending.live()
        if not live or (decision.tied and pending.running) or any(attempt.first_token for attempt in live):
            return  # it is held; or one that is tied comes too late, as does any after the first token
        budget = None if variant.hedge is None else variant.hedge.budget_ratio
        if budget is not None and variant.hedges + 1 > budget * variant.let_in:
            counters["hedges_over_budget"] += 1
            return
        there = {attempt.replica for attempt in live} | set(decision.exclude)
        candidates = variant.candidates(request, (), now)
        if isinstance(candidates, tuple):
            candidates = tuple(view for view in candidates if view.id not in there)
        route = (
            variant.route(request, candidates, now) if isinstance(candidates, tuple) and candidates else None
        )
        if not isinstance(route, Route) or not isinstance(candidates, tuple):
            counters["hedges_without_replica"] += 1
            return
        view = variant.chosen(route, candidates, request, now)
        variant.hedges += 1
        counters["hedges"] += 1
        attempt = self._join(pending, "tied" if decision.tied else "hedge", view, route, now)
        if decision.tied:
            for item in (*live, attempt):
                item.tied = True
        self._telemetry.decided(
            now,
            "hedge",
            request.id,
            "Hedge",
            choice=view.id,
            value=now - live[0].sent_s,
            reason=decision.reason,
        )
        self._plan_hedge(pending, variant, now)

    def _join(self, pending: Pending, role: Any, view: ReplicaView, route: Route, now: float) -> Attempt:
        """Send one more attempt beside those that are live."""
        desk = self.catalogue.desks[view.pool]
        force_setattr(view, "in_flight", view.in_flight + 1)
        self._telemetry.routed(now, pending.request.id, route, now - view.as_of_s)
        if desk.hooks.on_dispatched:
            desk.hooks.tell("on_dispatched", now, pending.request, view.id)
        attempt = pending.join(role, desk, view.id, self._next_ticket(), now)
        work = pending.work(attempt, each_token=desk.hooks.on_tokens)
        self.ctx.send(desk.batcher, Enqueue(work, view.id, desk.capacity))
        if self._limits:
            self._limit(pending, attempt, now)
        return attempt

    def _limit(self, pending: Pending, attempt: Attempt, now: float) -> None:
        """Give this attempt as long as the retry policy says."""
        try:
            limit_s = self._retry.attempt_limit_s(pending.request, attempt.number, now)
        except Exception as error:
            raise blaming(self._retry, error, pending.request.id, now) from error
        if limit_s is None:
            return
        if not 0.0 < limit_s < 1e9:  # 30 years
            raise PolicyError(
                f"retry policy {self._retry.name()} gave an attempt at {pending.request.id!r} {limit_s!r} s; "
                "expected None or a time above 0"
            )
        attempt.limit = self.ctx.after(limit_s, Tick("limit", pending.request.id, attempt.ticket))

    def _withdraw(
        self, pending: Pending, attempt: Attempt, now: float, end: FailureKind = "withdrawn"
    ) -> None:
        """Nobody wants this attempt any more: its batcher is told, and whoever heard that it was sent hears that too."""
        if attempt.limit is not None:
            attempt.limit.cancel()
        if attempt.replica is not None and (pending.variant.early or attempt.started_s is not None):
            pending.attempt_ended(attempt, end, now)
        self._log.leave(pending.request.id, attempt, end)
        self.ctx.send(attempt.desk.batcher, Dequeue(pending.request.id, attempt.ticket, attempt.replica))

    def _withdraw_others(self, pending: Pending, now: float) -> None:
        """One attempt has won."""
        for attempt in pending.others:
            self._withdraw(pending, attempt, now)
            pending.drop(attempt)

    def _won(self, pending: Pending, attempt: Attempt, now: float) -> None:
        """This attempt is the one that counts, whichever was first."""
        if attempt.role in ("hedge", "tied"):
            self._telemetry.counters["hedges_won"] += 1
        pending.lead_by(attempt)
        if attempt.desk is not pending.desk:
            self._move(pending, attempt.desk, now)

    def _cast_shadow(self, pending: Pending, variant: Variant, now: float) -> None:
        """Have another version answer it too. Where that cannot take it now, it does not: nobody waits for a shadow."""
        request = pending.request
        candidates = variant.candidates(request, (), now) if variant.early else ()
        desk = variant.desk
        route = view = None
        if variant.early:
            if isinstance(candidates, tuple) and candidates:
                decision = variant.route(request, candidates, now)
                route = decision if isinstance(decision, Route) else None
            if route is not None and isinstance(candidates, tuple):
                view = variant.chosen(route, candidates, request, now)
                desk = self.catalogue.desks[view.pool]
        if desk is None or (variant.early and view is None):
            self._telemetry.counters["shadows_dropped"] += 1
            return
        attempt = Attempt(self._next_ticket(), "shadow", 1, desk, None if view is None else view.id, now)
        if view is not None and route is not None:
            force_setattr(view, "in_flight", view.in_flight + 1)
            self._telemetry.routed(now, request.id, route, now - view.as_of_s)
            if desk.hooks.on_dispatched:
                desk.hooks.tell("on_dispatched", now, request, view.id)
        self._telemetry.counters["shadows"] += 1
        self.shadows[attempt.ticket] = (request, attempt)
        desk.demand.came(now)
        work = replace(pending.work(attempt, each_token=False), stream=False, resume=())
        self.ctx.send(desk.batcher, Enqueue(work, attempt.replica, desk.capacity))

    def _shadow_ended(
        self, ticket: int, message: AttemptsEnded, usage: Usage | None, quality: float | None
    ) -> bool:
        """Write down what came of a shadow, if it is one."""
        found = self.shadows.pop(ticket, None)
        if found is None:
            return False
        request, attempt = found
        now, failure = self.ctx.now, message.failure
        demand = attempt.desk.demand
        if failure is None:
            demand.completed(1, now)
        else:
            demand.came_to_nothing(attempt.started_s is not None, now)
        kind: FailureKind | None = "withdrawn" if failure == "moved" else failure
        self._log.write(request.id, attempt, kind or "completed", now, message.service_s or None, usage)
        if attempt.desk.hooks.on_completed and attempt.replica is not None:
            alone = Pending(
                request, "", None, None, (), self.catalogue.variants[attempt.desk.pool.name], attempt.desk
            )
            alone.attempt_ended(attempt, kind, now, message.service_s, usage, quality)
        return True

    # --- out ---------------------------------------------------------------------------------------------------

    def _desk_of(self, replica: str) -> Desk | None:
        only = self.catalogue.only
        if self.flat and only is not None:
            return only.desk
        return self.catalogue.desks.get(pool_of(replica))

    def on_dispatched(self, message: Dispatched) -> None:
        desk = self._desk_of(message.replica)
        if desk is None:
            return
        variant = self.catalogue.variants[desk.pool.name]
        late = not variant.early
        if late:
            view = variant.roster.views.get(message.replica)
            if view is not None:
                force_setattr(view, "in_flight", view.in_flight + len(message.work))
        find, replica, started, now = self.pending.get, message.replica, 0, self.ctx.now
        for work in message.work:
            pending = find(work.request.id)
            attempt = None if pending is None else pending.lead
            if pending is None or attempt is None or attempt.ticket != work.ticket:
                self._other_dispatched(pending, work.ticket, replica)
                continue
            if pending.running == 0:
                started += 1
            pending.running += 1
            attempt.replica, attempt.started_s = replica, now
            if attempt.tied:
                self._tied_began(pending, attempt, now)
            if late:
                self._bound_late(pending, replica)
        self.running += started
        desk.demand.started(started, now)

    def _other_dispatched(self, pending: Pending | None, ticket: int, replica: str) -> None:
        """An attempt beside the first one, a shadow, or one that was abandoned."""
        now = self.ctx.now
        attempt = None if pending is None else pending.other(ticket)
        if pending is not None and attempt is not None:
            if pending.running == 0:
                self.running += 1
                pending.desk.demand.started(1, now)
            pending.running += 1
            attempt.replica, attempt.started_s = replica, now
            if attempt.tied:
                self._tied_began(pending, attempt, now)
        elif ticket in self.shadows:
            request, shadow = self.shadows[ticket]
            told = shadow.replica is not None
            shadow.replica, shadow.started_s = replica, now
            shadow.desk.demand.started(1, now)
            if not told and shadow.desk.hooks.on_dispatched:
                shadow.desk.hooks.tell("on_dispatched", now, request, replica)

    def _tied_began(self, pending: Pending, attempt: Attempt, now: float) -> None:
        """The first of tied attempts that begins to run is the one."""
        for other in pending.live():
            if other is not attempt and other.tied:
                self._withdraw(pending, other, now)
                pending.drop(other)
        self._won(pending, attempt, now)

    def _bound_late(self, pending: Pending, replica: str) -> None:
        if replica in pending.exclude:  # whoever is free takes the batch
            self._telemetry.counters["excludes_ignored"] += 1
        hooks = pending.desk.hooks
        if hooks.on_dispatched:
            hooks.tell("on_dispatched", self.ctx.now, pending.request, replica)

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
                self._won(pending, attempt, now)
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
        desk = variant = None
        if message.replica is not None:
            desk = self._desk_of(message.replica)
            if desk is not None:
                variant = self.catalogue.variants[desk.pool.name]
                view = variant.roster.views.get(message.replica)
                if view is not None and (variant.early or message.dispatched):
                    force_setattr(view, "in_flight", view.in_flight - len(work))
        if message.failure is not None:
            self._attempts_failed(message)
            return
        find, end = self.pending.get, self._end
        size, service_s, cold, now = len(work), message.service_s, message.cold, self.ctx.now
        ended, judging = 0, self._slo is not None
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
                self._won(pending, attempt, now)
            desk = attempt.desk
            if desk.hooks.of_attempts:
                pending.attempt_ended(attempt, None, now, service_s, usage, quality)
            if pending.variant.escalates and self._escalated(
                pending, Answer(attempt, pending.variant, size, service_s, cold, result, usage, quality)
            ):
                continue
            if pending.tokens is not None and (rest := pending.rest_of(result)) is not None:
                self.ctx.send(pending.reply_to, rest)
            ended += 1
            desk.demand.e2e_s.append(now - request.arrived_s)
            met = None
            if usage is not None or judging or request.slo is not None:
                met = desk.demand.judge(request, "completed", pending.first_token_s, usage, now)
            end(pending, "completed", size, service_s, cold, None, result, usage, quality, met)
        if ended and desk is not None:
            self.running -= ended
            desk.demand.completed(ended, now)

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
                self._overloaded(pending, attempt, now)
            elif failure == "moved" or failure == "withdrawn":  # noqa: PLR1714  # narrows the type below
                self._moved(pending, attempt, now)
            elif failure is not None:
                self._failed(pending, attempt, failure, message.detail)

    def _overloaded(self, pending: Pending, attempt: Attempt, now: float) -> None:
        """Its pool's queue is full: the request is turned away, or one that is more than it needs is not made."""
        if pending.variant.early or attempt.started_s is not None:
            pending.attempt_ended(attempt, "overloaded", now)
        if len(pending.live()) > 1:
            pending.attempts -= 1  # it never waited
            self._drop(pending, attempt, now)
            self._telemetry.counters["hedges_overloaded"] += 1
            return
        self._shed(pending)

    def _moved(self, pending: Pending, attempt: Attempt, now: float) -> None:
        """Its replica drains, or is not to be trusted, and it had not begun: elsewhere, at no cost in attempts."""
        if pending.variant.early or attempt.started_s is not None:
            pending.attempt_ended(attempt, "withdrawn", now)
        if attempt.limit is not None:
            attempt.limit.cancel()
        self._drop(pending, attempt, now)
        pending.attempts -= 1  # it never ran
        self._telemetry.counters["moved"] += 1
        if pending.lead is None:
            pending.role = attempt.role
            self._place(pending, now)

    def _drop(self, pending: Pending, attempt: Attempt, now: float) -> None:
        """This attempt is live no more; the request goes on with what it has, or waits."""
        was_running = pending.running > 0
        pending.drop(attempt)
        if was_running and pending.running == 0:
            self.running -= 1
            pending.desk.demand.stopped(now)
        lead = pending.lead
        if lead is not None and lead.desk is not pending.desk:
            self._move(pending, lead.desk, now)

    def _failed(self, pending: Pending, attempt: Attempt, kind: FailureKind, detail: str | None) -> None:
        request, now = pending.request, self.ctx.now
        if attempt.limit is not None:
            attempt.limit.cancel()
        if kind != "timed-out":  # of that it was told as it was withdrawn
            pending.attempt_ended(attempt, kind, now)
            self._log.write(request.id, attempt, kind, now)
        replica = attempt.replica
        if kind == "replica-lost" and pending.lost_with(replica) >= self._poison_limit:
            self._telemetry.counters["poisoned"] += 1
            why = f"poison: its attempts ended with the loss of {', '.join(pending.lost)}"
            self._telemetry.decided(now, "retry", request.id, "GiveUp", reason=why)
            if attempt is not pending.lead:
                self._drop(pending, attempt, now)
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
            self._try_again(pending, attempt, decision, kind)
            return
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

    # --- escalation --------------------------------------------------------------------------------------------

    def _escalated(self, pending: Pending, answer: Answer) -> bool:
        """Ask whether an answer is good enough; False: it is, and the client gets it."""
        variant, request, now = pending.variant, pending.request, self.ctx.now
        model = self.catalogue.models.get(variant.model)
        if model is None or variant.version not in model.versions:
            return False
        policy, usage = model.variants_policy, answer.usage
        view = AnswerView(
            variant=variant.name, replica=answer.attempt.replica or "", e2e_s=now - request.arrived_s,
            quality=answer.quality, output_tokens=None if usage is None else usage.output_tokens,
        )  # fmt: skip
        views = self.catalogue.variant_views(model, variant.version, now)
        try:
            decision = policy.after_answer(request, view, views, now)
        except Exception as error:
            raise blaming(policy, error, request.id, now) from error
        if decision is None:
            return False
        if not isinstance(decision, Escalate):
            raise PolicyError(
                f"variants policy {policy.name()} answered {decision!r}; expected Escalate or None"
            )
        pending.asked += (variant.name,)
        chosen = model.versions[variant.version].get(decision.variant)
        if chosen is None or decision.variant in pending.asked:
            raise PolicyError(
                f"variants policy {policy.name()} escalated request {request.id!r} to {decision.variant!r}, which is "
                f"not served or was asked already (served: {', '.join(model.versions[variant.version])}; "
                f"asked: {', '.join(pending.asked)})"
            )
        target = chosen.desk or chosen.desks[0]
        if target.demand.waiting >= target.capacity:
            self._telemetry.counters["escalations_overloaded"] += 1
            return False  # it would be shed, with an answer in hand
        self._telemetry.counters["escalations"] += 1
        self._telemetry.decided(
            now, "variants", request.id, "Escalate", choice=decision.variant, value=answer.quality,
            reason=decision.reason,
        )  # fmt: skip
        self._log.write(request.id, answer.attempt, "completed", now, answer.service_s, usage)
        self._withdraw_others(pending, now)
        if answer.attempt.limit is not None:
            answer.attempt.limit.cancel()
        if pending.hedge is not None:
            pending.hedge.cancel()
        self._drop(pending, answer.attempt, now)
        pending.fallback, pending.variant, pending.role, pending.exclude = answer, chosen, "escalation", ()
        chosen.let_in += 1
        self._move(pending, target, now)
        self._place(pending, now)
        return True

    def _fall_back(self, pending: Pending, answer: Answer, now: float) -> None:
        """Nothing better came: the client gets the answer that was there."""
        pending.fallback = None
        attempt, usage, request = answer.attempt, answer.usage, pending.request
        for live in pending.live():
            self._withdraw(pending, live, now)
            self._drop(pending, live, now)
        self._unset(pending)
        pending.variant.parked.pop(request.id, None)
        pending.variant = answer.variant
        self._move(pending, attempt.desk, now)
        attempt.started_s = attempt.started_s if attempt.started_s is not None else now
        pending.lead, pending.running = attempt, 1
        self._telemetry.counters["fell_back"] += 1
        self.running += 1
        demand = attempt.desk.demand
        demand.started(1, now)
        if pending.tokens is not None and (rest := pending.rest_of(answer.result)) is not None:
            self.ctx.send(pending.reply_to, rest)
        demand.e2e_s.append(now - request.arrived_s)
        met = demand.judge(request, "completed", pending.first_token_s, usage, now)
        self._end(
            pending, "completed", answer.batch_size, answer.service_s, answer.cold, None, answer.result, usage,
            answer.quality, met, logged=True,
        )  # fmt: skip
        self.running -= 1
        demand.completed(1, now)

    # --- the end -----------------------------------------------------------------------------------------------

    def _come_to_nothing(
        self,
        pending: Pending,
        outcome: Outcome,
        detail: str | None,
    ) -> None:
        """No attempt will answer it; an answer that was not good enough is better than none."""
        answer, lead, now = pending.fallback, pending.lead, self.ctx.now
        if answer is not None:
            if lead is not None:
                self._drop(pending, lead, now)  # it has just failed
            self._fall_back(pending, answer, now)
        else:
            self._end(pending, outcome, detail=detail)

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
        quality: float | None = None,
        met: bool | None = None,
        logged: bool = False,
    ) -> None:
        """The only place where a request ends."""
        request_id, lead = pending.request.id, pending.lead
        del self.pending[request_id]
        if pending.others:
            self._withdraw_others(pending, self.ctx.now)
        if outcome != "completed":  # those are counted together, as they end
            met = self._count_out(pending, outcome)
        if pending.deadline is not None:
            pending.deadline.cancel()
        if pending.timer is not None:
            self._unset(pending)
        if pending.hedge is not None:
            pending.hedge.cancel()
        variant = pending.variant
        if variant.parked:
            variant.parked.pop(request_id, None)
        self.ended[outcome] += 1
        replica = pending.replica
        if lead is not None:
            replica = lead.replica
            if lead.limit is not None:
                lead.limit.cancel()
            if pending.attempts > 1 and outcome == "completed" and not logged:
                self._log.write(request_id, lead, "completed", self.ctx.now, service_s, usage)
        desk = pending.desk
        if desk.hooks.on_request_ended or variant.window is not None:
            self._tell_ended(pending, outcome, usage, quality, met)
        if self.flat:
            reply = Reply(
                request_id,
                outcome,
                pending.attempts,
                replica,
                batch_size,
                service_s,
                cold,
                detail,
                result,
                usage,
            )
            if quality is not None:
                reply = replace(reply, quality=quality)
        else:
            desk.open.pop(request_id, None)
            pool = desk.pool
            reply = Reply(
                request_id, outcome, pending.attempts, replica, batch_size, service_s, cold, detail, result, usage,
                pool.name, pool.version, pool.variant, quality,
            )  # fmt: skip
        self.ctx.send(pending.reply_to, reply)

    def _count_out(self, pending: Pending, outcome: Outcome) -> bool | None:
        """It ends without an answer; whether it met its objectives all the same, which it did not."""
        now, demand, running = self.ctx.now, pending.desk.demand, pending.running > 0
        self.running -= running
        demand.came_to_nothing(running, now)
        if self._slo is None and pending.request.slo is None:
            return None
        return demand.judge(pending.request, outcome, pending.first_token_s, None, now)

    def _tell_ended(
        self, pending: Pending, outcome: Outcome, usage: Usage | None, quality: float | None, met: bool | None
    ) -> None:
        now, window = self.ctx.now, pending.variant.window
        ending = pending.ending(outcome, usage, now, quality=quality, slo_met=met)
        if window is not None:
            ttft_s = ending.e2e_s if ending.ttft_s is None else ending.ttft_s
            window.request_ended(outcome, ending.e2e_s, ttft_s, met, quality)
        hooks = pending.desk.hooks
        if hooks.on_request_ended:
            hooks.tell("on_request_ended", now, ending)
        model = self.catalogue.models.get(pending.variant.model)
        if model is not None and window is not None:
            self.catalogue.note_stage(model, now)

    def _unset(self, pending: Pending) -> None:
        if pending.timer is not None:
            pending.timer.cancel()
            pending.timer = None

    def on_tick(self, message: Tick) -> None:
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
        working = any(view.busy_fraction or view.state == "loading" for view in self.views())
        self.ctx.send(message.reply_to, RequestsConfirmed(tuple(missing), working))

    def _abandon(self, pending: Pending, outcome: Outcome, detail: str) -> None:
        """It ends without an answer, whatever attempts are under way."""
        answer, now = pending.fallback, self.ctx.now
        if answer is not None and outcome in ("expired", "failed"):
            self._fall_back(pending, answer, now)
            return
        for attempt in pending.live():
            self._withdraw(pending, attempt, now)
        pending.others = ()
        self._end(pending, outcome, detail=detail)

    def abort(self, detail: str) -> None:
        """The fleet stops: end every pending request as failed."""
        for pending in list(self.pending.values()):
            self._end(pending, "failed", detail=detail)

    def close(self) -> None:
        """The run is over: write down the attempts that it cut off."""
        for pending in self.pending.values():
            for attempt in pending.live():
                self._log.write(pending.request.id, attempt, None, None)
        for request, attempt in self.shadows.values():
            self._log.write(request.id, attempt, None, None)
        self._log.close()

    def on_report_pool(self, message: ReportPool) -> None:
        """All that waits is seen: what is held here too, or a pool of no replicas would look like one without work."""
        desk = self.catalogue.desks.get(message.pool)
        if desk is None:
            return
        now = self.ctx.now
        requests = self.pending if self.flat else desk.open
        first = next((pending for pending in requests.values() if not pending.running), None)
        oldest_wait_s = 0.0 if first is None else max(0.0, now - first.request.arrived_s)
        report = desk.demand.report(now, oldest_wait_s=oldest_wait_s)
        self.ctx.send(desk.batcher, ReportPool(message.reply_to, report, message.pool))

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

    # --- pools and replicas ------------------------------------------------------------------------------------

    def _add_pool(self, pool: Pool, spec: ModelSpec, batcher: str, autoscaler: str) -> None:
        catalogue, now = self.catalogue, self.ctx.now
        desk = Desk(pool, batcher=batcher, autoscaler=autoscaler, slo=self._slo)
        variant = catalogue.find(pool)
        if variant is None:
            variant = Variant(pool, Roster(follow=self._signals.show_in))
            for policy in (pool.routing, pool.hedge, pool.breaker):
                reset(policy, self._rng(f"{policy.slot}/{pool.name}"))
        model = catalogue.models.get(pool.model)
        if model is None:
            model = Model(pool.model, spec.rollout, spec.variants)
            reset(spec.rollout, self._rng(f"rollout/{pool.model}"))
            reset(spec.variants, self._rng(f"variants/{pool.model}"))
        catalogue.add(desk, variant, model, now)
        self._hook_up(desk, variant, model)
        catalogue.note_stage(model, now)

    def _rng(self, what: str) -> random.Random:
        """A stream of its own where there are several of each policy: what one draws changes nothing for the others."""
        if self.flat:
            return self.ctx.rng
        if not hasattr(self, "_base"):
            self._base = self.ctx.rng.getrandbits(64)
        return random.Random(f"{self._base}/{what}")

    def _hook_up(self, desk: Desk, variant: Variant, model: Model) -> None:
        """Who hears of a pool's requests."""
        more = [policy for policy in (variant.hedge, variant.breaker) if policy is not None]
        desk.hooks = Announcer(
            self._admission, variant.routing, *more, model.rollout, model.variants_policy, self._retry,
            elsewhere=self._hear(desk.pool), calls=self._calls,
        )  # fmt: skip

    def on_serve_pool(self, message: ServePool) -> None:
        """An operator has deployed it."""
        pool = message.pool
        self.flat = False
        for (
            desk
        ) in self.catalogue.desks.values():  # while there was one pool, its requests were all there were
            desk.open = desk.open or {
                id: pending for id, pending in self.pending.items() if pending.desk is desk
            }
        self._add_pool(pool, message.model, f"batcher/{pool.name}", f"autoscaler/{pool.name}")

    def on_retire_pool(self, message: RetirePool) -> None:
        """What waits for its replicas is moved by its batcher; what waits here for one of them is placed anew."""
        desk = self.catalogue.desks.get(message.pool)
        if desk is None or desk.retired:
            return
        variant = self.catalogue.retire(desk)
        if variant.roster.forget_pool(message.pool):
            self._tell_replicas(variant)
        for pending in list(variant.parked.values()):
            if not pending.resting and not variant.desks:
                del variant.parked[pending.request.id]
                self._unset(pending)
                self._place(pending, self.ctx.now)

    def on_pool_emptied(self, message: PoolEmptied) -> None:
        """It is gone for good."""
        self.catalogue.forget(message.pool)

    def on_steer_rollout(self, message: SteerRollout) -> None:
        """An operator has another policy choose the version."""
        model, now = self.catalogue.models.get(message.model), self.ctx.now
        if model is None:
            return
        reset(message.rollout, self._rng(f"rollout/{model.name}/{now}"))
        self.catalogue.steer(model, message.rollout, now)
        for variant in model.served():
            for desk in variant.desks:
                self._hook_up(desk, variant, model)
        self.catalogue.note_stage(model, now)

    def on_move_rollout(self, message: MoveRollout) -> None:
        """An operator promotes a rollout, or rolls it back."""
        model, now = self.catalogue.models.get(message.model), self.ctx.now
        error = None if model is not None else f"no model {message.model!r} is served"
        if model is not None:
            try:
                (model.rollout.rollback if message.back else model.rollout.promote)(now)
            except PolicyError as refusal:
                error = str(refusal)
            self.catalogue.note_stage(model, now)
        self.ctx.send(message.reply_to, RolloutMoved(message.operation, error))

    def on_describe_serving(self, message: DescribeServing) -> None:
        """An operator asks how things stand."""
        models = self.catalogue.described(self.ctx.now)
        self.ctx.send(message.reply_to, ServingDescribed(message.operation, models))

    def _variant_of(self, replica: str) -> tuple[Variant, Desk] | None:
        """Whose replica it is; None: of a pool that is not served, or no more."""
        desk = self._desk_of(replica)
        return None if desk is None or desk.retired else (self.catalogue.variants[desk.pool.name], desk)

    def on_replica_reported(self, message: ReplicaReported) -> None:
        found = self._variant_of(message.replica)
        if found is not None and found[0].roster.reported(message, self.ctx.now, found[1].pool):
            self._replicas_changed(*found)

    def on_trust_changed(self, message: TrustChanged) -> None:
        found = self._variant_of(message.replica)
        if found is not None and found[0].roster.judged(message.replica, message.trust):
            self._replicas_changed(*found)

    def on_replica_exited(self, message: ReplicaExited) -> None:
        found = self._variant_of(message.replica)
        if found is not None and found[0].roster.exited(message.replica):
            self._replicas_changed(*found)

    def on_start_failed(self, message: StartFailed) -> None:
        """When there is no replica and no start succeeds, what waits for one ends with the reason."""
        desk = self.catalogue.desks.get(message.pool)
        if desk is None:
            return
        variant = self.catalogue.variants[message.pool]
        if any(view.state == "ready" for view in variant.roster.views.values()):
            return
        self._start_failures[message.pool] = message.detail
        if message.hopeless:
            requests = self.pending if self.flat else desk.open
            for pending in [item for item in requests.values() if not item.running]:
                self._abandon(pending, "failed", f"no replica can be started: {message.detail}")

    def _replicas_changed(self, variant: Variant, desk: Desk) -> None:
        if variant.roster.candidates:
            self._start_failures.pop(desk.pool.name, None)
        self._tell_replicas(variant)
        if variant.roster.candidates and variant.parked:
            self._release(variant)

    def _tell_replicas(self, variant: Variant) -> None:
        """The candidates of this variant are others now: each policy hears of those that concern it."""
        now, candidates = self.ctx.now, variant.roster.candidates
        tell(variant.hooks.on_replicas, now, candidates)
        everybody: Sequence[ReplicaView] = candidates
        if not self.flat:
            everybody = [view for item in self._variants() for view in item.roster.candidates]
        tell(self._hooks.on_replicas, now, everybody)
        for desk in variant.desks:
            if desk.hooks.on_replicas and desk.hooks.reaches_others:
                own = [view for view in candidates if view.pool == desk.pool.name]
                desk.hooks.tell_replicas(desk.autoscaler, own)
                desk.hooks.tell_replicas(HEALTH, everybody)

    def _variants(self) -> list[Variant]:
        return list({id(variant): variant for variant in self.catalogue.variants.values()}.values())

    def views(self) -> list[ReplicaView]:
        """All replicas."""
        return [view for variant in self._variants() for view in variant.roster.views.values()]

    def waiting(self) -> list[str]:
        """Who waits for what, for the deadlock report."""
        first = list(self.pending.items())[:20]
        return [f"request {request_id} waits for {pending.waits_for}" for request_id, pending in first]
