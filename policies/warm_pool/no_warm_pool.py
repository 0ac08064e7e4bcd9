"""No spares: the null baseline."""

from __future__ import annotations

from policies.base import WarmPoolPolicy
from policies.decisions import Warm
from policies.views import PoolView

_NONE = Warm(0)


class NoWarmPool(WarmPoolPolicy):
    """Keep no spares: every new replica pays its cold start when it is needed. O(1).

    Source: none.
    """

    def desired(self, pool: PoolView, now_s: float) -> Warm:
        return _NONE

    def settled(self) -> bool:
        return True
