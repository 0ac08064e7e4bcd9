"""Since when a pool has had nothing to do, which is what keep-alive policies go by."""

from __future__ import annotations

from policies.views import Ending, PoolView


def serving(pool: PoolView) -> int:
    """Replicas that are to serve: those of which no spare is needed beside them."""
    return pool.ready if pool.desired is None else pool.desired


class IdleTime:
    """Since when it is idle, and how long each idle time was; exactly, of those that a look has seen. O(1)."""

    __slots__ = ("_before_s", "_ended_s", "since_s")

    def __init__(self) -> None:
        self.since_s: float | None = None
        """When its last request ended; None: it is at work, or never was."""
        self._ended_s: float | None = None
        self._before_s: float | None = None
        """Since when it was idle before the work that it does now, as long as nothing of that has ended."""

    def look(self, pool: PoolView) -> None:
        """Is it at work now?"""
        if pool.in_flight > 0:
            if self.since_s is not None:
                self._before_s, self.since_s = self.since_s, None
        elif self.since_s is None:
            self.since_s, self._before_s = self._ended_s, None

    def ended(self, ending: Ending, now_s: float) -> float | None:
        """A request has ended: how long the pool was idle when it came; None: not at all, or nobody knows."""
        since_s = self.since_s if self._before_s is None else self._before_s
        self._ended_s = now_s
        if since_s is None:
            return None
        idle_s = now_s - ending.e2e_s - since_s
        self._before_s = None
        if idle_s < 0.0:  # it had come before the pool was idle, and the news of its end came after the look
            self.since_s = None if self.since_s is None else now_s
            return None
        self.since_s = None
        return idle_s
