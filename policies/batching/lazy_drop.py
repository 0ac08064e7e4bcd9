"""Lazy drop: serve whoever came first as long as it can be in time. The baseline of early drop."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from policies.batching.service_times import ProfiledBatching, due_s, is_late
from policies.decisions import Dispatch, Drop
from policies.views import QueueView, ReplicaView


class LazyDrop(ProfiledBatching):
    """Run the first request in the largest batch with which it is in time; drop it when it is late even alone.

    O(batch + dropped). At rates near capacity a queue forms, and then whoever is first has little time left: batches
    become small, small ones cost most per request, and the queue stays. That is what early drop is for.

    What batches take is learned from those that ran; as long as nothing is known, one request runs alone. A request
    without a deadline or objective is never late.

    Source: Shen et al., "Nexus: A GPU Cluster Engine for Accelerating DNN-Based Video Analysis", SOSP 2019, section
    6.3, which names it and says that it is what Clipper does.
    """

    def next_batch(self, queue: QueueView, idle: Sequence[ReplicaView], now_s: float) -> Dispatch | Drop:
        replica = idle[0].id
        alone_s = self.finish_s(replica, 1, now_s)
        late: list[str] = []
        for request in queue:
            if not is_late(alone_s, due_s(request)):
                break
            late.append(request.id)
        if late:
            return Drop(tuple(late), "late even if it ran at once")
        due, size = due_s(next(iter(queue))), 1
        most = 1 if alone_s is None else min(len(queue), self.max_batch)
        while size < most and not is_late(self.finish_s(replica, size + 1, now_s), due):
            size += 1
        return self.send(list(islice(queue, size)), replica, now_s)
