"""vLLM's scheduler with priorities: the urgent are admitted first, and the least urgent lose their places."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop
from typing import Annotated

from msgspec import Meta

from policies.base import IterationPolicy
from policies.decisions import Step, Wait
from policies.iteration.drafting import StepDraft
from policies.iteration.ranked import plan_by_rank
from policies.views import KvView, SequenceView


class PriorityPreemptive(IterationPolicy):
    """Admit first those with the largest `priority`; when blocks run out the least urgent lose their places.

    O(n) in those that run, and while there are places O(w) in those that wait. Steps are as `VllmTokenBudget` plans
    them. When a running sequence finds no block, the least urgent of all that run, of equals the one that arrived last,
    loses its place until it does (it may be itself), and nothing is admitted in that step. A sequence without a
    priority counts as 0. The urgent may starve the others.

    A sequence that waits takes nobody's place in vLLM's present engine, however urgent it is: it waits until one ends.
    With `displaces` it does, as in vLLM's first engine: then it takes the place and the blocks of running sequences
    that are less urgent, as few as will do. In vLLM a smaller number is more urgent; here a larger one is.

    Source: vLLM v1, `vllm/v1/core/sched/scheduler.py` (`Scheduler.schedule`), `--scheduling-policy priority`.
    """

    async_scheduling = True
    """As `VllmTokenBudget`."""

    max_sequences: Annotated[int, Meta(ge=1)] = 256
    """Sequences that run at once, at most (`max_num_seqs`)."""
    max_step_tokens: Annotated[int, Meta(ge=1)] = 2048
    """Tokens of one step, at most (`max_num_batched_tokens`)."""
    reserve_full_prompt: bool = True
    """False: admit a prompt when its first chunk fits (`scheduler_reserve_full_isl`). With `displaces` it always is."""
    displaces: bool = False
    """Take the places of running sequences that are less urgent, as vLLM's first engine (v0) did."""

    def plan(
        self, waiting: Sequence[SequenceView], running: Sequence[SequenceView], kv: KvView, now_s: float
    ) -> Step | Wait:
        draft = StepDraft(kv, running, self.max_step_tokens, displaces=self.displaces)
        if self.displaces:
            plan_by_rank(draft, waiting, running, _rank, self.max_sequences)
        else:
            _run(draft, running)
            if not draft.preempted and waiting and draft.places < self.max_sequences:
                self._admit(draft, waiting)
        return draft.step()

    def _admit(self, draft: StepDraft, waiting: Sequence[SequenceView]) -> None:
        best_first = [(*_order(sequence), sequence) for sequence in waiting]
        heapify(best_first)
        while best_first and draft.places < self.max_sequences:
            sequence = heappop(best_first)[-1]
            if not draft.admit(sequence, whole=self.reserve_full_prompt, after_owed=False):
                return


def _run(draft: StepDraft, running: Sequence[SequenceView]) -> None:
    """Advance those that run in the order of admission; where one finds no block, the least urgent make room."""
    if draft.decode_all(running):
        return
    left = list(running)
    index = 0
    while index < len(left) and draft.tokens_left > 0:
        sequence = left[index]
        while sequence.remaining_tokens and not draft.advance(sequence):
            loser = max(left, key=_order)
            place = left.index(loser)
            del left[place]
            draft.preempt(loser)
            if loser is sequence:
                return
            index -= place < index
        index += 1


def _rank(sequence: SequenceView) -> float:
    return -(sequence.request.priority or 0)


def _order(sequence: SequenceView) -> tuple[float, float, int]:
    """The smallest is the most urgent."""
    return _rank(sequence), sequence.request.arrived_s, sequence.id
