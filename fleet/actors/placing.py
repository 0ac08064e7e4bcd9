"""Sending attempts: the first one, the next after a failure, one more beside those that are slow, and shadows.

The second of the router's four storeys, from below. An attempt goes to a replica that the routing policy chose, or
waits in a pool's one queue; while no replica may be chosen its request is *parked* with its variant.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from itertools import count
from typing import Any

from msgspec.structs import force_setattr, replace

from fleet.actors.attempts import AttemptLog
from fleet.actors.catalogue import Refusal
from fleet.actors.front import Front
from fleet.actors.pending import Attempt, Pending
from fleet.actors.serving import Desk, Variant
from fleet.blame import blaming, tell
from fleet.messages import (
    UNBOUNDED,
    AskLoad,
    AttemptsEnded,
    Dequeue,
    Dispatched,
    Enqueue,
    LoadAnswered,
    Message,
    Tick,
    Usage,
)
from policies.base import BreakerPolicy, HedgePolicy, PolicyError, RetryPolicy, RoutingPolicy
from policies.decisions import Hedge, Hold, Reject, Retry, Route
from policies.views import FailureKind, Outcome, ReplicaLoad, ReplicaView, Role
from traces.schema import Request

MOST_HOLDS = 100_000
"""Of one request: a policy that holds it more often only looks busy."""
MOST_ATTEMPTS = 1_000
"""Likewise: a policy that goes on adding attempts that fail at once only looks busy."""
LONGEST_S = 1e9
"""30 years: what asks for longer has made a mistake."""


def is_time(value: object) -> bool:
    """Whether it is a number of seconds that may pass in a run."""
    return isinstance(value, (int, float)) and 0.0 <= value < LONGEST_S


def demand_sound(decision: Hedge | Retry, policy: HedgePolicy | RetryPolicy, request: Request) -> None:
    """Raises `PolicyError` where another attempt is asked for at no time, or not at what names no replicas."""
    exclude: object = decision.exclude
    if not is_time(decision.after_s):
        wrong = f"after_s is a number of seconds, 0 or more and below {LONGEST_S:g}"
    elif not isinstance(exclude, (tuple, list, set, frozenset)) or not all(
        isinstance(id, str) for id in exclude
    ):
        wrong = "exclude is a tuple of replicas' ids, such as ('replica/0',)"
    else:
        return
    raise PolicyError(
        f"{policy.slot} policy {policy.name()} answered {decision!r} for request {request.id!r}; {wrong}"
    )


class Placing(Front):
    """Attempts, from the choice of a replica to their being withdrawn."""

    def __init__(self, **options: Any) -> None:  # Any: those of `Front`
        super().__init__(**options)
        self._limits = type(self._retry).attempt_limit_s is not RetryPolicy.attempt_limit_s
        self._log = AttemptLog(self._telemetry)
        self.shadows: dict[int, tuple[Request, Attempt]] = {}
        """Live attempts that decide nothing, by ticket; the requests may have ended."""
        self._next_ticket = count(1).__next__
        self.running = 0
        """Of the requests that are pending, those that a replica has."""

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            Dispatched: self.on_dispatched,
            LoadAnswered: self.on_load_answered,
            **super().handlers(),
        }

    @abstractmethod
    def _come_to_nothing(self, pending: Pending, outcome: Outcome, detail: str | None) -> None:
        """No attempt will answer it."""

    # --- the first, or the next after it -----------------------------------------------------------------------

    def _place(self, pending: Pending, now: float, *, new: bool = False) -> None:
        """Start the next attempt, or hold the request until one can start. `new`: it has just come, and may be shed."""
        variant = pending.variant
        replica, desk = None, variant.desk
        if variant.early:
            if desk is None and not variant.desks:
                self._choose_again(pending, now)
                return
            view = self._choose(pending, now)
            if view is None:
                return
            replica = view.id
            desk = desk or self.catalogue.desks[view.pool]
        elif desk is None:
            self._choose_again(pending, now)
            return
        if desk is not pending.desk:
            self._move(pending, desk, now, new=new)
        hooks = desk.hooks
        if replica is not None and hooks.on_dispatched:
            hooks.tell("on_dispatched", now, pending.request, replica)
        work = pending.first(desk, replica, self._next_ticket(), now, hooks.on_tokens)
        room = desk.capacity - len(variant.parked) if new else UNBOUNDED
        self.ctx.send(desk.batcher, Enqueue(work, replica, room))
        if variant.hedge is not None:
            self._plan_hedge(pending, variant, now)
        if self._limits and pending.lead is not None:
            self._limit(pending, pending.lead, now)

    def _choose(self, pending: Pending, now: float) -> ReplicaView | None:
        """Ask the routing policy; None when the request is held or was rejected."""
        request, variant = pending.request, pending.variant
        roster = variant.roster
        if pending.exclude or variant.breaker is not None:
            allowed = variant.candidates(request, pending.exclude, now)
            if not isinstance(allowed, tuple):
                self._not_now(pending, allowed, "breaker", variant.breaker, now)
                return None
            candidates = allowed
        else:
            candidates = roster.candidates
        if not candidates:
            self._hold(pending)
            return None
        if variant.probers:
            for asked in variant.to_probe(request, candidates, now):
                self._telemetry.counters["load_probes"] += 1
                batcher = self.catalogue.desks[asked.pool].batcher
                self.ctx.send(batcher, AskLoad(asked.id, self.ctx.address, now))
        try:
            decision = variant.routing.route(request, candidates, now)
        except Exception as error:
            raise blaming(variant.routing, error, request.id, now) from error
        if type(decision) is not Route:
            self._not_now(pending, decision, "routing", variant.routing, now)
            return None
        view = roster.chosen.get(decision.replica)
        if view is None or candidates is not roster.candidates:
            view = variant.chosen(decision, candidates, request, now)
        force_setattr(view, "in_flight", view.in_flight + 1)
        self._telemetry.routed(now, request.id, decision, now - view.as_of_s)
        return view

    def on_load_answered(self, message: LoadAnswered) -> None:
        """A replica says how much it has to do, to the policy that wanted to know."""
        desk, now = self._desk_of(message.replica), self.ctx.now
        variant = None if desk is None else self.catalogue.variants.get(desk.pool.name)
        if variant is None:
            return
        load = ReplicaLoad(
            replica=message.replica, in_flight=message.in_flight, latency_s=message.latency_s,
            asked_s=min(message.asked_s, now),
        )  # fmt: skip
        tell(variant.hooks.on_load, now, load)

    def _not_now(
        self,
        pending: Pending,
        decision: object,
        slot: str,
        asked: RoutingPolicy | BreakerPolicy | None,
        now: float,
    ) -> None:
        """No replica was chosen: the request is held, or refused."""
        request = pending.request
        policy = f"{slot} policy {'' if asked is None else asked.name()}"
        if isinstance(decision, Hold):
            pending.variant.demand_future(decision, policy, request, now)
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
        elif isinstance(decision, Reject):
            self._telemetry.decided(now, slot, request.id, "Reject", reason=decision.reason)
            self._come_to_nothing(pending, "rejected", decision.reason)
        else:
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

    def _replace(self, pending: Pending) -> None:
        del pending.variant.parked[pending.request.id]
        self._unset(pending)
        self._place(pending, self.ctx.now)

    def _unset(self, pending: Pending) -> None:
        if pending.timer is not None:
            pending.timer.cancel()
            pending.timer = None

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

    # --- one more beside it ------------------------------------------------------------------------------------

    def _plan_hedge(self, pending: Pending, variant: Variant, now: float) -> None:
        """Ask when there is to be another attempt beside those that it has."""
        policy, request = variant.hedge, pending.request
        if policy is None:
            return
        try:
            decision: object = policy.after_s(request, [attempt.view() for attempt in pending.live()], now)
        except Exception as error:
            raise blaming(policy, error, request.id, now) from error
        if decision is None:
            return
        if not isinstance(decision, Hedge):
            raise PolicyError(
                f"hedge policy {policy.name()} answered {decision!r} for request {request.id!r}; "
                "expected None or a Hedge"
            )
        demand_sound(decision, policy, request)
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
        if pending.attempts >= MOST_ATTEMPTS:
            policy = "" if variant.hedge is None else variant.hedge.name()
            raise PolicyError(
                f"hedge policy {policy} added attempts to request {request.id!r} until it had had {MOST_ATTEMPTS:,}"
            )
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

    def _join(self, pending: Pending, role: Role, view: ReplicaView, route: Route, now: float) -> Attempt:
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
        if not is_time(limit_s) or limit_s == 0.0:
            raise PolicyError(
                f"retry policy {self._retry.name()} gave an attempt at {pending.request.id!r} {limit_s!r} s; "
                f"expected None or a time above 0, and below {LONGEST_S:g}"
            )
        attempt.limit = self.ctx.after(limit_s, Tick("limit", pending.request.id, attempt.ticket))

    # --- one fewer ---------------------------------------------------------------------------------------------

    def _withdraw(
        self, pending: Pending, attempt: Attempt, now: float, end: FailureKind = "withdrawn"
    ) -> None:
        """Nobody wants this attempt any more: its batcher is told, and whoever heard that it was sent hears that."""
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

    def _put_first(self, pending: Pending, attempt: Attempt, now: float) -> None:
        """This attempt is the one that counts, whichever was first."""
        pending.lead_by(attempt)
        if attempt.desk is not pending.desk:
            self._move(pending, attempt.desk, now)

    # --- shadows -----------------------------------------------------------------------------------------------

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
        self._log.write(request.id, attempt, kind or "completed", now, message.service_s, usage)
        if attempt.desk.hooks.on_completed and attempt.replica is not None:
            alone = Pending(
                request, "", None, None, (), self.catalogue.variants[attempt.desk.pool.name], attempt.desk
            )
            alone.attempt_ended(attempt, kind, now, message.service_s, usage, quality)
        return True

    # --- at a replica ------------------------------------------------------------------------------------------

    def on_dispatched(self, message: Dispatched) -> None:
        replica, now = message.replica, self.ctx.now
        desk = self._desk_of(replica)
        if desk is None:
            return
        late = desk.late
        view = desk.roster.views.get(replica)
        if view is not None:
            force_setattr(view, "capacity", self._signals.room(replica))
            if late is not None:
                force_setattr(view, "in_flight", view.in_flight + len(message.work))
        find, started = self.pending.get, 0
        for work in message.work:
            pending = find(work.request.id)
            attempt = None if pending is None else pending.lead
            if pending is None or attempt is None or attempt.ticket != work.ticket:
                self._other_dispatched(pending, work.ticket, replica)
                continue
            if not pending.running:
                started += 1
            pending.running += 1
            attempt.replica, attempt.started_s = replica, now
            if attempt.tied:
                self._tied_began(pending, attempt, now)
            if late is not None:
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
        self._put_first(pending, attempt, now)

    def _bound_late(self, pending: Pending, replica: str) -> None:
        if replica in pending.exclude:  # whoever is free takes the batch
            self._telemetry.counters["excludes_ignored"] += 1
        hooks = pending.desk.hooks
        if hooks.on_dispatched:
            hooks.tell("on_dispatched", self.ctx.now, pending.request, replica)
