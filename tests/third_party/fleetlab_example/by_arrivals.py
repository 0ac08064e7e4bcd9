"""Scaling: as many replicas as the arrivals of the last interval need."""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta

from policies import PoolView, Scale, ScalingPolicy


class ByArrivals(ScalingPolicy):
    """Ask for one replica for each `per_replica_s` arrivals a second. O(1).

    Source: none.
    """

    per_replica_s: Annotated[float, Meta(gt=0)] = 25.0

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        wanted = math.ceil(pool.arrivals_per_s / self.per_replica_s)
        return Scale(max(pool.min_replicas, min(wanted, pool.max_replicas)))
