"""Tied requests: wait in several queues, run in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import HedgePolicy
from policies.decisions import Hedge
from policies.views import AttemptView
from traces.schema import Request


class TiedRequests(HedgePolicy):
    """Let a request wait at `copies` replicas; when one begins to run it, it is withdrawn at the others. O(copies).

    What varies most is how long a request waits, and the length of a queue does not tell. So it waits in several, and
    runs in that which comes to it first: where withdrawing takes no time, this adds no work, and is as good as joining
    that of the `copies` queues which has the least work left. A request that has begun gets no more copies.

    Source: Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013 (tied requests; the second is sent after a small
    delay, such as twice the mean delay of a message, so that two idle replicas do not both begin); Ayesta, Bodas and
    Verloop, "On a unifying product form framework for redundancy models", Performance Evaluation, 2018 (cancel-on-start
    redundancy is equivalent to joining the least work of d).
    """

    copies: Annotated[int, Meta(ge=2, le=100)] = 2
    """Attempts that wait at the same time, the first included."""
    delay_s: Annotated[float, Meta(ge=0, lt=1e9)] = 0.0
    """Seconds from one to the next."""
    budget_ratio: Annotated[float, Meta(ge=0)] | None = 1.0
    """Attempts added over requests let in, at most; the router holds to it. With three copies it takes 2.0 for every
    request to have them. None: no bound."""

    def after_s(self, request: Request, attempts: Sequence[AttemptView], now_s: float) -> Hedge | None:
        if len(attempts) >= self.copies or any(view.started_s is not None for view in attempts):
            return None
        return Hedge(max(0.0, attempts[-1].sent_s + self.delay_s - now_s), tied=True)
