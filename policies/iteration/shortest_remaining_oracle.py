"""The plan that is shown every output length: what knowing them is worth to the rule of shortest remaining work."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import IterationPolicy
from policies.decisions import Step, Wait
from policies.iteration.drafting import StepDraft
from policies.iteration.ranked import plan_by_rank
from policies.views import KvView, SequenceView


class ShortestRemainingOracle(IterationPolicy):
    """Serve those that truly have the fewest output tokens to go. O(n log n) in all sequences; simulation only.

    Steps are mixed and chunked. One that waits takes the place and the blocks of running ones with more to go. What has
    no known length goes last.

    Source: Schrage, "A Proof of the Optimality of the Shortest Remaining Processing Time Discipline", Operations
    Research 16, 1968.
    """

    oracle = True

    max_sequences: Annotated[int, Meta(ge=1)] = 256
    """Sequences that run at once, at most."""
    max_step_tokens: Annotated[int, Meta(ge=1)] = 2048
    """Tokens of one step, at most."""
    swap: bool = False
    """Keep what a preempted sequence computed in host memory, instead of computing it anew."""

    def reset(self, rng: random.Random) -> None:
        self.true_tokens: Callable[[str], int | None] = _unknown

    def reveal(self, output_tokens: Callable[[str], int | None]) -> None:
        self.true_tokens = output_tokens

    def plan(
        self, waiting: Sequence[SequenceView], running: Sequence[SequenceView], kv: KvView, now_s: float
    ) -> Step | Wait:
        draft = StepDraft(kv, running, self.max_step_tokens, displaces=True, swap=self.swap)
        plan_by_rank(draft, waiting, running, self._to_go, self.max_sequences)
        return draft.step()

    def _to_go(self, sequence: SequenceView) -> float:
        tokens = self.true_tokens(sequence.request.id)
        return math.inf if tokens is None else tokens - sequence.generated_tokens


def _unknown(request_id: str) -> int | None:
    return None
