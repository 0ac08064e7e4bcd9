"""FastServe: a multi-level feedback queue with preemption, for answers of unknown length."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import IterationPolicy
from policies.decisions import Step, Wait
from policies.iteration.drafting import MANY_STEPS, StepDraft
from policies.iteration.ranked import plan_by_rank
from policies.views import KvView, SequenceView

_CLOCK_ERROR_S = (
    1e-9  # so that a sequence is promoted at its time, whatever the order in which times were added up
)


class FastServe(IterationPolicy):
    """Serve those that have had least: each level has a quantum, and who used it up goes one level down.

    O(n log n) in all sequences. Quanta are counted in output tokens: `quantum_tokens` on the first level, `ratio` times
    as many on each further one. A prompt counts as one output token for each `prompt_tokens_per_token` of it, and a
    sequence begins at the first level whose quantum its prompt does not use up (skip-join). One that waits takes the
    place and the blocks of those on worse levels. After `starvation_s` of waiting it goes to the first level. Within a
    level the order is that of arrival.

    The paper measures quanta in time and moves keys and values ahead of need; here a step's time is not known to the
    policy, and blocks move when a sequence is preempted or admitted. Prompts are cut into chunks.

    Source: Wu et al., "Fast Distributed Inference Serving for Large Language Models" (FastServe), arXiv:2305.05920,
    section 4 (skip-join MLFQ).
    """

    max_sequences: Annotated[int, Meta(ge=1)] = 256
    """Sequences that run at once, at most."""
    max_step_tokens: Annotated[int, Meta(ge=1)] = 2048
    """Tokens of one step, at most."""
    levels: Annotated[int, Meta(ge=1, le=64)] = 6
    """Queues; the last has no quantum."""
    quantum_tokens: Annotated[int, Meta(ge=1)] = 16
    """Output tokens on the first level."""
    ratio: Annotated[int, Meta(ge=1)] = 2
    """Of the quantum of a level to that of the one before."""
    prompt_tokens_per_token: Annotated[int, Meta(ge=1)] = 256
    """Prompt tokens that count as much as one output token."""
    starvation_s: Annotated[float, Meta(gt=0)] | None = 10.0
    """Seconds of waiting after which a sequence goes to the first level; None: never."""
    swap: bool = True
    """Keep what a preempted sequence computed in host memory, instead of computing it anew."""

    def reset(self, rng: random.Random) -> None:
        self.records: dict[int, _Record] = {}
        self.next_prune = 64

    def plan(
        self, waiting: Sequence[SequenceView], running: Sequence[SequenceView], kv: KvView, now_s: float
    ) -> Step | Wait:
        for sequence in running:
            self._serve(sequence)
        for sequence in waiting:
            self._wait(sequence, now_s)
        self._prune(waiting, running)
        records = self.records
        draft = StepDraft(kv, running, self.max_step_tokens, displaces=True, swap=self.swap)
        plan_by_rank(draft, waiting, running, lambda one: records[one.id].level, self.max_sequences)
        return draft.step(self._repeat(waiting, running))

    def _serve(self, sequence: SequenceView) -> None:
        """Move a running one down as many levels as it has used up."""
        record = self.records.get(sequence.id) or self._join(sequence)
        record.waits_since_s = None
        while record.level < self.levels - 1 and record.left(sequence, self._quantum(record.level)) <= 0:
            record.start += self._quantum(record.level)
            record.level += 1

    def _wait(self, sequence: SequenceView, now_s: float) -> None:
        """Move one up that has waited long enough."""
        record = self.records.get(sequence.id) or self._join(sequence)
        if record.waits_since_s is None:
            record.waits_since_s = now_s
        if self.starvation_s is None or record.level == 0:
            return
        if now_s >= record.waits_since_s + self.starvation_s - _CLOCK_ERROR_S:
            record.level, record.start = 0, sequence.generated_tokens

    def _join(self, sequence: SequenceView) -> _Record:
        cost = -(-sequence.prompt_tokens // self.prompt_tokens_per_token)
        level = 0
        while level < self.levels - 1 and self._quantum(level) <= cost:
            level += 1
        record = self.records[sequence.id] = _Record(level, sequence.generated_tokens - cost)
        return record

    def _quantum(self, level: int) -> int:
        return int(self.quantum_tokens * self.ratio**level)

    def _repeat(self, waiting: Sequence[SequenceView], running: Sequence[SequenceView]) -> int:
        """Steps until a level changes, where that matters: only to those that wait."""
        if not waiting:
            return MANY_STEPS
        if self.starvation_s is not None and any(self.records[one.id].level for one in waiting):
            return 1  # how soon one is promoted depends on how long steps take
        steps = MANY_STEPS
        for sequence in running:
            record = self.records[sequence.id]
            if record.level < self.levels - 1:
                steps = min(steps, record.left(sequence, self._quantum(record.level)))
        return steps

    def _prune(self, waiting: Sequence[SequenceView], running: Sequence[SequenceView]) -> None:
        """Forget those that are gone, now and then: a sequence's number never comes again."""
        if len(self.records) >= self.next_prune:
            self.records = {one.id: self.records[one.id] for part in (waiting, running) for one in part}
            self.next_prune = 2 * len(self.records) + 64


class _Record:
    """Where a sequence stands: its level, and the output tokens it had when it came there."""

    __slots__ = ("level", "start", "waits_since_s")

    def __init__(self, level: int, start: int) -> None:
        self.level = level
        self.start = start
        self.waits_since_s: float | None = None

    def left(self, sequence: SequenceView, quantum: int) -> int:
        """Output tokens until its quantum is used up."""
        return self.start + quantum - sequence.generated_tokens
