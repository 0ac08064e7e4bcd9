"""A scorer: the fewer requests in flight the better."""

from __future__ import annotations

from collections.abc import Sequence

from policies.routing.parts import Scorer
from policies.views import ReplicaView
from traces.schema import Request


class InFlightScorer(Scorer):
    """1 for the fewest requests in flight among the candidates, 0 for the most, linear between. O(n).

    When all have the same number each scores 1.

    Source: Kubernetes Gateway API Inference Extension, queue scorer (min-max normalisation).
    """

    def scores(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> list[float]:
        counts = [replica.in_flight for replica in replicas]
        # There are few different ones, however many replicas there are.
        different = set(counts)
        most = max(different)
        spread = most - min(different)
        if not spread:
            return [1.0] * len(counts)
        scores = {count: (most - count) / spread for count in different}
        return [scores[count] for count in counts]
