"""How a request ends: once, whatever its attempts come to, and with the best answer there is.

A storey of the router, above `placing`: an answer may have to give way to a better one (an escalation), what comes to
nothing may still have an answer to fall back on, and `_end` is the only place where a request leaves.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from msgspec.structs import replace

from fleet.actors.pending import Answer, Pending
from fleet.actors.placing import Placing
from fleet.blame import blaming
from fleet.messages import Payload, Reply, Usage
from policies.base import PolicyError
from policies.decisions import Escalate
from policies.views import AnswerView, Outcome


class Ending(Placing):
    """Escalation, falling back, and the one end of each request."""

    def __init__(self, **options: Any) -> None:  # Any: those of `Front`
        super().__init__(**options)
        self.ended: Counter[Outcome] = Counter()

    # --- an answer that is not good enough ---------------------------------------------------------------------

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
            decision: object = policy.after_answer(request, view, views, now)
        except Exception as error:
            raise blaming(policy, error, request.id, now) from error
        if decision is None:
            return False
        name: object = decision.variant if isinstance(decision, Escalate) else None
        if not isinstance(decision, Escalate) or not isinstance(name, str):
            raise PolicyError(
                f"variants policy {policy.name()} answered {decision!r}; expected None or Escalate with the name of a "
                "variant"
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

    def _end(  # noqa: C901, PLR0912, PLR0917  # called for every request, and keywords and calls cost
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
        request_id, lead, number = pending.request.id, pending.lead, pending.number
        del self.pending[request_id]
        if number > 1 and pending.others:
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
            if number > 1 and outcome == "completed" and not logged:
                self._log.write(request_id, lead, "completed", self.ctx.now, service_s, usage)
        desk = pending.desk
        if desk.hooks.on_request_ended or variant.window is not None:
            self._tell_ended(pending, outcome, usage, quality, met)
        attempts = number - pending.gaps
        if self.flat:
            reply = Reply(
                request_id,
                outcome,
                attempts,
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
                request_id, outcome, attempts, replica, batch_size, service_s, cold, detail, result, usage,
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
            window.request_ended(now, outcome, ending.e2e_s, ttft_s, met, quality)
        hooks = pending.desk.hooks
        if hooks.on_request_ended:
            hooks.tell("on_request_ended", now, ending)
        model = self.catalogue.models.get(pending.variant.model)
        if model is not None and window is not None:
            self.catalogue.note_stage(model, now)

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
