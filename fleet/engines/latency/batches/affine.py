"""A latency model of two numbers."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.engines.bounds import NonNegative
from fleet.engines.latency.batches.base import LatencyModel, batch_cost
from fleet.messages import Work


class AffineLatency(LatencyModel):
    """`base_s + per_item_s · n`, where n counts ordinary items (`request.work`, absent is 1.0)."""

    base_s: NonNegative
    per_item_s: NonNegative

    def nominal_s(self, work: Sequence[Work]) -> float:
        return self.base_s + self.per_item_s * batch_cost(work)
