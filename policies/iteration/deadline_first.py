"""Earliest deadline first, step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import IterationPolicy
from policies.decisions import Step, Wait
from policies.iteration.drafting import StepDraft
from policies.iteration.ranked import plan_by_rank
from policies.views import KvView, SequenceView


class DeadlineFirst(IterationPolicy):
    """Admit first what must be done first. O(n log n) in the sequences that wait.

    The deadline is the request's own, else that of its objective for the whole answer, else for its first token, each
    counted from its arrival; one without any goes last. Steps are mixed and chunked. With `displaces` one that waits
    takes the place of running ones with later deadlines; otherwise none loses its place except for want of blocks, and
    then the one with the latest deadline first.

    Source: Liu and Layland, "Scheduling Algorithms for Multiprogramming in a Hard-Real-Time Environment", Journal of
    the ACM 20, 1973 (deadline-driven scheduling).
    """

    max_sequences: Annotated[int, Meta(ge=1)] = 256
    """Sequences that run at once, at most."""
    max_step_tokens: Annotated[int, Meta(ge=1)] = 2048
    """Tokens of one step, at most."""
    displaces: bool = False
    """Take places from running sequences with later deadlines."""

    def plan(
        self, waiting: Sequence[SequenceView], running: Sequence[SequenceView], kv: KvView, now_s: float
    ) -> Step | Wait:
        draft = StepDraft(kv, running, self.max_step_tokens, displaces=self.displaces)
        plan_by_rank(draft, waiting, running, _due_s, self.max_sequences)
        return draft.step()


def _due_s(sequence: SequenceView) -> float:
    request = sequence.request
    within_s = request.deadline_s
    if within_s is None and request.slo is not None:
        within_s = request.slo.e2e_s if request.slo.e2e_s is not None else request.slo.ttft_s
    return math.inf if within_s is None else request.arrived_s + within_s
