"""Complete the batch that is forming, so that fewer batches do the same work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.views import ReplicaView
from traces.schema import Request


class BatchFilling(RoutingPolicy):
    """Of the replicas whose forming batch is begun and not full the fullest; else the least loaded. O(n).

    What a replica has in flight is counted in batches of `batch_size`, and what is left over is the batch that is
    forming. With policies of batching that wait for company this makes full batches at loads at which spreading leaves
    every replica with half of one; where batches are not waited for it only makes loads uneven, by `max_imbalance` at
    most. Ties go to the fewest requests in flight, then to the first in the order of the candidates.

    Source: none of its own; the rule is the greedy one for packing (best fit: Johnson et al., "Worst-Case Performance
    Bounds for Simple One-Dimensional Packing Algorithms", SIAM Journal on Computing 3(4), 1974), applied to batches in
    the place of bins.
    """

    batch_size: Annotated[int, Meta(ge=1)] = 8
    """Requests in a full batch: the size that the fleet's batching waits for. With 1 it is `LeastOutstanding`."""
    max_imbalance: Annotated[int, Meta(ge=0)] = 8
    """Requests in flight that a replica may have more than the least loaded and still be filled up. With 0 as well."""

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        size = self.batch_size
        loads = [replica.in_flight for replica in replicas]
        least = min(loads)
        most, fullest, chosen = least + self.max_imbalance, 0, least
        for load in dict.fromkeys(loads):  # there are few different ones, however many replicas there are
            forming = load % size
            if load <= most and (forming > fullest or (forming == fullest and load < chosen)):
                fullest, chosen = forming, load
        return Route(replicas[loads.index(chosen)].id, "fills a batch" if fullest else "a new batch")
