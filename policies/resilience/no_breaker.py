"""Every replica that health checks trust may be chosen: the null baseline."""

from __future__ import annotations

from policies.base import BreakerPolicy
from policies.views import ReplicaView


class NoBreaker(BreakerPolicy):
    """Allow every replica. O(1).

    Source: none.
    """

    def allows(self, replica: ReplicaView, now_s: float) -> bool:
        return True
