"""Clockwork: batches as large as the earliest deadline allows, and nothing that is late anyway."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from policies.batching.service_times import ProfiledBatching, due_s, is_late
from policies.decisions import Dispatch, Drop
from policies.views import QueueView, ReplicaView


class ClockworkDeadline(ProfiledBatching):
    """Earliest deadline first, in the largest batch that meets the earliest; drop what is late alone. O(n log n).

    A model's execution times are predictable, so whether a request will be in time is known before it runs. What would
    be late though it ran at once and alone is dropped: work on it makes others late. Of the rest the most urgent one
    sets the size: the largest batch, of itself and those due next, with which it still is in time.

    What batches take is learned: of each size the longest of the last measurements. As long as nothing is known, one
    request runs alone. A request without a deadline or objective is never late, and goes last. With one replica and
    batches of one this is earliest deadline first, which misses no deadline if any order misses none.

    Source: Gujarati et al., "Serving DNNs like Clockwork: Performance Predictability from the Bottom Up", OSDI 2020,
    sections 4 and 5. There one controller sends batches of many models to the queues of many devices; here it is the
    part that concerns one model. `measurements` and `memory_s` are ours.
    """

    def next_batch(self, queue: QueueView, idle: Sequence[ReplicaView], now_s: float) -> Dispatch | Drop:
        replica = idle[0].id
        alone_s = self.finish_s(replica, 1, now_s)
        waiting = [(due_s(request), place, request) for place, request in enumerate(queue)]
        late = [request.id for due, _, request in waiting if is_late(alone_s, due)]
        if late:
            return Drop(tuple(late), "late even if it ran at once")
        waiting.sort(key=itemgetter(0, 1))
        most = 1 if alone_s is None else min(len(waiting), self.max_batch)
        size = self.fitting(replica, most, waiting[0][0], now_s)
        return self.send([request for _, _, request in waiting[:size]], replica, now_s)
