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
        counts = [tokens.waiting for tokens in signals if tokens is not None]
        if not counts:
            return [self.unknown] * len(signals)
        most = max(counts)
        spread = most - min(counts)
        if not spread:
            return [self.unknown if tokens is None else 1.0 for tokens in signals]
        return [self.unknown if tokens is None else (most - tokens.waiting) / spread for tokens in signals]
