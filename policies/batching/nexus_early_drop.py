"""Nexus's early drop: give up a few requests early, so that batches stay large and the others are in time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from policies.batching.service_times import ProfiledBatching, due_s, is_late
from policies.decisions import Dispatch, Drop
from policies.views import QueueView, ReplicaView


class NexusEarlyDrop(ProfiledBatching):
    """Run the first `max_batch` whose head can wait for all of them; drop those before it. O(batch + dropped).

    A window of `max_batch` requests slides over the queue, in the order of arrival. It stops at the first request that
    is in time if the whole window runs with it now; what came before is dropped. To serve those as well (*lazy drop*)
    would take small batches, which cost most per request: under overload a queue then lives from hand to mouth, and in
    the end more of its requests are late. Near the end of the queue the window is as long as what is left of it.

    What batches take is learned from those that ran; as long as nothing is known, one request runs alone. A request
    without a deadline or objective is never late.

    Source: Shen et al., "Nexus: A GPU Cluster Engine for Accelerating DNN-Based Video Analysis", SOSP 2019, section 6.3
    (batch-aware dispatch, early drop). There the window is the batch size that its global scheduler planned.
    """

    def next_batch(self, queue: QueueView, idle: Sequence[ReplicaView], now_s: float) -> Dispatch | Drop:
        replica, waiting = idle[0].id, len(queue)
        size = min(self.max_batch, waiting)
        finish_s = self.finish_s(replica, size, now_s)
        if finish_s is None:
            return self.send(list(islice(queue, 1)), replica, now_s)
        dropped = []
        for place, request in enumerate(queue):
            if waiting - place < size:
                size = waiting - place
                finish_s = self.finish_s(replica, size, now_s)
            if not is_late(finish_s, due_s(request)):
                break
            dropped.append(request.id)
        if dropped:
            return Drop(tuple(dropped), "too late for a full batch")
        return self.send(list(islice(queue, size)), replica, now_s)
