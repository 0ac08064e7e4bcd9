"""DAGOR: an admission level over priorities that moves until requests wait no longer than they should."""

from __future__ import annotations

import random
from typing import Annotated
from zlib import crc32

from msgspec import Meta

from policies.base import AdmissionPolicy
from policies.decisions import Admit, Reject
from policies.views import Completion, Ending, FleetView
from traces.schema import Request

_ADMIT = Admit()
_SHED = Reject("below the admission level")
_HOUR_S = 3600.0

Level = tuple[int, int]
"""Priority of the request, and of its user: the larger, the more urgent, the first before the second."""


class Dagor(AdmissionPolicy):
    """Refuse what is below the admission level, which rises under overload and falls again after it. O(1).

    A window ends after `window_s` or `window_requests` requests. It was overloaded if requests waited longer than
    `target_s` on average. Then the level rises until, of a window like the last, a share `alpha` fewer would be let in
    than were; else it falls until as many more would be as are `beta` of all that came. Requests are ordered by
    `priority` (none: 0) and then by their users (else sessions, tenants, or themselves), whose priorities among
    themselves are drawn by hashing and change by the hour: within it the same users are served, all through their
    sessions. A window costs O(n log n) in the levels that came in it.

    In the source each service judges by its own queue, and tells its level to those who call it; here the fleet is one
    service. The wait of an attempt that completed is its time in all less its service; one that ran out of time, or was
    given up, waited until then.

    Source: Zhou et al., "Overload Control for Scaling WeChat Microservices", ACM SoCC 2018 (with the algorithm as
    corrected in arXiv:1806.04075v2): 20 ms, 1 s or 2,000 requests, 128 user priorities, alpha 5 %, beta 1 %.
    """

    target_s: Annotated[float, Meta(gt=0)] = 0.020
    """Mean wait above which a window was overloaded."""
    window_s: Annotated[float, Meta(gt=0)] = 1.0
    """Length of a window at most."""
    window_requests: Annotated[int, Meta(ge=1)] = 2000
    """Requests of a window at most."""
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    """Share of those let in by which overload reduces them."""
    beta: Annotated[float, Meta(gt=0, lt=1)] = 0.01
    """Share of all that came by which those let in grow without it."""
    user_levels: Annotated[int, Meta(ge=1, le=65_536)] = 128
    """Priorities among users."""

    def reset(self, rng: random.Random) -> None:
        self.level: Level | None = None
        """The least urgent that is let in; None: everybody is."""
        self.starts_s = 0.0
        self._open(0.0)

    def _open(self, now_s: float) -> None:
        self.starts_s = now_s
        self.came: dict[Level, int] = {}
        """Requests of this window by level."""
        self.count = self.let_in = 0
        self.waited_s, self.waits = 0.0, 0

    def admit(self, request: Request, fleet: FleetView, now_s: float) -> Admit | Reject:
        if now_s >= self.starts_s + self.window_s or self.count >= self.window_requests:
            self._close()
            self._open(now_s)
        level = self._level_of(request, now_s)
        self.came[level] = self.came.get(level, 0) + 1
        self.count += 1
        if self.level is not None and level < self.level:
            return _SHED
        self.let_in += 1
        return _ADMIT

    def _level_of(self, request: Request, now_s: float) -> Level:
        who = request.user or request.session or request.tenant or request.id
        return request.priority or 0, crc32(f"{int(now_s // _HOUR_S)} {who}".encode()) % self.user_levels

    def _close(self) -> None:
        """Set the level for the next window by how this one was."""
        overloaded = self.waits > 0 and self.waited_s / self.waits > self.target_s
        if self.level is None and not overloaded:
            return
        wanted = (1.0 - self.alpha) * self.let_in if overloaded else self.let_in + self.beta * self.count
        reached = 0
        for place, (level, count) in enumerate(sorted(self.came.items(), reverse=True)):
            reached += count
            if reached >= wanted:
                too_many = overloaded and reached > wanted and place > 0  # the most urgent are always let in
                self.level = (level[0], level[1] + 1) if too_many else level
                return
        if not overloaded:
            self.level = None  # all that came would not be too many

    def on_completed(self, completion: Completion, now_s: float) -> None:
        if completion.failure is None and completion.e2e_s is not None and completion.service_s is not None:
            self._waited(completion.e2e_s - completion.service_s)

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        if ending.outcome in ("expired", "shed"):
            self._waited(ending.e2e_s)

    def _waited(self, wait_s: float) -> None:
        self.waited_s += max(0.0, wait_s)
        self.waits += 1
