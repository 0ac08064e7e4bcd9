"""The planning and accounting of continuous batching: waiting and running sequences, one step after another.

The one thing to know: the iteration policy proposes a `Step`, and this applies it to the account, or says why it
cannot be. It is one implementation for both runtimes, and it knows neither time nor messages nor the engine.

    plan -> StepWork -> (the engine runs it) -> ran | failed -> plan ...

With asynchronous scheduling the next step is planned while one runs, as if that had run:

    plan -> StepWork -> (the engine begins) -> plan_ahead -> (it ends) -> ran -> (the engine begins the next) ...
"""

from __future__ import annotations

from collections.abc import Callable, Container, KeysView, Sequence
from typing import NoReturn

from fleet.actor import FleetError
from fleet.blame import blaming
from fleet.tokens.kv_cache import KvCache
from fleet.tokens.sequence import NEVER, SequenceState, StepWork
from policies.base import IterationPolicy, PolicyError
from policies.decisions import Step, Wait

MOST_EMPTY = 64
"""Steps in a row that only preempt: a policy that does so more often is going round in circles."""


class StepScheduler:
    """The sequences of one replica. `waiting` and `running` are what the policy is shown."""

    def __init__(
        self, policy: IterationPolicy, cache: KvCache, *, forget: Callable[[SequenceState], None]
    ) -> None:
        self._policy = policy
        self.cache = cache
        self._forget = forget
        """Called for a sequence that loses what the engine has of it."""
        self.waiting: list[SequenceState] = []
        """In the order of arrival; preempted ones first."""
        self.running: list[SequenceState] = []
        """In the order of admission."""
        self.by_id: dict[int, SequenceState] = {}
        self.work: StepWork | None = None
        """What the engine runs."""
        self.ahead: StepWork | None = None
        """What it runs next; None: not planned, or there is nothing."""
        self.looked_ahead = False
        """What comes after `work` has been planned."""
        self.leaving: dict[int, SequenceState] = {}
        """Taken out while part of the step under way: what they hold is in use until it ends."""
        self._wordless = False
        """There were some whose answer has no tokens."""
        self.steps_planned = 0

    # --- in and out --------------------------------------------------------------------------------------------

    def add(self, sequence: SequenceState) -> None:
        """Let it wait."""
        self.by_id[sequence.id] = sequence
        self._wordless |= sequence.target_tokens == 0
        self.waiting.append(sequence)

    def why_never(self, sequence: SequenceState) -> str | None:
        """Why this sequence cannot be served here, now or ever; None when it can."""
        cache = self.cache
        needed = -(-sequence.total_tokens // cache.block_tokens)
        if needed <= cache.total_blocks:
            return None
        return (
            f"its {sequence.prompt_tokens} prompt and {sequence.generated_tokens} output tokens need {needed} blocks "
            f"of {cache.block_tokens}; the cache has {cache.total_blocks}"
        )

    def remove(self, sequence: SequenceState, now_s: float) -> None:
        """It is not wanted any more: forget it, now or, when the engine is at it, after this step."""
        if self.by_id.pop(sequence.id, None) is None:
            return
        if not sequence.running:
            self.waiting.remove(sequence)
            self.cache.forget(sequence, now_s)
            self._forget(sequence)
            # It may have lost its place to the step after the one that runs.
            if self.work is not None and self._is_part(self.work, sequence):
                self.leaving[sequence.id] = sequence
            return
        self.running.remove(sequence)
        if any(work is not None and self._is_part(work, sequence) for work in (self.work, self.ahead)):
            self.leaving[sequence.id] = sequence
        else:
            self._give_up(sequence, now_s)

    def _is_part(self, work: StepWork, sequence: SequenceState) -> bool:
        return sequence in work.decodes or any(item is sequence for item, _ in work.prefills)

    def _give_up(self, sequence: SequenceState, now_s: float, *, keep: bool = True) -> None:
        self.cache.release(sequence, now_s, keep=keep)
        sequence.running = False
        self._forget(sequence)

    # --- planning ----------------------------------------------------------------------------------------------

    def plan(self, now_s: float) -> StepWork | Wait | None:
        """The next step, applied to the account; `Wait` when the policy says so; None when there is nothing to do.

        Raises `PolicyError` for a step that cannot be.
        """
        planned = self._plan(now_s)
        if isinstance(planned, StepWork):
            self.work = planned
        return planned

    def plan_ahead(self, steps: int, now_s: float) -> None:
        """Plan what comes after so many steps of the work under way, which have not ended: as if they had.

        Whatever they yield counts, but for what it is: so no block that it fills can be found yet. What they free does
        not: a sequence that gets its last token keeps its place and its blocks (`SequenceView.remaining_tokens` is 0).

        So in vLLM 0.19: `AsyncScheduler._update_after_schedule`, and `Scheduler.schedule` where it passes over those
        whose placeholders reach `max_tokens`.
        """
        work = self.work
        if work is None or self.looked_ahead:
            raise FleetError("there is no step under way after which to plan")
        self._advance(work, steps, now_s)
        self.looked_ahead = True
        planned = self._plan(now_s, ahead=True)
        self.ahead = planned if isinstance(planned, StepWork) else None

    def join_ahead(self) -> bool:
        """What was planned is to go on with the single step that runs: make one work of both, if they are alike."""
        work, ahead = self.work, self.ahead
        if (
            work is None
            or ahead is None
            or work.most > 1
            or work.prefills
            or ahead.prefills
            or ahead.moved_blocks
        ):
            return False
        if work.decodes != ahead.decodes or 1 in [sequence.generated_tokens for sequence in work.decodes]:
            return False  # a first token is told of when its step ends
        for sequence in work.decodes:
            sequence.computed_tokens -= 1
            sequence.total_tokens -= 1
            sequence.generated_tokens -= 1
            sequence.unknown_tokens = 0
        work.most, work.advanced = 1 + ahead.most, 0
        self.ahead, self.looked_ahead = None, False
        return True

    def _plan(self, now_s: float, *, ahead: bool = False) -> StepWork | Wait | None:
        self.cache.now_s = now_s
        for _ in range(MOST_EMPTY):
            if not self.by_id:
                return None
            try:
                decision = self._policy.plan(self.waiting, self.running, self.cache, now_s)
            except Exception as error:
                raise blaming(self._policy, error, self._state(), now_s) from error
            if type(decision) is not Step:
                if isinstance(decision, Wait):
                    self._settle_taken(now_s)
                    return self._checked(decision, now_s)
                self._blame(f"answered {decision!r}; expected Step or Wait", now_s)
            self._preempt(decision, now_s)
            work = self._apply(decision, now_s)
            if work is not None:
                return work
            if not decision.preempt:
                self._blame("planned a step of nothing; to leave the engine idle it says Wait", now_s)
            if ahead and any(self.why_never(self.by_id[id]) is not None for id in decision.preempt):
                return None  # it has outgrown the cache: planned again it would begin anew, for ever
        self._blame(f"only preempted, {MOST_EMPTY} times in a row", now_s)

    def _state(self) -> str:
        return f"{len(self.waiting)} waiting and {len(self.running)} running sequences"

    def _blame(self, what: str, now_s: float) -> NoReturn:
        cache = self.cache
        raise PolicyError(
            f"iteration policy {self._policy.name()} {what} ({self._state()}, {cache.free_blocks} of "
            f"{cache.total_blocks} blocks free, at {now_s:.6f} s)"
        )

    def _checked(self, decision: Wait, now_s: float) -> Wait:
        if decision.until_s is not None and not decision.until_s > now_s:
            self._blame(f"waits until {decision.until_s} s; until_s must be in the future", now_s)
        return decision

    def _preempt(self, step: Step, now_s: float) -> None:
        """Take their places from them, and what the policy did not take from them yet."""
        if not step.preempt:
            return
        lost: list[SequenceState] = []
        for id in step.preempt:
            sequence = self._named(id, now_s)
            if not sequence.running:
                self._blame(f"preempts sequence {id}, which does not run", now_s)
            self.cache.give_up(sequence, swap=step.swap)
            if not sequence.swapped:
                self._forget(sequence)
            sequence.running = False
            sequence.preemptions += 1
            self.running.remove(sequence)
            lost.append(sequence)
        self.waiting[:0] = lost

    def _named(self, id: int, now_s: float) -> SequenceState:
        sequence = self.by_id.get(id)
        if sequence is None:
            self._blame(f"named sequence {id}, which is not here", now_s)
        return sequence

    def _apply(self, step: Step, now_s: float) -> StepWork | None:
        """Take the blocks that the policy did not take yet: those that run grow, then those that wait are admitted.

        So in vLLM 0.19, `Scheduler.schedule`.
        """
        cache = self.cache
        prefills: list[tuple[SequenceState, int]] = []
        decodes = self._decodes(step, {id for id, _ in step.prefill} if step.prefill else (), now_s)
        size = cache.block_tokens
        for sequence in decodes:
            computed = sequence.computed_tokens
            if (
                computed % size == 0 or computed + 1 >= sequence.next_fill_tokens
            ):  # else its last block has room
                self._extend(sequence, 1, now_s)
        if step.prefill:
            prefills = self._prefills(step, now_s)
        if self._wordless:  # to compute the last of its prompt yields nothing
            prefills += [(item, 1) for item in decodes if item.target_tokens == 0]
            decodes = [item for item in decodes if item.target_tokens != 0]
        if cache.taken:
            self._settle_taken(now_s)
        if not prefills and not decodes:
            return None
        most = 1
        if step.repeat > 1 and not prefills:
            most = cache.steps_that_fit(decodes, step.repeat)
            if most > 1 and self.waiting:
                most = max(1, min(most, self._steps_unfilled(decodes)))
        self.steps_planned += 1
        moved, cache.moved_blocks = cache.moved_blocks, 0
        return StepWork(self.steps_planned, prefills, decodes, most=most, moved_blocks=moved)

    def _settle_taken(self, now_s: float) -> None:
        """What the policy took while it planned and its step does not name is given back."""
        cache = self.cache
        taken, cache.taken = cache.taken, []
        for sequence in taken:
            if sequence.running and not cache.holds(sequence):
                self._blame(
                    f"took its blocks from sequence {sequence.id}, which its step does not preempt", now_s
                )
            if not sequence.running and cache.holds(sequence):
                try:
                    cache.release(sequence, now_s)
                except FleetError as error:
                    self._blame(f"took blocks and did not admit: {error}", now_s)

    def _steps_unfilled(self, decodes: list[SequenceState]) -> int:
        """Steps in which no block fills that one that waits could find."""
        return min([item.next_fill_tokens - item.computed_tokens for item in decodes], default=NEVER) - 1

    def _prefills(self, step: Step, now_s: float) -> list[tuple[SequenceState, int]]:
        """What the step prefills; those of it that waited until now run."""
        waited = [id for id, _ in step.prefill if not self._named(id, now_s).running]
        order = step.prefill
        if 0 < len(waited) < len(order):  # those that run grow first
            order = tuple(sorted(order, key=lambda item: not self.by_id[item[0]].running))
        given: dict[int, tuple[SequenceState, int]] = {}
        for id, planned in order:
            sequence = self.by_id[id]
            if id in given or id in step.preempt:
                self._blame(f"named sequence {id} twice", now_s)
            tokens = planned if sequence.running else self._admit(sequence, planned, now_s)
            if not 1 <= tokens <= sequence.remaining_tokens:
                remaining = sequence.remaining_tokens
                self._blame(f"computes {tokens} tokens of sequence {id}, of which {remaining} remain", now_s)
            self._extend(sequence, tokens, now_s)
            given[id] = sequence, tokens
        if waited:
            for id in waited:
                self.by_id[id].running = True
            self.running += [self.by_id[id] for id in waited]
            self.waiting = [sequence for sequence in self.waiting if not sequence.running]
        return list(given.values()) if order is step.prefill else [given[id] for id, _ in step.prefill]

    def _admit(self, sequence: SequenceState, tokens: int, now_s: float) -> int:
        """Give it what the cache has of it now; answers how many tokens are left to compute of those planned."""
        cache = self.cache
        if not cache.holds(sequence) and 1 <= tokens <= sequence.remaining_tokens:
            found = cache.cached_tokens(sequence)
            if cache.blocks_for(sequence, min(tokens, sequence.remaining_tokens - found)) > cache.free_blocks:
                self._blame(f"admits sequence {sequence.id} with {tokens} tokens: there is no room", now_s)
            cache.admit(sequence, now_s)
        return min(tokens, sequence.remaining_tokens) if tokens <= sequence.total_tokens else tokens

    def _decodes(self, step: Step, prefilling: Container[int], now_s: float) -> list[SequenceState]:
        if step.decode is None:
            decodes = [item for item in self.running if item.total_tokens - item.computed_tokens == 1]
            return [item for item in decodes if item.id not in prefilling] if step.prefill else decodes
        decodes = []
        seen: set[int] = set()
        for id in step.decode:
            sequence = self._named(id, now_s)
            if id in seen or id in prefilling:
                self._blame(f"named sequence {id} twice", now_s)
            seen.add(id)
            if not sequence.decodes:
                why = f"has {sequence.remaining_tokens} tokens remaining" if sequence.running else "waits"
                self._blame(f"decodes sequence {id}, which {why}", now_s)
            decodes.append(sequence)
        return decodes

    def _extend(self, sequence: SequenceState, tokens: int, now_s: float) -> None:
        covered = sequence.computed_tokens + tokens
        if covered <= sequence.blocks * self.cache.block_tokens and covered < sequence.next_fill_tokens:
            return  # the policy took them
        try:
            self.cache.extend(sequence, tokens, now_s)
        except FleetError as error:
            self._blame(f"computes {tokens} tokens of sequence {sequence.id}: {error}", now_s)

    # --- what came of it ---------------------------------------------------------------------------------------

    def why_not(self, steps: int, named: KeysView[int], ended: Sequence[int]) -> str | None:
        """What the engine must be wrong about when it says so of the step under way; None when it can be.

        `named` are the sequences that it gives tokens of, `ended` those that got their last one.
        """
        work = self.work
        if work is None:
            return "it was running no step"
        if not 1 <= steps <= work.most:
            return f"it ran {steps} steps of {work.most}"
        if work.advanced not in {0, steps}:
            return f"it ran {steps} steps where it was to end after {work.advanced}"
        strangers = [] if named <= self.by_id.keys() else named - self.by_id.keys() - self.leaving.keys()
        if ended:
            getting = {sequence.id for sequence in work.decodes}
            if work.advanced:
                getting.update(item.id for item in work.output)
                getting.update(item.id for item, _ in work.prefills if item.target_tokens == 0)
            else:
                getting.update(item.id for item, tokens in work.prefills if tokens == item.remaining_tokens)
            strangers = [*strangers, *(id for id in ended if id not in getting)]
        if strangers:
            return f"sequence {min(strangers)} was to get no token in step {work.number}"
        return None

    def ran(self, steps: int, now_s: float) -> list[SequenceState]:
        """The step under way ran so many times.

        Advance its sequences; answers those that got output tokens, but for those that were removed meanwhile.
        """
        work = self.work
        if work is None or not 1 <= steps <= work.most:
            raise FleetError(f"the engine says that it ran {steps} steps of {work and work.most}")
        if work.advanced not in {0, steps}:
            raise FleetError(f"the engine ran {steps} steps of which {work.advanced} were foreseen")
        output = self._settle(work, now_s) if work.advanced else self._count(work, steps, now_s)
        self.work, self.ahead, self.looked_ahead = self.ahead, None, False
        if self.leaving:
            output = [sequence for sequence in output if sequence.id not in self.leaving]
            self._let_go(now_s, keep=True)
        return output

    def _count(self, work: StepWork, steps: int, now_s: float) -> list[SequenceState]:
        """Count what so many steps computed; answers those that got output tokens."""
        output: list[SequenceState] = []
        for sequence, tokens in work.prefills:
            sequence.computed_tokens += tokens
            if sequence.computed_tokens == sequence.total_tokens and sequence.target_tokens != 0:
                sequence.total_tokens += 1
                sequence.generated_tokens += 1
                output.append(sequence)
        extend = self.cache.extend
        for sequence in work.decodes:
            sequence.computed_tokens += steps
            sequence.total_tokens += steps
            sequence.generated_tokens += steps
            if steps > 1:
                extend(sequence, 0, now_s)
        return output + work.decodes

    def _advance(self, work: StepWork, steps: int, now_s: float) -> None:
        """Count what so many steps will have computed."""
        work.advanced = steps
        work.output = self._count(work, steps, now_s)
        for sequence in work.output:
            if sequence.generated_tokens == sequence.target_tokens:
                sequence.total_tokens -= 1  # its last token is never computed: nothing remains
            else:
                sequence.unknown_tokens = 1

    def _settle(self, work: StepWork, now_s: float) -> list[SequenceState]:
        """What was counted before it had run has run; answers those that got output tokens."""
        for sequence in work.output:
            sequence.unknown_tokens = 0
            if sequence.computed_tokens >= sequence.next_fill_tokens:
                self.cache.extend(sequence, 0, now_s)
        return work.output

    def failed(self, now_s: float) -> list[SequenceState]:
        """The step under way failed: all that were part of it are out, and what they computed is not to be trusted.

        So are those of the step that was planned to follow it. Answers those that were not removed meanwhile.
        """
        if self.work is None:
            raise FleetError("a step failed that was not under way")
        parts = [work for work in (self.work, self.ahead) if work is not None]
        self.work, self.ahead, self.looked_ahead = None, None, False
        lost: list[SequenceState] = []
        for work in parts:
            for sequence in [*(item for item, _ in work.prefills), *work.decodes]:
                if self.by_id.pop(sequence.id, None) is not None:
                    lost.append(sequence)
        for sequence in lost:
            self._leave(sequence, now_s, keep=False)
        self._let_go(now_s, keep=False)
        return lost

    def _leave(self, sequence: SequenceState, now_s: float, *, keep: bool = True) -> None:
        if sequence.running:
            self.running.remove(sequence)
            self._give_up(sequence, now_s, keep=keep)
        else:  # it lost its place while the step that it was part of ran
            self.waiting.remove(sequence)
            self.cache.forget(sequence, now_s)
            self._forget(sequence)

    def _let_go(self, now_s: float, *, keep: bool) -> None:
        """Those that were taken out give up what they hold when the last step that they are part of has ended."""
        leaving, self.leaving = self.leaving, {}
        for sequence in leaving.values():
            if self.work is not None and self._is_part(self.work, sequence):
                self.leaving[sequence.id] = sequence
            elif sequence.running:
                self._give_up(sequence, now_s, keep=keep)

    def ended(self, sequence: SequenceState, now_s: float) -> None:
        """It got its last token: its blocks are free, or cached."""
        del self.by_id[sequence.id]
        self._leave(sequence, now_s)

    # --- reports and checks ------------------------------------------------------------------------------------

    def used_blocks(self, begun: int) -> int:
        """Blocks in use when so many steps of the work under way have begun, or been planned."""
        work = self.work
        if work is None or work.most == 1 or work.advanced or begun <= 1:
            return self.cache.used_blocks
        return self.cache.used_after(work.decodes, min(begun, work.most))

    def check(self) -> None:
        """Raise `FleetError` that says what does not add up, if anything."""
        self.cache.check()
        here = [*self.waiting, *self.running]
        if sorted(sequence.id for sequence in here) != sorted(self.by_id):
            raise FleetError(f"{len(here)} sequences wait or run, {len(self.by_id)} are known")
        for sequence in here:
            if sequence.running != (sequence in self.running):
                raise FleetError(f"{sequence} is in the wrong list")
            if not 0 <= sequence.computed_tokens <= sequence.total_tokens:
                raise FleetError(f"{sequence} has computed what it does not have")
            held = sequence.blocks * self.cache.block_tokens
            if sequence.running and held < sequence.computed_tokens:
                raise FleetError(f"{sequence} has computed more than its blocks hold")
            if not sequence.running and sequence.blocks:
                raise FleetError(f"{sequence} waits and holds blocks")
