"""A fixed number of replicas: the null baseline."""

from __future__ import annotations

import random
from typing import Annotated

from msgspec import Meta

from policies.base import ScalingPolicy
from policies.decisions import Scale
from policies.views import PoolView


class Fixed(ScalingPolicy):
    """Keep the same number of replicas. O(1).

    Source: none; static provisioning.
    """

    replicas: Annotated[int, Meta(ge=0)] | None = None
    """How many; None: as many as the pool has, ready or starting, when first asked."""

    def reset(self, rng: random.Random) -> None:
        self.kept = self.replicas

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        if self.kept is None and pool.requested:  # before the first report there is nothing to count
            self.kept = pool.ready + pool.starting
        return Scale(pool.min_replicas if self.kept is None else self.kept)

    def settled(self) -> bool:
        return self.kept is not None
