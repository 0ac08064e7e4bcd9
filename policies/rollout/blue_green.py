"""All requests to one version, then all to the other, and back at once if need be."""

from __future__ import annotations

import random
from typing import Annotated

from msgspec import Meta

from policies.base import PolicyError
from policies.rollout.gated import GatedRollout
from policies.rollout.gates import Judge
from policies.views import VersionView
from traces.values import BadValue


class BlueGreen(GatedRollout):
    """Serve by `blue` until `at_s` or an operator's word, then by `green`. O(log window) where it is watched.

    At `at_s` it waits until `green` has `min_ready` replicas ready; an operator's word is done at once. For `watch_s`
    from then the gates hold green against what blue did before: not the same time, so of errors all since the run
    began, and of latency what was last. A gate that fails sends all requests back.

    Source: Humble and Farley, "Continuous Delivery", 2010, chapter 10 (blue-green deployments).
    """

    blue: str = "1"
    green: str = "2"
    at_s: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    """When to switch, from the start of the run; None: when an operator promotes."""
    min_ready: Annotated[int, Meta(ge=0)] = 1
    """Replicas of green that must be ready before it switches by itself."""
    watch_s: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    """How long the gates watch green after the switch; 0: not at all."""

    def check_values(self) -> None:
        """Raises `BadValue` where the two versions are one."""
        if self.blue == self.green:
            raise BadValue("green", f"{self.green!r} is blue too; name another version")

    def reset(self, rng: random.Random) -> None:
        self.start(rng, self.blue, self.green)
        self.switched_s: float | None = None
        if not self.watch_s:
            self.judge = None
        self.stage = f"blue: version {self.blue}"

    def watch(self, old: VersionView | None, new: VersionView | None, now_s: float) -> None:
        judge = self.judge
        if judge is not None:
            judge.seen(old, new, now_s)
        if self.switched_s is None:
            due = self.at_s is not None and now_s >= self.at_s
            if due and new is not None and new.ready >= self.min_ready:
                self._switch(now_s)
        elif judge is not None:
            last = now_s - self.switched_s >= self.watch_s
            if self.passes(judge, last=last) and last:
                self.finish(f"no gate failed in {self.watch_s:g} s, {judge.new.ended} requests")

    def _switch(self, now_s: float) -> None:
        self.switched_s, self.sent_share = now_s, 1.0
        if self.judge is not None:
            self.judge.begin(old_too=False)
        self.over = self.judge is None
        self.stage = f"green: version {self.green}"

    def promote(self, now_s: float) -> None:
        if self.sent_share:
            raise PolicyError(f"{self.name()} serves by green already")
        if self.over and self.watch_s:  # it was rolled back, and is tried again
            self.judge = Judge(self.gates)
        self._switch(now_s)
