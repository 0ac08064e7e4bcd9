"""A scorer: the more of its key-value cache a replica has to spare the better, as it last reported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.routing.parts import Scorer, within_bounds
from policies.views import ReplicaView
from traces.schema import Request


class KvUtilizationScorer(Scorer):
    """1 - the fraction of key-value blocks that sequences hold. O(n).

    Blocks cached for reuse count as spare. The signal is as old as the last report, and a burst between two reports
    all goes to whoever was emptiest: beside `InFlightScorer`, which is exact, it tells long sequences from short.

    Source: Kubernetes Gateway API Inference Extension, kv-cache-utilization scorer.
    """

    unknown: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Score of a replica that has not reported, or has no such cache."""

    def scores(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> list[float]:
        unknown = self.unknown
        scores = [
            unknown if signals is None or not signals.total_blocks
            else 1.0 - signals.used_blocks / signals.total_blocks
            for replica in replicas for signals in [replica.tokens]
        ]  # fmt: skip
        return within_bounds(scores)
