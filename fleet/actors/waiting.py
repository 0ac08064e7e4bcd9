"""A queue of waiting attempts: what a batching policy sees, and which replicas may take from it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache

from fleet.actor import Timer
from fleet.actors.hearing import Hooks
from fleet.blame import blaming
from fleet.messages import Work, replica_number
from policies.base import BatchingPolicy, QueueingPolicy
from policies.views import ReplicaView
from traces.schema import Request

_number = lru_cache(maxsize=65_536)(replica_number)


def _order(view: ReplicaView) -> tuple[int, int]:
    """Those with the most room come first: a batch at the door of a busy replica would wait beside an idle one."""
    return -view.capacity, _number(view.id)


class WaitingQueue:
    """Waiting attempts with the policies that order and batch them; what a batching policy sees as `QueueView`."""

    __slots__ = (
        "batching",
        "drops",
        "hooks",
        "idle",
        "number",
        "order",
        "replica",
        "said_wait",
        "timer",
        "wait_until_s",
        "waiting",
    )

    def __init__(
        self, number: int, replica: str | None, queueing: QueueingPolicy, batching: BatchingPolicy
    ) -> None:
        self.number = number
        self.replica = replica
        """Who alone may take from it; None: any of the pool."""
        self.order = queueing
        self.batching = batching
        self.hooks = Hooks(queueing, batching)
        self.drops = type(queueing).drops is not QueueingPolicy.drops
        """The queueing policy may give up what waits."""
        self.waiting: OrderedDict[str, tuple[Work, float]] = OrderedDict()
        self.idle: list[ReplicaView] = []
        """Replicas with room for a batch, those with the most first."""
        self.said_wait = False
        """The batching policy was asked last and said `Wait`."""
        self.timer: Timer | None = None
        self.wait_until_s: float | None = None

    @property
    def oldest_s(self) -> float:
        return next(iter(self.waiting.values()))[1]

    def queued_s(self, request_id: str) -> float:
        return self.waiting[request_id][1]

    def __len__(self) -> int:
        return len(self.waiting)

    def __iter__(self) -> Iterator[Request]:
        return (work.request for work, _ in self.waiting.values())

    def add(self, work: Work, now_s: float) -> Work | None:
        """One more. A queue has one attempt at each request: one that waits by this name gives way, and is answered.

        It is a shadow, and what it was to show is past: its request has moved to where it waits, or has ended, and
        another one has come by its name.
        """
        request = work.request
        shadow = self.take(request.id) if request.id in self.waiting else None
        self.waiting[request.id] = (work, now_s)
        try:
            self.order.push(request, now_s)
        except Exception as error:
            raise blaming(self.order, error, request.id, now_s) from error
        return shadow

    def take(self, request_id: str) -> Work | None:
        """Take one out by name."""
        entry = self.waiting.pop(request_id, None)
        if entry is None:
            return None
        self.order.remove(request_id)
        return entry[0]

    def clear(self) -> list[Work]:
        """Take all out, in the order they were queued."""
        return [work for request_id in list(self.waiting) if (work := self.take(request_id)) is not None]

    def disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = self.wait_until_s = None

    # --- who may take from it ----------------------------------------------------------------------------------

    def offer(self, view: ReplicaView) -> None:
        """A replica has room. Those with the most are offered first, and of equals that with the lowest number."""
        insort(self.idle, view, key=_order)

    def withhold(self, view: ReplicaView) -> None:
        """No more for this one; before its capacity changes, which is what it is found by."""
        index = bisect_left(self.idle, _order(view), key=_order)
        if index < len(self.idle) and self.idle[index] is view:
            del self.idle[index]
