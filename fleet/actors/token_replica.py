r"""A replica that serves token by token: continuous batching, one step after another.

The actor only carries messages between three parts: the scheduler, which plans with the iteration policy and keeps the
account; the engine, which runs a step; and the fleet, which sends work and gets tokens and answers.

    RunBatch -> scheduler.add        StepRan -> scheduler.ran -> TokensGenerated, BatchFinished
             \-> plan -> engine.run_step -> (StepRan) -> plan -> ...

With asynchronous scheduling a step is planned as it was when the one before it began. Where that makes no difference it
is done later: before whatever comes during the last step, or when that ends.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any

import numpy as np
from msgspec import Struct

from fleet.actor import FleetError, Timer
from fleet.actors.hearing import Hooks
from fleet.actors.replica import Replica, ReplicaSettings
from fleet.blame import reset, tell
from fleet.engines.base import StepEngine
from fleet.messages import (
    BatchFinished,
    CancelBatch,
    InjectSlowness,
    Message,
    Payload,
    Probe,
    ProbeAnswered,
    RunBatch,
    StepRan,
    Tick,
    Tokens,
    TokensGenerated,
    Usage,
    Work,
)
from fleet.tokens.scheduler import StepScheduler
from fleet.tokens.sequence import SequenceState, StepWork
from policies.base import IterationPolicy
from policies.decisions import Wait
from policies.views import Completion, FailureKind, ProbeStatus, StepCompletion, TokenSignals


class Held(Struct):
    """A batch that this replica has not answered in full."""

    reply_to: str
    sequences: dict[int, SequenceState]
    """Those that have not ended, by ticket."""
    several: bool
    """It had more than one, and so each answer says whose it is: those before may have been lost."""


class TokenReplica(Replica):
    """Continuous batching on a `StepEngine`."""

    _engine: StepEngine

    def __init__(
        self,
        settings: ReplicaSettings,
        *,
        router: str = "router",
        reveal: Callable[[str], int | None] | None = None,
        **options: Any,  # Any: those of every replica
    ) -> None:
        super().__init__(settings, **options)
        if settings.iteration is None or settings.eviction is None:
            raise FleetError("a replica that serves token by token needs an iteration and an eviction policy")
        self._router = router
        self._policy: IterationPolicy = settings.iteration.fresh()
        self._eviction = settings.eviction.fresh()
        self._reveal = reveal
        """Simulation: true output lengths, for a policy that declares itself an oracle."""
        self._hooks = Hooks(self._policy, self._eviction)
        self._tells_tokens = bool(self._hooks.on_first_token or self._hooks.on_tokens)
        self._held: dict[int, Held] = {}
        self._ids = 0
        self._streams = False
        """It was ever asked to tell of each token."""
        self._step_s = 0.0
        """When the steps under way began."""
        self._asked: list[Probe] = []
        """Deep probes that the end of the step under way answers."""
        self._ahead = False
        """Asynchronous scheduling."""
        self._stale = False
        """Something came or ended since the next step was planned."""
        self._ran: StepRan | None = None
        """Held back by an injected slowness."""
        self._disowned: int | None = None
        """The step that ran when the engine answered for another one. Its own answer may still come."""
        self._waiting: Timer | None = None
        """The policy said `Wait`."""
        self._outputs: dict[int, list[int]] = {}
        """Output tokens of each sequence, where the engine gives any."""
        self.scheduler: StepScheduler | None = None
        """None until the engine is loaded."""

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {**super().handlers(), StepRan: self.on_step_ran}

    def opened(self) -> None:
        reset(self._policy, self.ctx.rng)
        reset(self._eviction, self.ctx.rng)
        self._ahead = self._engine.plans_ahead(self._policy)
        if self._policy.oracle and self._reveal is not None:
            self._policy.reveal(self._reveal)
        self.scheduler = StepScheduler(
            self._policy, self._engine.open_cache(self._eviction), forget=self._engine.forget
        )

    @property
    def _open(self) -> StepScheduler:
        if self.scheduler is None:
            raise FleetError(f"{self.ctx.address} got work before its engine was loaded")
        return self.scheduler

    # --- work comes and goes -----------------------------------------------------------------------------------

    def batches(self) -> list[int]:
        return list(self._held)

    def attempts(self) -> int:
        return sum(len(held.sequences) for batch, held in self._held.items() if batch > 0)

    def accept(self, message: RunBatch) -> None:
        scheduler, now = self._open, self.ctx.now
        self._look_ahead()
        held = Held(message.reply_to, {}, len(message.work) > 1)
        self._held[message.batch] = held
        refused: list[tuple[SequenceState, str]] = []
        answered: list[SequenceState] = []
        for work in message.work:
            self._streams = self._streams or work.stream
            self._ids += 1
            prompt_tokens, why = self._measured(work)
            sequence = SequenceState(self._ids, work, message.batch, now, prompt_tokens=prompt_tokens)
            sequence.target_tokens = self._engine.output_tokens(work)
            held.sequences[work.ticket] = sequence
            why = why or scheduler.why_never(sequence)
            if self._engine.answered(work):
                answered.append(sequence)
            elif why is None:
                scheduler.add(sequence)
                tell(self._hooks.on_dispatched, now, work.request, self.ctx.address)
            else:
                refused.append((sequence, why))
        for sequence in answered:
            self._outputs[sequence.id] = list(sequence.work.resume)
            self._answer(sequence)
        for sequence, why in refused:
            self._answer(sequence, error=why, refused=True)
        self._changed()

    def _measured(self, work: Work) -> tuple[int | None, str | None]:
        """How long its prompt is, or why the engine cannot take it."""
        try:
            return self._engine.prompt_tokens(work), None
        except FleetError as error:
            return None, str(error)

    def on_cancel_batch(self, message: CancelBatch) -> None:
        held = self._held.get(message.batch)
        if held is None:
            return
        self._look_ahead()
        for ticket in message.tickets or tuple(held.sequences):
            sequence = held.sequences.get(ticket)
            if sequence is not None:
                self._open.remove(sequence, self.ctx.now)
                self._observe(sequence, "withdrawn")
                self._answer(sequence, error="cancelled")
        self._changed()

    def _changed(self) -> None:
        """Plan anew: now if the engine is idle, else as soon as the step that runs has ended."""
        self._stale = True
        if self._open.work is None:
            self._next()
        elif not self._ahead:
            self._engine.interrupt()
        self._stop_if_empty()

    def _look_ahead(self) -> None:
        """Plan the step after the one that runs, before anything changes, if that is still to be done."""
        scheduler = self._open
        if self._ahead and scheduler.work is not None and not scheduler.looked_ahead:
            scheduler.plan_ahead(*self._engine.last_step())
            self._stale = False

    # --- steps -------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        now = self.ctx.now
        scheduler = self._open
        self._refuse_hopeless()
        work = scheduler.plan(now)
        while isinstance(work, Wait) and work.until_s is None and scheduler.waiting and not scheduler.running:
            # Nothing runs that could end and make room: it would wait for ever.
            self._refuse(scheduler.waiting[0], f"{self._policy.name()} does not admit it into an empty cache")
            work = scheduler.plan(now)
        if not isinstance(work, StepWork):
            self.engine_ended()
            if work is not None and work.until_s is not None:
                self._waiting = self.ctx.after(work.until_s - now, Tick("plan"))
            return
        self._stale = False
        self._start(work)

    def _start(self, work: StepWork) -> None:
        now = self.ctx.now
        if self._running_since_s is None:
            self.engine_started()
        self._step_s = now
        if self._timings is not None:
            self._timings.step_begins(work)
        for sequence, _ in work.prefills:
            if sequence.started_s is None:
                sequence.started_s = now
                sequence.prefix_tokens = sequence.cached_tokens
        stepwise = (
            self._slowness > 1.0
            or self._hooks.on_tokens
            or (self._streams and any(sequence.work.stream for sequence in work.decodes))
        )
        if work.most > 1 and (stepwise or (self._ahead and self._stale)):
            work.most = 1  # somebody wants to see each step, or what follows it is to be planned anew
        self._engine.run_step(work)
        if self._ahead and work.most == 1:
            self._look_ahead()
            if not stepwise and self._open.join_ahead():
                self._engine.prolong()

    def _refuse_hopeless(self) -> None:
        """Those that have grown beyond the whole cache end here: no preemption of others can help them."""
        scheduler = self._open
        hopeless = list(takewhile(lambda sequence: sequence.preemptions, scheduler.waiting))
        if scheduler.cache.free_blocks == 0:  # else nobody can have filled it
            hopeless += scheduler.running
        for sequence in hopeless:
            why = scheduler.why_never(sequence)
            if why is not None:
                self._refuse(sequence, why)

    def _refuse(self, sequence: SequenceState, why: str) -> None:
        self._open.remove(sequence, self.ctx.now)
        self._observe(sequence, "refused")
        self._answer(sequence, error=why, refused=True)

    def on_step_ran(self, message: StepRan) -> None:
        scheduler = self._open
        if scheduler.work is None or message.number != scheduler.work.number:
            self._misanswered(message.number)
            return
        if self._slowness > 1.0 and self._ran is None:
            self._ran = message
            # Steps before the last one ended before it was slow.
            self.ctx.after((self._slowness - 1.0) * message.last_step_s, Tick("slow", number=message.number))
            return
        self._ran = None
        error = message.error
        generated = {} if message.tokens is None else dict(message.tokens)
        if error is None and (message.ended or generated or message.steps != 1):
            why = scheduler.why_not(message.steps, generated.keys(), message.ended)
            if why is not None:
                error = f"{self._engine.name()} answered for step {message.number}, but {why}"
        self._prove(error)
        now = self.ctx.now
        if error is not None:
            for sequence in scheduler.failed(now):
                self._observe(sequence, "engine-error")
                self._answer(sequence, error=error)
        else:
            if self._timings is not None:
                self._timings.step_ended(now, message.first_step_s)
            if self._ahead and not scheduler.looked_ahead:
                scheduler.plan_ahead(message.steps, self._step_s + message.service_s - message.last_step_s)
                self._stale = False
            self._stale |= bool(scheduler.leaving)
            work = scheduler.work
            self._deliver(scheduler.ran(message.steps, now), message, generated)
            if self._hooks.on_step_completed:
                self._tell_of_step(work, message)
        if scheduler.work is None:
            self._next()
        else:
            self._start(scheduler.work)
        self._stop_if_empty()

    def _prove(self, error: str | None) -> None:
        """A step ended: that answers the deep probes that came during it."""
        asked, self._asked = self._asked, []
        status: ProbeStatus = "ok" if error is None else "failed"
        for probe in asked:
            self.ctx.send(probe.reply_to, ProbeAnswered(self.ctx.address, probe.probe, status, error))

    def _misanswered(self, number: int) -> None:
        """The engine answers for what it was not given: what it was given fails at once, since it may never be told."""
        if number == self._disowned:
            self._disowned = None
            return
        work = self._open.work
        complaint = f"{self._engine.name()} answered for step {number}, which it was not running"
        if work is None:
            self.complain(complaint)
            return
        self._disowned = work.number
        elapsed_s = self.ctx.now - self._step_s
        self._ran = StepRan(work.number, 1, elapsed_s, elapsed_s, elapsed_s, error=complaint)
        self.on_step_ran(self._ran)

    def _deliver(
        self, output: list[SequenceState], ran: StepRan, generated: dict[int, tuple[int, ...]]
    ) -> None:
        """Tell of first tokens and streamed ones, then of the sequences that ended."""
        now = self.ctx.now
        first_s = now if ran.steps == 1 else self._step_s + ran.first_step_s
        last_gap_s = (
            now - self._step_s - (ran.service_s - ran.last_step_s)
        )  # on the clock: it may have stood still
        notices: list[Tokens] = []
        for sequence in output:
            if sequence.id in generated:
                self._outputs.setdefault(sequence.id, list(sequence.work.resume)).extend(
                    generated[sequence.id]
                )
            if self._tells_tokens:
                self._tell_tokens(sequence, now)
            if sequence.last_token_s is None:
                sequence.first_token_s = now
                notices.append(self._tokens(sequence, ran.steps, generated))
            else:
                gap_s = first_s - sequence.last_token_s
                if ran.steps > 1 and last_gap_s > gap_s:
                    gap_s = last_gap_s
                if sequence.itl_max_s is None or gap_s > sequence.itl_max_s:
                    sequence.itl_max_s = gap_s
                if sequence.work.stream:
                    notices.append(self._tokens(sequence, ran.steps, generated))
            sequence.last_token_s = now
        notices = [item for item in notices if item.ticket]  # a probe has none, and wants no tokens
        if notices:
            self.ctx.send(self._router, TokensGenerated(self.ctx.address, notices))
        scheduler = self._open
        for id in ran.ended:
            ended = scheduler.by_id.get(id)
            if ended is not None:  # else it was cancelled during its last step
                self._stale = True
                scheduler.ended(ended, now)
                self._observe(ended, None)
                self._answer(ended)

    def _tell_tokens(self, sequence: SequenceState, now: float) -> None:
        request, replica = sequence.work.request, self.ctx.address
        if sequence.last_token_s is None:
            tell(self._hooks.on_first_token, now, request, replica)
        tell(self._hooks.on_tokens, now, request, replica, sequence.generated_tokens)

    def _tell_of_step(self, work: StepWork, ran: StepRan) -> None:
        now = self.ctx.now
        completion = StepCompletion(
            replica=self.ctx.address, prefill_tokens=sum(tokens for _, tokens in work.prefills),
            decodes=len(work.decodes), steps=ran.steps,
            service_s=ran.service_s if self._slowness == 1.0 else now - self._step_s,
        )  # fmt: skip
        tell(self._hooks.on_step_completed, now, completion)

    def _tokens(self, sequence: SequenceState, steps: int, generated: dict[int, tuple[int, ...]]) -> Tokens:
        work = sequence.work
        ids = generated.get(sequence.id, ()) if work.stream else ()
        return Tokens(work.request.id, work.ticket, sequence.generated_tokens - steps, ids)

    def timed(self, message: Tick) -> None:
        if message.what == "plan":
            self._waiting = None
            self._changed()
        elif self._ran is not None and self._ran.number == message.number:
            self.on_step_ran(self._ran)

    def on_inject_slowness(self, message: InjectSlowness) -> None:
        super().on_inject_slowness(message)
        self.settle()

    def proves_itself(self, probe: Probe) -> bool:
        """A canary would wait behind all that waits, and fail where there is much to do. That a step ends is proof."""
        if self._open.work is None:
            return False
        self._asked.append(probe)
        self._engine.interrupt()
        return True

    def steps_begun(self) -> int:
        return 0 if self.scheduler is None else self.scheduler.steps_planned

    def settle(self) -> None:
        if self.scheduler is not None and self.scheduler.work is not None:
            self._engine.interrupt()

    # --- answers -----------------------------------------------------------------------------------------------

    def _observe(self, sequence: SequenceState, failure: FailureKind | None) -> None:
        """Tell the iteration policy how a sequence ended."""
        if not self._hooks.on_completed:
            return
        now, work = self.ctx.now, sequence.work
        completion = Completion(
            request=work.request, replica=self.ctx.address, attempt=work.attempt, failure=failure,
            service_s=None if sequence.started_s is None else now - sequence.started_s,
            e2e_s=now - sequence.queued_s,
            ttft_s=None if sequence.first_token_s is None else sequence.first_token_s - sequence.queued_s,
            output_tokens=sequence.generated_tokens, resumed_tokens=len(work.resume),
        )  # fmt: skip
        tell(self._hooks.on_completed, now, completion)

    def _answer(self, sequence: SequenceState, *, error: str | None = None, refused: bool = False) -> None:
        held = self._held[sequence.batch]
        work = sequence.work
        del held.sequences[work.ticket]
        last = not held.sequences
        if last:
            del self._held[sequence.batch]
        outputs = self._outputs.pop(sequence.id, None)
        if sequence.batch < 0:
            self.answered_probe(sequence.batch, error)
            return
        now = self.ctx.now
        if self._latencies_s is not None and error is None:
            self._latencies_s.append(now - sequence.queued_s)
        started_s = now if sequence.started_s is None else sequence.started_s
        usage = Usage(
            sequence.generated_tokens, sequence.itl_max_s, sequence.prefix_tokens, sequence.preemptions,
            started_s - sequence.queued_s,
        )  # fmt: skip
        results: list[Payload | None] | None = (
            None if outputs is None else [Payload(tensor=np.array(outputs, np.int32))]
        )
        quality = None
        if error is None:
            quality, error = self.rated([work], results)
        self.ctx.send(
            held.reply_to,
            BatchFinished(
                self.ctx.address, sequence.batch, now - started_s, self.first_answer(), error, results,
                (work.ticket,) if held.several else (), refused, self.busy_s, [usage],
                quality, self.timings(),
            ),
        )  # fmt: skip

    # --- reports -----------------------------------------------------------------------------------------------

    def token_signals(self) -> TokenSignals | None:
        scheduler = self.scheduler
        if scheduler is None:
            return None
        cache = scheduler.cache
        begun = 1
        if scheduler.work is not None and scheduler.work.most > 1:
            if self._ahead and not self._engine.steps_left():
                self._look_ahead()
            begun = self._engine.steps_done() + 1 + self._ahead
        used = scheduler.used_blocks(begun)
        return TokenSignals(
            len(scheduler.waiting), len(scheduler.running),
            sum([sequence.total_tokens for sequence in scheduler.waiting]),
            used, min(cache.cached_blocks, cache.total_blocks - used), cache.total_blocks, cache.block_tokens,
        )  # fmt: skip
