"""Shortest predicted job first: what has run tells how long an answer will be."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import IterationPolicy
from policies.decisions import Step, Wait
from policies.iteration.drafting import StepDraft
from policies.iteration.ranked import plan_by_rank
from policies.running_means import RunningMeans
from policies.views import Completion, KvView, SequenceView


class ShortestPredicted(IterationPolicy):
    """Admit first what is predicted to have the shortest answer. O(n log n) in the sequences that wait.

    The prediction is the mean answer so far of requests with about as long a prompt (lengths between the same two
    powers of two); before there is one, the mean of all; before that, `prior_tokens`. Steps are mixed and chunked. No
    sequence loses its place except for want of blocks, and then the longest predicted first. Long ones may starve.

    Source: shortest-job-first scheduling with learned lengths as in Fu et al., "Efficient LLM Scheduling by Learning to
    Rank", NeurIPS 2024; a running mean takes the place of their model.
    """

    max_sequences: Annotated[int, Meta(ge=1)] = 256
    """Sequences that run at once, at most."""
    max_step_tokens: Annotated[int, Meta(ge=1)] = 2048
    """Tokens of one step, at most."""
    prior_tokens: Annotated[float, Meta(ge=0)] = 256.0
    """Predicted before anything has ended."""

    def reset(self, rng: random.Random) -> None:
        self.means = RunningMeans()

    def plan(
        self, waiting: Sequence[SequenceView], running: Sequence[SequenceView], kv: KvView, now_s: float
    ) -> Step | Wait:
        draft = StepDraft(kv, running, self.max_step_tokens)
        plan_by_rank(draft, waiting, running, self._predicted, self.max_sequences)
        return draft.step()

    def on_completed(self, completion: Completion, now_s: float) -> None:
        tokens = completion.output_tokens
        if completion.failure is None and tokens is not None:
            self.means.add((completion.request.prompt_tokens or 1).bit_length(), tokens)
            self.means.add("all", tokens)

    def _predicted(self, sequence: SequenceView) -> float:
        mean = self.means.mean(sequence.prompt_tokens.bit_length(), "all")
        return self.prior_tokens if mean is None else mean
