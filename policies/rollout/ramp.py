"""More and more of the requests to a new version, as long as it is no worse."""

from __future__ import annotations

import random
from typing import Annotated

from msgspec import Meta

from policies.base import PolicyError
from policies.rollout.gated import StagedRollout
from policies.rollout.gates import Judge


class Ramp(StagedRollout):
    """Go through the shares of `stages`, each for `stage_s` and `gates.min_requests` of each version that have ended.

    The versions are compared anew in each stage: what only shows under load shows in a later one. Each stage has the
    same part of the gates' `alpha`, so that all of them together reject a version that is as good no more often than
    `alpha` says. Where all requests go to the new version, it is held against what the old one did in the stage before.
    At a failed gate it goes back, from whichever stage. O(log window) a request.

    Source: Humble and Farley, "Continuous Delivery", 2010, chapter 10; the stages are the usual 1, 10, 50, 100 %.
    """

    stages: tuple[Annotated[float, Meta(gt=0, le=1)], ...] = (0.01, 0.1, 0.5, 1.0)
    """Shares of requests, growing."""
    stage_s: Annotated[float, Meta(ge=0, le=1e9)] = 300.0
    """Of each, at least."""

    def check_values(self) -> None:
        """Raises `ValueError` for versions that are one, and for stages that do not grow."""
        super().check_values()
        if not self.stages or list(self.stages) != sorted(set(self.stages)):
            raise ValueError(f"stages = {self.stages} must grow, and there must be one")

    def reset(self, rng: random.Random) -> None:
        self.number = 0
        super().reset(rng)

    def begin(self, judge: Judge, now_s: float) -> None:
        self._enter(judge, 0, now_s)

    def _enter(self, judge: Judge, number: int, now_s: float) -> None:
        self.number, self.began_s, self.sent_share = number, now_s, self.stages[number]
        self.stage = f"ramp {100 * self.sent_share:g} %"
        judge.begin(old_too=number == 0 or self.sent_share < 1.0, parts=len(self.stages))

    def go_on(self, judge: Judge, held_s: float, now_s: float) -> None:
        # A first stage of all requests has nothing to be compared with.
        enough = judge.enough or self.stages[0] >= 1.0
        if held_s < self.stage_s or not enough or not self.passes(judge, last=True):
            return
        if self.number + 1 == len(self.stages):
            self.finish(f"all {len(self.stages)} stages")
        else:
            self._enter(judge, self.number + 1, now_s)

    def promote(self, now_s: float) -> None:
        if self.judge is None:
            raise PolicyError(f"{self.name()} has no stage left: {self.stage}")
        if self.began_s is None:
            raise PolicyError(f"{self.stage}; there is no stage to go on from yet")
        if self.number + 1 == len(self.stages):
            self.finish("by an operator")
        else:
            self._enter(self.judge, self.number + 1, now_s)
