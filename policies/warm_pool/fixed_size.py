"""A warm pool of constant size."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from policies.base import WarmPoolPolicy
from policies.decisions import Warm
from policies.views import PoolView


class FixedSize(WarmPoolPolicy):
    """Keep `size` loaded spares beside the ready replicas. O(1).

    Source: warm pools of Amazon EC2 Auto Scaling; provisioned concurrency of AWS Lambda.
    """

    size: Annotated[int, Meta(ge=0, le=100_000)] = 1
    """Spares, loaded and without traffic."""

    def desired(self, pool: PoolView, now_s: float) -> Warm:
        return Warm(self.size)

    def settled(self) -> bool:
        return True
