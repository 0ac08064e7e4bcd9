"""How many requests a second one busy replica completes, learnt from what the pool does."""

from __future__ import annotations

import math

from policies.views import PoolView


class ServiceRate:
    """Completions over busy replica seconds, those of the last `memory_s` above all.

    Both sums fade by the same law, so that an interval without completions, while batches run, is no rate of zero. With
    batches it is the rate at the batch sizes of late; a replica that serves token by token is busy with one sequence as
    with many, and so looks slower than it could be.
    """

    __slots__ = ("_busy_s", "_completions", "_memory_s")

    def __init__(self, memory_s: float) -> None:
        self._memory_s = memory_s
        self._completions = self._busy_s = 0.0

    def learn(self, pool: PoolView) -> float | None:
        """Takes in the interval; answers the rate per second, None while nothing has completed."""
        if pool.busy_fraction is not None and pool.interval_s > 0.0:
            kept = math.exp(-pool.interval_s / self._memory_s)
            self._completions = self._completions * kept + pool.completions_per_s * pool.interval_s
            self._busy_s = self._busy_s * kept + pool.ready * pool.busy_fraction * pool.interval_s
        if self._completions <= 0.0 or self._busy_s <= 0.0:
            return None
        return self._completions / self._busy_s
