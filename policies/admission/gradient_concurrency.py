"""Gradient2: a limit on requests in flight that shrinks when latency rises above what it was for long."""

from __future__ import annotations

import random
from typing import Annotated

from msgspec import Meta

from policies.base import AdmissionPolicy
from policies.decisions import Admit, Reject
from policies.views import Ending, FleetView
from traces.schema import Request
from traces.values import BadValue

_ADMIT = Admit()
_OVER_LIMIT = Reject("too many in flight")
_WARM_UP_WINDOWS = 10
"""Windows whose plain mean the long latency is at first."""
_DECAY = 0.95
"""What comes off the long latency in each window in which it is more than twice the short one."""


class GradientConcurrency(AdmissionPolicy):
    """Refuse a request that finds as many in flight as the limit, which follows the gradient of latency. O(1).

    Once in a window the limit becomes ``(1 - smoothing) * limit + smoothing * (gradient * limit + queue_size)``, where
    the gradient is ``rtt_tolerance`` times the long latency over the window's mean, 0.5 at least and 1 at most; the
    long latency is an exponential mean over the last `long_window_windows`. A window in which never half of the limit
    was in flight changes nothing. Latency is from being let in to the end, of requests that completed or ran out of
    time; those that failed otherwise or were cancelled do not count.

    Source: Netflix, concurrency-limits, `Gradient2Limit` within `WindowedLimit` (Apache 2.0), with their defaults:
    `initialLimit` 20, `minLimit` 20, `maxConcurrency` 200, `smoothing` 0.2, `queueSize` 4, `rttTolerance` 1.5,
    `longWindow` 600; windows of 1 s with 10 samples or more.
    """

    initial_limit: Annotated[int, Meta(ge=1)] = 20
    """Requests in flight at first."""
    min_limit: Annotated[int, Meta(ge=1)] = 20
    """The limit never goes below this: too much for a fleet that runs less at a time."""
    max_limit: Annotated[int, Meta(ge=1)] = 200
    """The limit never goes above this (`maxConcurrency`)."""
    queue_size: Annotated[float, Meta(ge=0)] = 4.0
    """Requests that may wait, which is how far the limit grows in a window while latency is low."""
    smoothing: Annotated[float, Meta(gt=0, le=1)] = 0.2
    """How much of the new limit replaces the old one; 1: all."""
    rtt_tolerance: Annotated[float, Meta(ge=1)] = 1.5
    """Latency over its long mean from which the limit shrinks."""
    long_window_windows: Annotated[int, Meta(ge=1)] = 600
    """Windows of the long mean (`longWindow`)."""
    window_s: Annotated[float, Meta(ge=0)] = 1.0
    """Length of a window at least; 0: each request is one (with `window_requests` 1)."""
    window_requests: Annotated[int, Meta(ge=1)] = 10
    """Requests that a window must have had; one with fewer counts for nothing."""

    def check_values(self) -> None:
        """Raises `BadValue` where the limits are not in order."""
        if self.min_limit > self.max_limit:
            raise BadValue("min_limit", f"{self.min_limit} is above max_limit, {self.max_limit}")

    def reset(self, rng: random.Random) -> None:
        self.limit = float(self.initial_limit)
        self.long_s = 0.0
        """The long mean of latency."""
        self.windows = 0
        self.let_in: dict[str, tuple[float, int]] = {}
        """When each request in flight was let in, and how many there were with it."""
        self.ends_s = 0.0
        """From when on the next one to end closes the window."""
        self._open()

    def _open(self) -> None:
        self.samples = 0
        self.total_s = 0.0
        self.most_in_flight = 0

    def admit(self, request: Request, fleet: FleetView, now_s: float) -> Admit | Reject:
        if fleet.in_flight >= int(self.limit):
            return _OVER_LIMIT
        self.let_in[request.id] = now_s, fleet.in_flight + 1
        return _ADMIT

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        let_in = self.let_in.pop(ending.request.id, None)
        if let_in is None or ending.outcome not in ("completed", "expired"):
            return
        since_s, in_flight = let_in
        if now_s <= since_s:
            return  # it took no time: there is no gradient
        self.samples += 1
        self.total_s += now_s - since_s
        self.most_in_flight = max(self.most_in_flight, in_flight)
        if now_s > self.ends_s or self.window_s == 0.0:
            self.ends_s = now_s + self.window_s
            if self.samples >= self.window_requests:
                self._update(self.total_s / self.samples, self.most_in_flight)
            self._open()

    def _update(self, short_s: float, in_flight: int) -> None:
        long_s = self._longer(short_s)
        if long_s / short_s > 2.0:  # it was slow for long and is not any more; the mean would say so late
            self.long_s *= _DECAY
        if in_flight < self.limit / 2:
            return
        gradient = max(0.5, min(1.0, self.rtt_tolerance * long_s / short_s))
        new = gradient * self.limit + self.queue_size
        new = (1.0 - self.smoothing) * self.limit + self.smoothing * new
        self.limit = max(float(self.min_limit), min(float(self.max_limit), new))

    def _longer(self, short_s: float) -> float:
        self.windows += 1
        weight = (
            1.0 / self.windows if self.windows <= _WARM_UP_WINDOWS else 2.0 / (self.long_window_windows + 1)
        )
        self.long_s += weight * (short_s - self.long_s)
        return self.long_s
