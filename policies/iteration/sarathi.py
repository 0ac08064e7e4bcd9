"""Sarathi-Serve: no decode ever stalls for a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import IterationPolicy
from policies.decisions import Step, Wait
from policies.iteration.drafting import StepDraft, run_in_order
from policies.views import KvView, SequenceView


class Sarathi(IterationPolicy):
    """Decodes first, then the prompt already begun, then new ones, within `max_step_tokens`. O(n) in those that run.

    Prompts are cut into chunks that fit beside the decodes, so a step takes about as long whether a prompt is in it or
    not. One is admitted when there are blocks for all of it, beside the watermark and what the prompts already begun
    have yet to take. When a sequence finds no block, a prompt in progress loses its place before a decode does.

    Source: Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve", OSDI 2024,
    algorithm 3 (stall-free batching); the token budget of 512 is the smaller of the two evaluated there.
    """

    max_sequences: Annotated[int, Meta(ge=1)] = 128
    """Sequences that run at once, at most."""
    max_step_tokens: Annotated[int, Meta(ge=1)] = 512
    """Tokens of one step, at most: the chunk size."""

    def plan(
        self, waiting: Sequence[SequenceView], running: Sequence[SequenceView], kv: KvView, now_s: float
    ) -> Step | Wait:
        draft = StepDraft(kv, running, self.max_step_tokens)
        if not draft.decode_all(running):
            decodes = [one for one in running if one.remaining_tokens <= 1]
            begun = [one for one in running if one.remaining_tokens > 1]
            run_in_order(draft, decodes + begun)
        if not draft.preempted:
            for sequence in waiting:
                if draft.places >= self.max_sequences:
                    break
                if not draft.admit(sequence, watermark=True, whole=True):
                    break
        return draft.step()
