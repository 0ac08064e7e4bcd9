"""A filter: only replicas that can take a batch now."""

from __future__ import annotations

from collections.abc import Sequence

from policies.routing.parts import Filter
from policies.views import ReplicaView
from traces.schema import Request


class NotFullFilter(Filter):
    """Keep the replicas that can still take a batch. O(n).

    Source: Kubernetes scheduler, NodeResourcesFit (a filter on free capacity).
    """

    def keep(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> list[ReplicaView]:
        return [replica for replica in replicas if replica.capacity > 0]
