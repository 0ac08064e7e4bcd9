"""The cheapest replica that is expected to be in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.objectives import own_bound_s
from policies.routing.delays import Concurrency, shortest_delay
from policies.views import ReplicaView
from traces.schema import Request

_NOBODY = "none meets the objective: the shortest expected delay"


class CheapestMeetingDelay(RoutingPolicy):
    """Of the replicas whose expected delay meets the objective, the one that costs least for each request. O(n).

    The delay is (in flight + 1) × expected service time, the cost the price of the device × expected service time. So
    cheap devices fill up to the objective, less `headroom`, and dear ones take what is beyond. Unknown prices come
    last; of equal costs the shorter delay goes first, then the fewest in flight, then the first. One that does not know
    its service time cannot be said to meet anything. Where none does it is that of the shortest expected delay.

    Source: the greedy choice of Romero, Li, Yadwadkar and Kozyrakis, "INFaaS: Automated Model-less Inference Serving",
    USENIX ATC 2021, among devices in the place of variants; that the cheapest device depends on what is asked for, and
    in what time: Griggs et al., "Mélange: Cost Efficient Large Language Model Serving by Exploiting GPU Heterogeneity",
    2024.
    """

    objective_s: Annotated[float, Meta(gt=0, le=1e9)] = 1.0
    """From the arrival to the reply, for requests with neither an end-to-end objective nor a deadline of their own."""
    headroom: Annotated[float, Meta(ge=0, lt=1)] = 0.5
    """Part of the time that is left which the expected delay may not take: for requests that take longer than expected,
    which half of them may do."""
    concurrency: Concurrency = 1
    """Requests that a replica serves side by side in the time of one."""

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        bound_s = own_bound_s(request)
        left_s = request.arrived_s + (self.objective_s if bound_s is None else bound_s) - now_s
        allowed_s = (1.0 - self.headroom) * left_s
        concurrency = self.concurrency
        # The `delay` of each, without a call for it.
        meeting = [
            replica for replica in replicas
            if (time_s := replica.expected_service_s) is not None and allowed_s >= (
                time_s if replica.in_flight < concurrency else time_s * (replica.in_flight + 1) / concurrency
            )
        ]  # fmt: skip
        priced = [replica for replica in meeting if replica.cost_per_hour is not None]
        if priced:
            costs = [
                (replica.cost_per_hour or 0.0) * (replica.expected_service_s or 0.0) for replica in priced
            ]
            least = min(costs)
            meeting = [replica for replica, cost in zip(priced, costs, strict=True) if cost == least]
        if meeting:
            return Route(shortest_delay(meeting, concurrency).id)
        return Route(shortest_delay(replicas, concurrency).id, _NOBODY)
