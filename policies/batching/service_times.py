"""How long batches take, learned from those that ran: what policies that plan by deadlines share.

The one thing to know: a prediction is the *longest* of the last few measurements of a size, so that what is planned by
it is seldom late; and it is forgotten when it was not confirmed for a while. Without that, one slow batch could say of
its size that no deadline allows it, and nobody would ever find out that this is past.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import BatchingPolicy
from policies.decisions import Dispatch
from policies.objectives import own_bound_s
from policies.views import BatchCompletion, ReplicaView
from traces.schema import Request

CLOCK_ERROR_S = (
    1e-9  # a timer set for t may fire a rounding error before t; without this it would be set again
)


def is_late(finish_s: float | None, due: float) -> bool:
    """What would be through at `finish_s`, where that is known, is not in time; a rounding error later is."""
    return finish_s is not None and finish_s > due + CLOCK_ERROR_S


def due_s(request: Request) -> float:
    """When its answer is due: its deadline or its end-to-end objective, whichever is sooner; infinite without one."""
    bound_s = own_bound_s(request)
    return math.inf if bound_s is None else request.arrived_s + bound_s


class ServiceTimes:
    """Seconds that a batch takes, by its size. A prediction costs O(1) when it was made before, a measurement O(sizes).

    Of a size that was measured it predicts the longest of its last `measurements`. Between two such sizes it draws a
    line. A smaller one than any takes as long as the smallest. A larger one than any lies on the line through the
    smallest and the largest, or, when only one size was measured, takes proportionally longer. Where a batch takes
    `a + b·n` seconds with a, b >= 0, as on most devices, no prediction is too short.

    A size that was not measured for `memory_s` is forgotten.
    """

    __slots__ = ("_measured", "_measurements", "_memory_s", "_newest_s", "_predicted", "_sizes")

    def __init__(self, measurements: int, memory_s: float) -> None:
        self._measurements = measurements
        self._memory_s = memory_s
        self._measured: dict[int, _Measured] = {}
        self._sizes: list[int] = []
        self._predicted: dict[int, float] = {}
        """Since the last measurement."""
        self._newest_s = -math.inf

    def add(self, size: int, service_s: float, now_s: float) -> None:
        """A batch of `size` took `service_s`."""
        measured = self._measured.get(size)
        if measured is None:
            measured = self._measured[size] = _Measured(self._measurements)
            insort(self._sizes, size)
        measured.add(service_s, now_s)
        self._newest_s = now_s
        self._predicted.clear()
        old_s = now_s - self._memory_s
        if any(known.newest_s < old_s for known in self._measured.values()):
            self._measured = {key: known for key, known in self._measured.items() if known.newest_s >= old_s}
            self._sizes = sorted(self._measured)

    def knows(self, size: int) -> bool:
        """It has measured this size, or two others to draw a line through."""
        return len(self._sizes) > 1 or size in self._measured

    def of(self, size: int, now_s: float) -> float | None:
        """What a batch of `size` would take; None: nothing is known."""
        if self._newest_s < now_s - self._memory_s or not self._sizes:
            return None
        predicted_s = self._predicted.get(size)
        if predicted_s is None:
            predicted_s = self._predicted[size] = self._predict(size)
        return predicted_s

    def _predict(self, size: int) -> float:
        sizes, measured = self._sizes, self._measured
        place = bisect_left(sizes, size)
        if place < len(sizes) and (place == 0 or sizes[place] == size):
            return measured[sizes[place]].longest_s
        if len(sizes) == 1:
            return measured[sizes[0]].longest_s * size / sizes[0]
        low, high = (sizes[0], sizes[-1]) if place == len(sizes) else (sizes[place - 1], sizes[place])
        low_s, high_s = measured[low].longest_s, measured[high].longest_s
        if place == len(sizes):  # never shorter than the largest that was measured
            return high_s + max(0.0, high_s - low_s) * (size - high) / (high - low)
        return low_s + (high_s - low_s) * (size - low) / (high - low)


class _Measured:
    """The last measurements of one size."""

    __slots__ = ("_recent", "longest_s", "newest_s")

    def __init__(self, measurements: int) -> None:
        self._recent: deque[float] = deque(maxlen=measurements)
        self.longest_s = 0.0
        self.newest_s = -math.inf

    def add(self, service_s: float, now_s: float) -> None:
        self._recent.append(service_s)
        self.longest_s = max(self._recent)
        self.newest_s = now_s


class _Known:
    """What is known of one replica: its service times, and the batches that it was sent."""

    __slots__ = ("began_s", "sent", "times")

    def __init__(self, times: ServiceTimes) -> None:
        self.times = times
        self.sent: deque[tuple[int, float]] = deque()
        """Size and predicted seconds of each batch that has not ended, the oldest first."""
        self.began_s = 0.0
        """When the oldest of them began, as far as can be told."""

    def free_s(self) -> float:
        """When it is through with what it has."""
        return self.began_s + math.fsum(seconds for _, seconds in self.sent)


class ProfiledBatching(BatchingPolicy):
    """Base of batching policies that plan by what batches took: learns it, and knows when each replica is free.

    Each replica is predicted by its own batches, and as long as they do not tell by those of all. Replicas run their
    batches in order.
    """

    max_batch: Annotated[int, Meta(ge=1, le=4096)] = 32
    """Requests in one batch, at most."""
    margin_s: Annotated[float, Meta(ge=0)] = 0.0
    """Seconds before its due time by which an answer must be there: what the network and the head take."""
    measurements: Annotated[int, Meta(ge=1, le=10_000)] = 10
    """Of each batch size, how many of the last service times count; the longest of them is the prediction."""
    memory_s: Annotated[float, Meta(gt=0)] = 60.0
    """Seconds after which a service time that was not measured again is forgotten."""

    def reset(self, rng: random.Random) -> None:
        self.pooled = ServiceTimes(self.measurements, self.memory_s)
        self.known: dict[str, _Known] = {}

    def finish_s(self, replica: str, size: int, now_s: float) -> float | None:
        """When a batch of `size` would be through, were it sent to `replica` now; None: nothing is known."""
        service_s = self.service_s(replica, size, now_s)
        if service_s is None:
            return None
        return self.start_s(replica, now_s) + service_s + self.margin_s

    def start_s(self, replica: str, now_s: float) -> float:
        """When a batch that is sent to `replica` now would begin to run."""
        known = self.known.get(replica)
        return now_s if known is None else max(now_s, known.free_s())

    def service_s(self, replica: str, size: int, now_s: float) -> float | None:
        """How long a batch of `size` would run on `replica`; None: nothing is known."""
        known = self.known.get(replica)
        if known is not None and known.times.knows(size):
            service_s = known.times.of(size, now_s)
            if service_s is not None:
                return service_s
        return self.pooled.of(size, now_s)

    def largest(self, replica: str, dues: Sequence[float], now_s: float) -> tuple[int, int]:
        """First and size of the largest batch, up to `max_batch`, of which all are in time; (their number, 0): none.

        `dues` is when each is due, the most urgent first. Sizes are tried from one upwards, as long as there are so
        many that are in time in a batch of that size.
        """
        first = size = candidate = 0
        start_s = self.start_s(replica, now_s) + self.margin_s
        for larger in range(1, min(len(dues), self.max_batch) + 1):
            service_s = self.service_s(replica, larger, now_s)
            finish_s = None if service_s is None else start_s + service_s
            while candidate < len(dues) and is_late(finish_s, dues[candidate]):
                candidate += 1
            if len(dues) - candidate < larger:
                break
            first, size = candidate, larger
        return (first, size) if size else (len(dues), 0)

    def send(self, requests: Sequence[Request], replica: str, now_s: float) -> Dispatch:
        """Run exactly these, and remember that `replica` has them."""
        known = self.known.get(replica)
        if known is None:
            known = self.known[replica] = _Known(ServiceTimes(self.measurements, self.memory_s))
        size = len(requests)
        if not known.sent:
            known.began_s = now_s
        known.sent.append((size, self.service_s(replica, size, now_s) or 0.0))
        return Dispatch(size, replica, ids=tuple([request.id for request in requests]))

    def on_batch_completed(self, batch: BatchCompletion, now_s: float) -> None:
        if batch.service_s is not None:
            self.pooled.add(batch.size, batch.service_s, now_s)
        known = self.known.get(batch.replica)
        if known is None:
            return
        if batch.service_s is not None:
            known.times.add(batch.size, batch.service_s, now_s)
        for place, (size, _) in enumerate(known.sent):
            if size == batch.size:
                del known.sent[place]
                known.began_s = now_s
                return

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        self.known = {view.id: self.known[view.id] for view in replicas if view.id in self.known}
