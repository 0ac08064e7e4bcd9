"""The planning and accounting of continuous batching: waiting and running sequences, one step after another.

The one thing to know: the iteration policy proposes a `Step`, and this applies it to the account, or says why it
cannot be. It is one implementation for both runtimes, and it knows neither time nor messages nor the engine.

    plan -> StepWork -> (the engine runs it) -> ran | failed -> plan ...
"""

from __future__ import annotations

from collections.abc import Callable, Container, KeysView, Sequence
from typing import NoReturn

from fleet.actor import FleetError
from fleet.blame import blaming
from fleet.tokens.kv_cache import KvCache
from fleet.tokens.sequence import SequenceState, StepWork
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
        self._leaving: dict[int, SequenceState] = {}
        """Taken out while part of the step under way: what they hold is in use until it ends."""
        self.steps_planned = 0

    # --- in and out --------------------------------------------------------------------------------------------

    def add(self, sequence: SequenceState) -> None:
        """Let it wait."""
        self.by_id[sequence.id] = sequence
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
            return
        self.running.remove(sequence)
        if self.work is not None and self._is_part(self.work, sequence):
            self._leaving[sequence.id] = sequence
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
        moved = 0
        for _ in range(MOST_EMPTY):
            if not self.by_id:
                return None
            try:
                decision = self._policy.plan(self.waiting, self.running, self.cache, now_s)
            except Exception as error:
                raise blaming(self._policy, error, self._state(), now_s) from error
            if type(decision) is not Step:
                if isinstance(decision, Wait):
                    return self._checked(decision, now_s)
                self._blame(f"answered {decision!r}; expected Step or Wait", now_s)
            moved += self._preempt(decision, now_s)
            work = self._apply(decision, now_s, moved)
            if work is not None:
                self.work = work
                return work
            if not decision.preempt:
                self._blame("planned a step of nothing; to leave the engine idle it says Wait", now_s)
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

    def _preempt(self, step: Step, now_s: float) -> int:
        """Take their places from them; answers the blocks that go to host memory."""
        if not step.preempt:
            return 0
        lost: list[SequenceState] = []
        moved = 0
        for id in step.preempt:
            sequence = self._named(id, now_s)
            if not sequence.running:
                self._blame(f"preempts sequence {id}, which does not run", now_s)
            blocks = sequence.blocks
            if step.swap and self.cache.swap_out(sequence, now_s):
                moved += blocks
            else:
                self.cache.release(sequence, now_s)
                self._forget(sequence)
            sequence.running = False
            sequence.preemptions += 1
            self.running.remove(sequence)
            lost.append(sequence)
        self.waiting[:0] = lost
        return moved

    def _named(self, id: int, now_s: float) -> SequenceState:
        sequence = self.by_id.get(id)
        if sequence is None:
            self._blame(f"named sequence {id}, which is not here", now_s)
        return sequence

    def _apply(self, step: Step, now_s: float, moved: int) -> StepWork | None:
        """Admit and take blocks, all or nothing but for errors.

        First what the cache has, which no later one may then evict, then what has to be computed.
        """
        cache = self.cache
        prefills: list[tuple[SequenceState, int]] = []
        seen: Container[int] = ()
        if step.prefill:
            prefills, admitted, swapped_in = self._admit(step, now_s)
            moved += swapped_in
            if admitted:
                self.waiting = [sequence for sequence in self.waiting if not sequence.running]
                self.running += admitted
            seen = {sequence.id for sequence, _ in prefills}
        decodes = self._decodes(step, seen, now_s)
        if not prefills and not decodes:
            return None
        size = cache.block_tokens
        for sequence in decodes:
            computed = sequence.computed_tokens
            if computed % size == 0 or computed < sequence.prompt_tokens:  # else its last block has room
                self._extend(sequence, 1, now_s)
        for sequence, tokens in prefills:
            self._extend(sequence, tokens, now_s)
        most = 1
        if step.repeat > 1 and not prefills:
            most = cache.steps_that_fit(decodes, step.repeat)
        self.steps_planned += 1
        return StepWork(self.steps_planned, prefills, decodes, most=most, moved_blocks=moved)

    def _admit(
        self, step: Step, now_s: float
    ) -> tuple[list[tuple[SequenceState, int]], list[SequenceState], int]:
        """What the step prefills, those of it that waited until now, and the blocks that come from host memory."""
        cache = self.cache
        prefills: list[tuple[SequenceState, int]] = []
        admitted: list[SequenceState] = []
        moved = 0
        seen = set(step.preempt)
        for id, planned in step.prefill:
            sequence, tokens = self._named(id, now_s), planned
            if id in seen:
                self._blame(f"named sequence {id} twice", now_s)
            seen.add(id)
            if not sequence.running:
                if cache.blocks_for(sequence, tokens) > cache.free_blocks:
                    self._blame(f"admits sequence {id} with {tokens} tokens: there is no room", now_s)
                if sequence.swapped:
                    moved += -(-sequence.computed_tokens // cache.block_tokens)
                cache.admit(sequence, now_s)
                sequence.running = True
                admitted.append(sequence)
                if moved:
                    # One that came back from host memory may have brought blocks that this one finds now.
                    tokens = min(tokens, sequence.remaining_tokens)
            if not 1 <= tokens <= sequence.remaining_tokens:
                remaining = sequence.remaining_tokens
                self._blame(f"computes {tokens} tokens of sequence {id}, of which {remaining} remain", now_s)
            prefills.append((sequence, tokens))
        return prefills, admitted, moved

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
        strangers = [] if named <= self.by_id.keys() else named - self.by_id.keys() - self._leaving.keys()
        if ended:
            getting = {sequence.id for sequence in work.decodes}
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
        self.work = None
        leaving = self._leaving
        output: list[SequenceState] = []
        for sequence, tokens in work.prefills:
            sequence.computed_tokens += tokens
            if sequence.computed_tokens == sequence.total_tokens:
                sequence.total_tokens += 1
                sequence.generated_tokens += 1
                output.append(sequence)
        extend = self.cache.extend
        for sequence in work.decodes:
            if steps > 1:
                extend(sequence, steps, now_s)
            sequence.computed_tokens += steps
            sequence.total_tokens += steps
            sequence.generated_tokens += steps
        output += work.decodes
        if leaving:
            output = [sequence for sequence in output if sequence.id not in leaving]
            self._let_go(now_s, keep=True)
        return output

    def failed(self, now_s: float) -> list[SequenceState]:
        """The step under way failed: all that were part of it are out, and what they computed is not to be trusted.

        Answers those that were not removed meanwhile.
        """
        work, self.work = self.work, None
        if work is None:
            raise FleetError("a step failed that was not under way")
        lost = [sequence for sequence, _ in work.prefills] + work.decodes
        lost = [sequence for sequence in lost if self.by_id.pop(sequence.id, None) is not None]
        for sequence in lost:
            self.running.remove(sequence)
            self._give_up(sequence, now_s, keep=False)
        self._let_go(now_s, keep=False)
        return lost

    def _let_go(self, now_s: float, *, keep: bool) -> None:
        leaving, self._leaving = self._leaving, {}
        for sequence in leaving.values():
            self._give_up(sequence, now_s, keep=keep)

    def ended(self, sequence: SequenceState, now_s: float) -> None:
        """It got its last token: its blocks are free, or cached."""
        del self.by_id[sequence.id]
        self.running.remove(sequence)
        self._give_up(sequence, now_s)

    # --- reports and checks ------------------------------------------------------------------------------------

    def used_blocks(self, steps_done: int) -> int:
        """Blocks in use when so many steps of the work under way have ended."""
        work = self.work
        if work is None or work.most == 1 or steps_done == 0:
            return self.cache.used_blocks
        # The step that runs has its blocks too.
        return self.cache.used_after(work.decodes, min(steps_done + 1, work.most))

    def check(self) -> None:
        """Raise `FleetError` that says what does not add up, if anything."""
        self.cache.check()
        here = [*self.waiting, *self.running]
        if sorted(sequence.id for sequence in here) != sorted(self.by_id):
            raise FleetError(f"{len(here)} sequences wait or run, {len(self.by_id)} are known")
        for sequence in here:
            if sequence.running != (sequence in self.running):
                raise FleetError(f"{sequence} is in the wrong list")
            if not 0 <= sequence.computed_tokens < sequence.total_tokens:
                raise FleetError(f"{sequence} has computed what it does not have")
            held = sequence.blocks * self.cache.block_tokens
            if sequence.running and held < sequence.computed_tokens:
                raise FleetError(f"{sequence} has computed more than its blocks hold")
            if not sequence.running and sequence.blocks:
                raise FleetError(f"{sequence} waits and holds blocks")
