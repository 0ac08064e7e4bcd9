"""vLLM's first scheduler: a step either prefills or decodes, and prefilling goes first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import IterationPolicy
from policies.decisions import Step, Wait
from policies.iteration.drafting import StepDraft, run_in_order
from policies.views import KvView, SequenceView


class VllmPrefillFirst(IterationPolicy):
    """While one that waits has room: a step of whole prompts only. Otherwise all that run decode.

    O(n) in the sequences that run. Room means a place, tokens and blocks, with the watermark left free. When a decode
    finds no block, the sequence admitted last loses its place, and so on. A prompt longer than `max_step_tokens`, which
    vLLM refuses, has a step of its own.

    Source: vLLM v0, `vllm/core/scheduler.py` (`_schedule_default`); Kwon et al., "Efficient Memory Management for Large
    Language Model Serving with PagedAttention", SOSP 2023, section 4.5.
    """

    max_sequences: Annotated[int, Meta(ge=1)] = 256
    """Sequences that run at once, at most (`max_num_seqs`)."""
    max_step_tokens: Annotated[int, Meta(ge=1)] = 2048
    """Prompt tokens of one step, at most (`max_num_batched_tokens`)."""
    swap: bool = False
    """Keep what a preempted sequence computed in host memory, instead of computing it anew."""

    def plan(
        self, waiting: Sequence[SequenceView], running: Sequence[SequenceView], kv: KvView, now_s: float
    ) -> Step | Wait:
        draft = StepDraft(kv, running, swap=self.swap)
        tokens = 0
        for sequence in waiting:
            if draft.places >= self.max_sequences:
                break
            if tokens and tokens + draft.left(sequence) > self.max_step_tokens:
                break
            planned = draft.admit(sequence, watermark=True)
            if not planned:
                break
            tokens += planned
        if not tokens:
            run_in_order(draft, running)
        return draft.step()
