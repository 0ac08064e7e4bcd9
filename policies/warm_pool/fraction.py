"""A warm pool in proportion to what serves."""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta

from policies.base import WarmPoolPolicy
from policies.decisions import Warm
from policies.views import PoolView


class Fraction(WarmPoolPolicy):
    """Keep `ceil(fraction · ready)` loaded spares, and at least `minimum`. O(1).

    What a fleet loses or must add at once tends to grow with it: a zone, a rack, a tenth more load. With no replica
    ready there are `minimum` spares.

    Source: headroom in proportion to the cluster, as of the Kubernetes cluster-proportional-autoscaler that scales
    overprovisioning pods (linear mode: `max(ceil(nodes / nodesPerReplica), min)`; `fraction` is 1 / `nodesPerReplica`).
    The default fraction is ours.
    """

    fraction: Annotated[float, Meta(ge=0, le=100)] = 0.1
    """Spares for each ready replica."""
    minimum: Annotated[int, Meta(ge=0, le=100_000)] = 1
    """Spares there are at least."""

    def desired(self, pool: PoolView, now_s: float) -> Warm:
        # Ten times 0.1 is 1 and not the next number, however it rounds.
        return Warm(max(self.minimum, math.ceil(self.fraction * pool.ready - 1e-9)))

    def settled(self) -> bool:
        return True
