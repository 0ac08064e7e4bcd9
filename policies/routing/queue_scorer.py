"""A scorer: the fewer requests wait at a replica the better, as it last reported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.routing.parts import Scorer
from policies.views import ReplicaView
from traces.schema import Request


class QueueScorer(Scorer):
    """1 for the fewest waiting requests among the candidates, 0 for the most, linear between. O(n).

    Those that run do not count, so a replica whose batch has room scores as well as an idle one. When all have the same
    number each scores 1. The signal is as old as the last report; `InFlightScorer` counts for itself.

    Source: Kubernetes Gateway API Inference Extension and llm-d, `queue-scorer` (min-max normalised waiting queue).
    """

    unknown: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Score of a replica that has not reported."""

    def scores(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> list[float]:
        signals = [replica.tokens for replica in replicas]
        counts = [None if tokens is None else tokens.waiting for tokens in signals]
        # There are few different ones, however many replicas there are.
        different = {count for count in set(counts) if count is not None}
        scores: dict[int | None, float] = {None: self.unknown}
        if different:
            most = max(different)
            spread = most - min(different)
            scores |= {count: (most - count) / spread if spread else 1.0 for count in different}
        return [scores[count] for count in counts]
