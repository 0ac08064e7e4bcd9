"""A scorer: the less busy the better, as the replicas themselves last reported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.routing.parts import Scorer, within_bounds
from policies.views import ReplicaView
from traces.schema import Request


class BusyScorer(Scorer):
    """1 - utilisation: of the GPU where its counters are known, else the engine's busy fraction. O(n).

    The signal is as old as the last report: with a short report interval it spreads load, with a long one it
    sends everything to whoever was idle then.

    Source: Mitzenmacher, "How Useful Is Old Information?", IEEE TPDS 11(1), 2000 (herding on stale load).
    """

    unknown: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Score of a replica that has not reported."""

    def scores(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> list[float]:
        unknown = self.unknown
        reported = [
            replica.busy_fraction if replica.gpu_utilization is None else replica.gpu_utilization
            for replica in replicas
        ]
        return within_bounds([unknown if busy is None else 1.0 - busy for busy in reported])
