"""Symphony's deferred batches: wait for company as long as the earliest deadline allows, and no longer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import itemgetter

from policies.batching.service_times import CLOCK_ERROR_S, ProfiledBatching, due_s
from policies.decisions import Dispatch, Drop, Wait
from policies.views import QueueView, ReplicaView


class SymphonyDeferred(ProfiledBatching):
    """Run a batch when one more request would make it late, or it is full; until then wait. O(n log n).

    Let d be when the most urgent request is due, and l(b) what a batch of b takes. A batch of b may begin until
    d - l(b). But from d - l(b + 1) on no other request can join it without making it late, so it begins then: earlier,
    and it would have been smaller than it need be; later, and nothing is won. Idle replicas so stay idle while
    there is time, which makes batches larger and, at less than full load, needs fewer replicas.

    Of requests that are not all in time together the largest batch that is runs at once, and those are dropped who are
    due before it: they would keep it small (see `ClockworkDeadline`, which chooses likewise).

    What batches take is learned: of each size the longest of the last measurements. As long as nothing is known, one
    request runs alone. Requests without a deadline or objective have nothing to wait for: when all are such, they run
    at once.

    Source: Chen et al., "Symphony: Optimized DNN Model Serving using Deferred Batch Scheduling", arXiv 2308.07470, 2023
    (the schedulable window). There one scheduler has many models and devices and picks the device too, and whom to drop
    is told by a window of a target size, as in Nexus.
    """

    def next_batch(
        self, queue: QueueView, idle: Sequence[ReplicaView], now_s: float
    ) -> Dispatch | Wait | Drop:
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
        due = waiting[0][0]
        if size == len(waiting) < self.max_batch and due < math.inf:
            service_s = self.service_s(replica, size + 1, now_s) or 0.0
            closes_s = due - self.margin_s - service_s
            if now_s < closes_s - CLOCK_ERROR_S:
                return Wait(closes_s, "there is time for company")
        return self.send([request for _, _, request in waiting[:size]], replica, now_s)
