"""Symphony's deferred batches: wait for company as long as the earliest deadline allows, and no longer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import itemgetter

from policies.batching.service_times import CLOCK_ERROR_S, ProfiledBatching, due_s, is_late
from policies.decisions import Dispatch, Drop, Wait
from policies.views import QueueView, ReplicaView


class SymphonyDeferred(ProfiledBatching):
    """Run a batch when one more request would make it late, or it is full; until then wait. O(n log n).

    Let d be when the most urgent request is due, and l(b) what a batch of b takes. A batch of b may begin until
    d - l(b). But from d - l(b + 1) on no other request can join it without making it late, so it begins then: earlier,
    and it would have been smaller than it need be; later, and nothing is won. Idle replicas so stay idle while
    there is time, which makes batches larger and, at less than full load, needs fewer replicas. Of requests that do not
    all fit, the most urgent ones run at once, as many as are in time together. What is late even alone is dropped.

    What batches take is learned: of each size the longest of the last measurements. As long as nothing is known, one
    request runs alone. Requests without a deadline or objective have nothing to wait for: when all are such, they run
    at once.

    Source: Chen et al., "Symphony: Optimized DNN Model Serving using Deferred Batch Scheduling", arXiv 2308.07470, 2023
    (the schedulable window). There one scheduler has many models and devices and picks the device too.
    """

    def next_batch(
        self, queue: QueueView, idle: Sequence[ReplicaView], now_s: float
    ) -> Dispatch | Wait | Drop:
        replica = idle[0].id
        alone_s = self.finish_s(replica, 1, now_s)
        waiting = [(due_s(request), place, request) for place, request in enumerate(queue)]
        late = [request.id for due, _, request in waiting if is_late(alone_s, due)]
        if late:
            return Drop(tuple(late), "late even if it ran at once")
        waiting.sort(key=itemgetter(0, 1))
        due = waiting[0][0]
        most = 1 if alone_s is None else min(len(waiting), self.max_batch)
        size = self.fitting(replica, most, due, now_s)
        if alone_s is not None and size == len(waiting) < self.max_batch and due < math.inf:
            service_s = self.service_s(replica, size + 1, now_s)
            until_s = now_s if service_s is None else due - self.margin_s - service_s
            if now_s < until_s - CLOCK_ERROR_S:
                return Wait(until_s, "there is time for company")
        return self.send([request for _, _, request in waiting[:size]], replica, now_s)
