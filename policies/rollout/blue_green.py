"""All requests to one version, then all to the other, and back at once if need be."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import PolicyError, RolloutPolicy
from policies.decisions import Serve
from policies.views import Ending, VersionView
from traces.schema import Request


class BlueGreen(RolloutPolicy):
    """Serve by `blue` until `at_s` or an operator's word, then by `green`. O(n) in the versions.

    With `max_error_fraction` it goes back by itself: when so much of the last `window` requests of green failed.

    Source: Humble and Farley, "Continuous Delivery", 2010, chapter 10 (blue-green deployments).
    """

    blue: str = "1"
    green: str = "2"
    at_s: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    """When to switch, from the start of the run; None: when an operator promotes."""
    max_error_fraction: Annotated[float, Meta(gt=0, le=1)] | None = None
    window: Annotated[int, Meta(ge=1, le=100_000)] = 100

    def reset(self, rng: random.Random) -> None:
        self.active = self.blue
        self.back = False
        self.ended = self.failed = 0
        """Of green, since it is active, in windows of so many."""
        self.stage = f"blue: version {self.blue}"

    def choose(self, request: Request, versions: Sequence[VersionView], now_s: float) -> Serve:
        if self.at_s is not None and now_s >= self.at_s and self.active == self.blue and not self.back:
            self._switch()
        served = [view.version for view in versions]
        if self.active in served:
            return Serve(self.active)
        other = self.blue if self.active == self.green else self.green
        return Serve(other if other in served else served[0])

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        limit = self.max_error_fraction
        if limit is None or self.active != self.green or ending.version != self.green:
            return
        if ending.outcome == "cancelled":
            return
        self.ended += 1
        self.failed += ending.outcome != "completed"
        if self.failed >= limit * self.window:
            self._return(f"{self.failed} of {self.ended} requests failed")
        elif self.ended >= self.window:
            self.ended = self.failed = 0

    def _switch(self) -> None:
        self.active = self.green
        self.stage = f"green: version {self.green}"

    def _return(self, why: str) -> None:
        self.active, self.back = self.blue, True
        self.stage = f"back to blue: {why}"

    def promote(self, now_s: float) -> None:
        if self.active == self.green:
            raise PolicyError(f"{self.name()} serves by green already")
        self.back, self.ended, self.failed = False, 0, 0
        self._switch()

    def rollback(self, now_s: float) -> None:
        self._return("by an operator")
