"""NVIDIA Triton's dynamic batcher: preferred sizes, a bounded delay, levels of priority, time-outs in the queue."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Literal

from msgspec import Meta

from policies.base import BatchingPolicy
from policies.batching.service_times import CLOCK_ERROR_S
from policies.decisions import Dispatch, Drop, Wait
from policies.views import QueueView, ReplicaView
from traces.schema import Request
from traces.values import BadValue


class TritonDynamic(BatchingPolicy):
    """Run the largest preferred size there is; else wait up to `max_queue_delay_s` and run what there is then. O(1).

    Looking at the first `max_batch` that wait:

    1. When the oldest of them has waited for `max_queue_delay_s`, all of them run, whatever is preferred.
    2. Else the largest preferred size that they make up runs. No preferred size means that `max_batch` is the one.
    3. Else they wait for the delay to pass; without one they run as they are.

    With levels of priority those of level 1 come first, then those of level 2, and so on; within a level they come in
    the order of arrival. A request of priority p, which is more urgent the larger it is, has the level
    `default_priority_level` - p, within the levels there are. A request that waited for longer than
    `default_timeout_s` is dropped, or (`delay`) goes behind the others of its level. Of a level that has more than
    `max_queue_size` waiting the newest are dropped; Triton refuses them when they come, here they end when the next
    batch is formed, and they are the same. With any of these a decision costs O(n log n), and it takes requests by
    name; else the queueing policy says which go first.

    Source: NVIDIA Triton Inference Server, model configuration, "Dynamic Batcher" (`dynamic_batching`: the parameters
    and their defaults), and the rules of its `dynamic_batch_scheduler.cc` and `scheduler_utils.cc`. Left out:
    `priority_queue_policy`, another queue policy for each level, and `preserve_ordering`, which holds back answers.
    """

    max_batch: Annotated[int, Meta(ge=1)] = 4
    """Requests in one batch, at most (`max_batch_size`; its default where Triton fills in a configuration)."""
    preferred_batch_size: tuple[Annotated[int, Meta(ge=1)], ...] = ()
    """Sizes to run at once; none: `max_batch` alone."""
    max_queue_delay_s: Annotated[float, Meta(ge=0)] = 0.0
    """Seconds that a request waits for company, at most (`max_queue_delay_microseconds`)."""
    priority_levels: Annotated[int, Meta(ge=0)] = 0
    """Levels of priority, 1 the most urgent; 0: all are alike."""
    default_priority_level: Annotated[int, Meta(ge=0)] = 0
    """Of requests of priority 0 or none; 0 where there are no levels."""
    timeout_action: Literal["reject", "delay"] = "reject"
    """What becomes of a request that waited for too long."""
    default_timeout_s: Annotated[float, Meta(ge=0)] = 0.0
    """Seconds after which a request has waited for too long (`default_timeout_microseconds`); 0: never."""
    allow_timeout_override: bool = False
    """A request's own deadline counts where it is shorter than the time-out; as in Triton, it cannot set one where
    there is none."""
    max_queue_size: Annotated[int, Meta(ge=0)] = 0
    """Requests of a level that may wait; 0: any number."""

    def check_values(self) -> None:
        """Building calls this once each field is right by itself."""
        for place, size in enumerate(self.preferred_batch_size):
            if size > self.max_batch:
                raise BadValue(
                    f"preferred_batch_size[{place}]", f"{size} is above max_batch={self.max_batch}"
                )
        low = min(1, self.priority_levels)
        if not low <= self.default_priority_level <= self.priority_levels:
            raise BadValue(
                "default_priority_level",
                f"{self.default_priority_level} is no level; write one from {low} to {self.priority_levels} "
                "(priority_levels)",
            )

    def next_batch(
        self, queue: QueueView, idle: Sequence[ReplicaView], now_s: float
    ) -> Dispatch | Wait | Drop:
        if not (self.priority_levels or self.default_timeout_s or self.max_queue_size):
            size = min(len(queue), self.max_batch)
            size, until_s = self.choose(size, queue.oldest_s, now_s)
            return Dispatch(size) if until_s is None else Wait(until_s)
        in_order, too_late, too_many = self.ordered(queue, now_s)
        if too_late or too_many:
            return Drop((*too_late, *too_many), "timed out in the queue" if too_late else "the queue is full")
        pending = list(islice(in_order, self.max_batch))
        oldest_s = min(queue.queued_s(request.id) for request in pending)
        size, until_s = self.choose(len(pending), oldest_s, now_s)
        if until_s is None:
            return Dispatch(size, ids=tuple([request.id for request in pending[:size]]))
        soon_s = now_s + CLOCK_ERROR_S  # what expires by then has expired
        expiries = [self.expires_s(queue, request) for request in pending]
        return Wait(min([until_s, *(at_s for at_s in expiries if at_s is not None and at_s > soon_s)]))

    def choose(self, size: int, oldest_s: float, now_s: float) -> tuple[int, float | None]:
        """How many of the first `size` run now, and None; or until when they wait."""
        preferred = self.preferred_batch_size or (self.max_batch,)
        closes_s = oldest_s + self.max_queue_delay_s
        if self.max_queue_delay_s and now_s >= closes_s - CLOCK_ERROR_S:
            return size, None
        best = max((some for some in preferred if some <= size), default=0)
        if best:
            return best, None
        if not self.max_queue_delay_s:
            return size, None
        return size, closes_s

    def level(self, request: Request) -> int:
        """1: the most urgent; 0 where there are no levels."""
        if not self.priority_levels:
            return 0
        return min(max(self.default_priority_level - (request.priority or 0), 1), self.priority_levels)

    def expires_s(self, queue: QueueView, request: Request) -> float | None:
        """When it will have waited for too long; None: never."""
        if not self.default_timeout_s:
            return None
        timeout_s = self.default_timeout_s
        if self.allow_timeout_override and request.deadline_s is not None:
            timeout_s = min(timeout_s, request.deadline_s)
        return queue.queued_s(request.id) + timeout_s

    def ordered(self, queue: QueueView, now_s: float) -> tuple[list[Request], list[str], list[str]]:
        """Those that wait in the order in which they run, and whom to drop: for their time, and for their number."""
        levels: dict[int, tuple[list[Request], list[tuple[float, Request]]]] = {}
        too_many = []
        for request in queue:
            level = self.level(request)
            in_time, expired = levels.setdefault(level, ([], []))
            if self.max_queue_size and len(in_time) + len(expired) >= self.max_queue_size:
                too_many.append(request.id)
                continue
            expires_s = self.expires_s(queue, request)
            if expires_s is not None and now_s >= expires_s - CLOCK_ERROR_S:
                expired.append((expires_s, request))
            else:
                in_time.append(request)
        if self.timeout_action == "reject":
            too_late = [request.id for _, expired in levels.values() for _, request in expired]
            return [request for level in sorted(levels) for request in levels[level][0]], too_late, too_many
        in_order: list[Request] = []
        for level in sorted(levels):
            in_time, expired = levels[level]
            in_order += in_time
            in_order += [request for _, request in sorted(expired, key=_by_expiry)]
        return in_order, [], too_many


def _by_expiry(item: tuple[float, Request]) -> float:
    return item[0]
