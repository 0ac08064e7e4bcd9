"""A tick loop with the scenario's rules, that counts what it serves in two ways.

Written from the description of the loop in print, to find where its figures come from. Requests join one queue.
A millisecond at a time: an idle replica takes up to 16 of them once 16 wait or the oldest has waited 10 ms, and
is busy for 12 ms and 3 ms an item; each 100 ms one replica is added above 10 waiting per ready one (unless one
is loading, which takes 0.8 s), and below 3 the first idle one is retired (unless 2 or fewer are ready); at
20 s the first ready one fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

TICK_S, END_S, FAILURE_S, CONTROL_TICKS = 0.001, 30.0, 20.0, 100
MAX_BATCH, WINDOW_S, BASE_S, PER_ITEM_S = 16, 0.010, 0.012, 0.003
UP_AT, DOWN_AT, KEEP, COLD_START_S = 10, 3, 2, 0.8


class Accounts(Struct, kw_only=True):
    """What the loop did, and both ways of adding it up."""

    arrivals: int
    printed_served: int
    """Over the replicas that are in the fleet at the end: the retired ones took their counts with them."""
    answered: int
    """Over all batches ever started."""
    retired_served: int
    """By replicas that were retired."""
    lost_in_failure: int
    """Of `answered`, those in the batch that the failed replica was running when it failed."""
    unanswered: int
    """Still waiting when the loop ended."""
    mean_ms: float
    p50_ms: float
    p99_ms: float
    utilization: float
    replicas_min: int
    replicas_max: int


class _Replica(Struct):
    ready_s: float
    busy_until_s: float = 0.0
    running: int = 0
    served: int = 0
    failed: bool = False

    def is_ready(self, now_s: float) -> bool:
        return not self.failed and now_s >= self.ready_s

    def is_idle(self, now_s: float) -> bool:
        return self.is_ready(now_s) and now_s >= self.busy_until_s


class _Loop:
    def __init__(self) -> None:
        self.queue: deque[float] = deque()
        self.fleet = [_Replica(0.0), _Replica(0.0)]
        self.everyone = list(self.fleet)
        self.latencies_ms: list[float] = []
        self.ready_counts: list[int] = []
        self.busy_fractions: list[float] = []
        self.lost = 0

    def fail_one(self, now_s: float) -> None:
        victim = next(replica for replica in self.fleet if replica.is_ready(now_s))
        victim.failed = True
        self.lost = victim.running if now_s < victim.busy_until_s else 0

    def form_batches(self, now_s: float) -> None:
        for replica in self.fleet:
            due = len(self.queue) >= MAX_BATCH or (bool(self.queue) and now_s - self.queue[0] >= WINDOW_S)
            if not (due and replica.is_idle(now_s)):
                continue
            batch = [self.queue.popleft() for _ in range(min(MAX_BATCH, len(self.queue)))]
            replica.busy_until_s = now_s + BASE_S + PER_ITEM_S * len(batch)
            replica.running = len(batch)
            replica.served += len(batch)
            self.latencies_ms += [(replica.busy_until_s - arrived_s) * 1000.0 for arrived_s in batch]

    def control(self, now_s: float) -> None:
        ready = [replica for replica in self.fleet if replica.is_ready(now_s)]
        loading = any(not replica.failed and now_s < replica.ready_s for replica in self.fleet)
        depth = len(self.queue) / max(1, len(ready))
        if depth > UP_AT and not loading:
            self.fleet.append(_Replica(now_s + COLD_START_S))
            self.everyone.append(self.fleet[-1])
        elif depth < DOWN_AT and len(ready) > KEEP:
            idle = [replica for replica in self.fleet if replica.is_idle(now_s)]
            if idle:
                self.fleet = [replica for replica in self.fleet if replica is not idle[0]]
        self.ready_counts.append(len(ready))
        self.busy_fractions.append(
            sum(now_s < replica.busy_until_s for replica in ready) / max(1, len(ready))
        )


def play(arrivals_s: Sequence[float]) -> Accounts:
    """Run the loop over these arrivals, at most one a tick, and close both sets of books."""
    loop, coming = _Loop(), deque(arrivals_s)
    now_s, tick = 0.0, 0  # the clock adds up its ticks, as the one that made the arrivals did
    failure_to_come = True
    while now_s < END_S:
        if failure_to_come and now_s >= FAILURE_S:
            loop.fail_one(now_s)
            failure_to_come = False
        if coming and coming[0] <= now_s:
            loop.queue.append(coming.popleft())
        loop.form_batches(now_s)
        if tick % CONTROL_TICKS == 0:
            loop.control(now_s)
        now_s += TICK_S
        tick += 1
    return _close(loop, len(arrivals_s))


def _close(loop: _Loop, arrivals: int) -> Accounts:
    printed = sum(replica.served for replica in loop.fleet)
    answered = sum(replica.served for replica in loop.everyone)
    ordered = sorted(loop.latencies_ms)
    return Accounts(
        arrivals=arrivals,
        printed_served=printed,
        answered=answered,
        retired_served=answered - printed,
        lost_in_failure=loop.lost,
        unanswered=len(loop.queue),
        mean_ms=float(np.mean(ordered)),
        p50_ms=ordered[len(ordered) // 2],
        p99_ms=ordered[int(len(ordered) * 0.99)],
        utilization=float(np.mean(loop.busy_fractions)),
        replicas_min=min(loop.ready_counts),
        replicas_max=max(loop.ready_counts),
    )
