"""A filter: only replicas that have been heard of lately."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.routing.parts import Filter
from policies.views import ReplicaView
from traces.schema import Request


class FreshFilter(Filter):
    """Keep the replicas whose last report is at most `max_age_s` old. O(n).

    Source: Mitzenmacher, "How Useful Is Old Information?", IEEE TPDS 11(1), 2000 (why age matters).
    """

    max_age_s: Annotated[float, Meta(gt=0)] = 5.0
    """Seconds since the last report, at most."""

    def keep(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> list[ReplicaView]:
        oldest_s = now_s - self.max_age_s
        return [replica for replica in replicas if replica.as_of_s >= oldest_s]
