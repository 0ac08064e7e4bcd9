"""Since when a pool has had nothing to do, which is what keep-alive policies go by."""

from __future__ import annotations

from policies.views import Ending, PoolView


class IdleTime:
    """Since when it is idle, exactly; and how long idle times were that are over, to one look. O(1)."""

    __slots__ = ("_ended_s", "since_s")

    def __init__(self) -> None:
        self.since_s: float | None = None
        """When its last request ended; None: it is at work, or never was."""
        self._ended_s: float | None = None

    def ended(self, ending: Ending, now_s: float) -> None:
        """A request has ended."""
        self._ended_s = now_s

    def look(self, pool: PoolView, now_s: float) -> float | None:
        """How long the idle time was that is over since the last look; None: none is.

        The request that ended it came at some time of the interval; at its beginning, as far as this knows.
        """
        arrived, past_s = pool.arrivals_per_s > 0.0 or pool.in_flight > 0, None
        if arrived and self.since_s is not None:
            past_s = max(0.0, now_s - pool.interval_s - self.since_s)
        if pool.in_flight > 0:
            self.since_s = None
        elif arrived or self.since_s is None:
            self.since_s = self._ended_s
        return past_s
