"""Clockwork: the largest batch of which every request is known to be in time."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Annotated

from msgspec import Meta

from policies.batching.service_times import ProfiledBatching, due_s
from policies.decisions import Dispatch, Drop
from policies.views import QueueView, ReplicaView


class ClockworkDeadline(ProfiledBatching):
    """Earliest deadline first, in the largest batch with nobody late in it; drop those it leaves out. O(n log n).

    A model's execution times are predictable, so it is known before a batch runs whether its requests will be in time.
    Sizes are tried from one upwards, as long as there are so many requests that are in time in a batch of that size;
    the largest runs, with the most urgent of these. Whoever is due before them can only be in time in a smaller batch,
    if at all, and is dropped: to wait for him would make the others late.

    What batches take is learned: of each size the longest of the last measurements. As long as nothing is known, one
    request runs alone. A request without a deadline or objective is never late, and goes last. With one replica and
    batches of one this is earliest deadline first, which misses no deadline if any order misses none.

    Source: Gujarati et al., "Serving DNNs like Clockwork: Performance Predictability from the Bottom Up", OSDI 2020,
    sections 4 and 5, and the rules of its scheduler (`infer5`: a queue for each batch size, of those who are in time in
    such a batch; the 99th percentile of a window of measurements, which for up to a hundred is the longest). There
    sizes are powers of two up to 16, requests of a model come in the order of arrival, and one controller sends batches
    of many models to many devices; here it is the part that concerns one model.
    """

    max_batch: Annotated[int, Meta(ge=1, le=4096)] = 16
    """Requests in one batch, at most."""

    def next_batch(self, queue: QueueView, idle: Sequence[ReplicaView], now_s: float) -> Dispatch | Drop:
        replica = idle[0].id
        waiting = [(due_s(request), place, request) for place, request in enumerate(queue)]
        waiting.sort(key=itemgetter(0, 1))
        if self.service_s(replica, 1, now_s) is None:
            return self.send([waiting[0][2]], replica, now_s)
        first, size = self.largest(replica, [due for due, _, _ in waiting], now_s)
        if first:
            return Drop(
                tuple([request.id for _, _, request in waiting[:first]]), "late in the batch that runs"
            )
        return self.send([request for _, _, request in waiting[:size]], replica, now_s)
