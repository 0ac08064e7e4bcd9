"""How long each of several unequal replicas would take with one more request: what routing among them reckons by.

The one thing to know: unlike figures are never compared. Where every candidate says what a request takes it, times are
in seconds; where one cannot say, all of them are reckoned by their weights, and times are relative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, cast

from msgspec import Meta

from policies.routing.places import first_of_least
from policies.views import ReplicaView

Concurrency = Annotated[int, Meta(ge=1, le=1_000_000)]
"""Requests that one replica serves side by side in the time of one: 1 where it takes them one after the other, more
where it forms batches."""


def service_times(replicas: Sequence[ReplicaView]) -> list[float]:
    """What one request takes each of them alone: seconds, or 1 / weight where any cannot say. O(n).

    Infinite where the weight is 0; where all are 0 they are alike.
    """
    known = [replica.expected_service_s for replica in replicas]
    if None not in set(known):  # there are few different ones, however many replicas there are
        return cast("list[float]", known)
    weights = [replica.weight for replica in replicas]
    if not any(weights):
        return [1.0] * len(weights)
    return [1.0 / weight if weight > 0.0 else math.inf for weight in weights]


def delay(service: float, in_flight: int, concurrency: int) -> float:
    """What one more request would take where so many are in flight: waiting and service, in the unit of `service`."""
    ahead = in_flight + 1
    return service * ahead / concurrency if ahead > concurrency else service


def delays(replicas: Sequence[ReplicaView], concurrency: int) -> list[float]:
    """The `delay` of each of them, by `service_times`. O(n)."""
    pairs = zip(service_times(replicas), replicas, strict=True)
    if concurrency == 1:  # the same without a call for each
        return [time * (replica.in_flight + 1) for time, replica in pairs]
    return [delay(time, replica.in_flight, concurrency) for time, replica in pairs]


def shortest_delay(replicas: Sequence[ReplicaView], concurrency: int) -> ReplicaView:
    """Whose expected delay is the shortest; of equal ones that with the fewest in flight, then the first. O(n)."""
    return replicas[first_of_least(delays(replicas, concurrency), replicas)]
