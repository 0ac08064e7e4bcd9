"""Orca: batches that change between any two steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import IterationPolicy
from policies.decisions import Step, Wait
from policies.iteration.drafting import StepDraft, run_in_order
from policies.views import KvView, SequenceView


class Orca(IterationPolicy):
    """First come, first served at every step; whole prompts join the decodes of the others. O(n) in those that run.

    A sequence is admitted when the cache can hold the longest that it and all that run may become, `reserve_tokens`
    each; one that is longer counts with what it has. So none loses its place before it outgrows its reservation. One
    that could never reserve as much is admitted when nothing runs. Blocks that sequences share count for each of them:
    Orca shares none.

    Source: Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models", OSDI 2022,
    algorithm 1 (iteration-level scheduling, selective batching). That it reserves the model's longest sequence, 2048
    tokens, is the "Orca (Max)" of Kwon et al., "Efficient Memory Management for Large Language Model Serving with
    PagedAttention", SOSP 2023, section 6.1.
    """

    max_sequences: Annotated[int, Meta(ge=1)] = 32
    """Sequences that run at once, at most."""
    reserve_tokens: Annotated[int, Meta(ge=1)] = 2048
    """Prompt and output tokens for which each reserves blocks."""

    def plan(
        self, waiting: Sequence[SequenceView], running: Sequence[SequenceView], kv: KvView, now_s: float
    ) -> Step | Wait:
        draft = StepDraft(kv, running)
        run_in_order(draft, running)
        if waiting and not draft.preempted and draft.places < self.max_sequences:
            self._admit(draft, waiting, kv.total_blocks - sum(self._reserved(one, kv) for one in running))
        return draft.step()

    def _admit(self, draft: StepDraft, waiting: Sequence[SequenceView], unreserved_blocks: int) -> None:
        for sequence in waiting:
            reserved = self._reserved(sequence, draft.kv)
            if draft.places and (draft.places >= self.max_sequences or reserved > unreserved_blocks):
                return
            if not draft.admit(sequence):
                return
            unreserved_blocks -= reserved

    def _reserved(self, sequence: SequenceView, kv: KvView) -> int:
        return -(-max(self.reserve_tokens, sequence.total_tokens) // kv.block_tokens)
