"""How long each of several unequal replicas would take with one more request: what routing among them reckons by.

The one thing to know: unlike figures are never compared. Where every candidate says what a request takes it, times are
in seconds; where one cannot say, all of them are reckoned by their weights, and times are relative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.views import ReplicaView

Concurrency = Annotated[int, Meta(ge=1, le=1_000_000)]
"""Requests that one replica serves side by side in the time of one: 1 where it takes them one after the other, more
where it forms batches."""


def service_times(replicas: Sequence[ReplicaView]) -> list[float]:
    """What one request takes each of them alone: seconds, or 1 / weight where any cannot say. O(n).

    Infinite where the weight is 0; where all are 0 they are alike.
    """
    known = [time_s for replica in replicas if (time_s := replica.expected_service_s) is not None]
    if len(known) == len(replicas):
        return known
    weights = [replica.weight for replica in replicas]
    if not any(weights):
        return [1.0] * len(weights)
    return [1.0 / weight if weight > 0.0 else math.inf for weight in weights]


def delay(service: float, in_flight: int, concurrency: int) -> float:
    """What one more request would take where so many are in flight: waiting and service, in the unit of `service`."""
    ahead = in_flight + 1
    return service * ahead / concurrency if ahead > concurrency else service


def shortest_delay(replicas: Sequence[ReplicaView], concurrency: int) -> ReplicaView:
    """Whose expected delay is the shortest; of equal ones that with the fewest in flight, then the first. O(n)."""
    chosen = replicas[0]
    shortest, fewest = math.inf, chosen.in_flight
    for time, replica in zip(service_times(replicas), replicas, strict=True):
        in_flight = replica.in_flight
        one = delay(time, in_flight, concurrency)
        if one < shortest or (one == shortest and in_flight < fewest):
            chosen, shortest, fewest = replica, one, in_flight
    return chosen
