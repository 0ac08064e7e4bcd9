"""The static batch: what serving was before batches could change between two steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import IterationPolicy
from policies.decisions import Step, Wait
from policies.iteration.drafting import StepDraft, run_in_order
from policies.views import KvView, SequenceView


class StaticBatch(IterationPolicy):
    """Admit only when nothing runs, whole prompts at once, and run that batch until its last sequence ends.

    O(n) in the sequences that run. The baseline: a sequence that ends early leaves its place empty, and one that comes
    late waits for the longest of those before it. It is kinder than its source in one thing: an answer is given when it
    is complete, not when the batch is. A sequence that loses its place for want of blocks waits for the next batch.

    Source: request-level batching as in NVIDIA FasterTransformer, the baseline of Yu et al., "Orca: A Distributed
    Serving System for Transformer-Based Generative Models", OSDI 2022, section 3.
    """

    max_sequences: Annotated[int, Meta(ge=1)] = 32
    """Sequences in a batch, at most."""

    def plan(
        self, waiting: Sequence[SequenceView], running: Sequence[SequenceView], kv: KvView, now_s: float
    ) -> Step | Wait:
        draft = StepDraft(kv, running)
        if running:
            run_in_order(draft, running)
            return draft.step()
        for sequence in waiting:
            if draft.places >= self.max_sequences or not draft.admit(sequence, watermark=True):
                break
        return draft.step()
