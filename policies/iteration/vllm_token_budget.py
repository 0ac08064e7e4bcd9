"""vLLM's scheduler since v1: one budget of tokens for prefills and decodes alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import IterationPolicy
from policies.decisions import Step, Wait
from policies.iteration.drafting import StepDraft, run_in_order
from policies.views import KvView, SequenceView


class VllmTokenBudget(IterationPolicy):
    """Share out `max_step_tokens` among those that run, then among those that wait, in order. O(n) in those that run.

    Each gets all that it has remaining, or what is left of the budget: a decode one token, a prompt a chunk. When a
    running one finds no block, the one admitted last loses its place (it may be itself), and nothing is admitted in
    that step. Admission leaves no watermark free. A prompt is admitted when all of it would fit now, though it is
    computed chunk by chunk; that it may not fit any more by then is what preemption is for.

    Source: vLLM v1, `vllm/v1/core/sched/scheduler.py` (`Scheduler.schedule`), policy `fcfs`.
    """

    async_scheduling = True
    """vLLM 0.19 plans a step while the one before it runs, unless it is started with `--no-async-scheduling`: see
    `AsyncScheduler` and `EngineCore.step_with_batch_queue`."""

    max_sequences: Annotated[int, Meta(ge=1)] = 256
    """Sequences that run at once, at most (`max_num_seqs`)."""
    max_step_tokens: Annotated[int, Meta(ge=1)] = 2048
    """Tokens of one step, at most (`max_num_batched_tokens`)."""
    reserve_full_prompt: bool = True
    """False: admit a prompt when its first chunk fits (`scheduler_reserve_full_isl`, True in vLLM 0.19)."""

    def plan(
        self, waiting: Sequence[SequenceView], running: Sequence[SequenceView], kv: KvView, now_s: float
    ) -> Step | Wait:
        draft = StepDraft(kv, running, self.max_step_tokens)
        run_in_order(draft, running)
        if not draft.preempted:
            for sequence in waiting:
                if draft.places >= self.max_sequences or not draft.admit(
                    sequence, whole=self.reserve_full_prompt, after_owed=False
                ):
                    break
        return draft.step()
