"""More and more of the requests to a new version, as long as it is no worse."""

from __future__ import annotations

import random
from typing import Annotated

from msgspec import Meta

from policies.base import PolicyError
from policies.rollout.gated import GatedRollout


class Ramp(GatedRollout):
    """Go through the shares of `stages`, each for `stage_s` and at least one look of the gates. O(1).

    The versions are compared anew in each stage: what only shows under load shows in a later one. At a failed gate it
    goes back, from whichever stage.

    Source: Humble and Farley, "Continuous Delivery", 2010, chapter 10; the stages are the usual 1, 10, 50, 100 %.
    """

    stages: tuple[Annotated[float, Meta(gt=0, le=1)], ...] = (0.01, 0.1, 0.5, 1.0)
    """Shares of requests, growing."""
    stage_s: Annotated[float, Meta(ge=0, le=1e9)] = 300.0
    """Of each, at least."""

    def check_values(self) -> None:
        """Whether the stages are stages."""
        if not self.stages or list(self.stages) != sorted(set(self.stages)):
            raise ValueError(f"stages = {self.stages} must grow, and there must be one")

    def reset(self, rng: random.Random) -> None:
        super().reset(rng)
        self.number = 0
        self.began_s: float | None = None
        self._enter(0)

    def _enter(self, number: int) -> None:
        self.number = number
        self.sent_share = self.stages[number]
        self.began_s = None
        self.stage = f"ramp {100 * self.sent_share:g} %"
        self.judge.begin()

    def go_on(self, now_s: float) -> None:
        if self.began_s is None:
            self.began_s = now_s
        last = self.number + 1 == len(self.stages)
        # At the last stage there may be nothing left to compare with.
        looked = self.judge.looks > 0 or (last and self.sent_share >= 1.0)
        if now_s - self.began_s < self.stage_s or not looked:
            return
        if last:
            self.finish(f"all {len(self.stages)} stages")
        else:
            self._enter(self.number + 1)

    def promote(self, now_s: float) -> None:
        if self.over:
            raise PolicyError(f"{self.name()} has no stage left: {self.stage}")
        if self.number + 1 == len(self.stages):
            self.finish("by an operator")
        else:
            self._enter(self.number + 1)
