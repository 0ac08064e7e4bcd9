"""A small share of the requests to a new version, until it is known to be no worse."""

from __future__ import annotations

import random
from typing import Annotated

from msgspec import Meta

from policies.rollout.gated import GatedRollout
from policies.rollout.gates import Share


class Canary(GatedRollout):
    """Send `share` of the requests to the new version; promote it after `bake_s`, or roll back at a failed gate. O(1).

    The gates (see `Gates`) look at errors, latency and quality, each against the old version over the same time. One
    that never answers is caught too: what has been out for longer than the latency gate allows is slow. With
    `max_exposure` no more requests are sent to the new version than that before it is promoted.

    Source: Beyer et al., "The Site Reliability Workbook", 2018, chapter 16 (canarying releases); Schermann et al., "An
    Empirical Study on Principles and Practices of Continuous Delivery and Deployment", 2018.
    """

    share: Share = 0.05
    bake_s: Annotated[float, Meta(ge=0, le=1e9)] = 600.0
    """From its first request to its promotion, at least."""
    promote_itself: bool = True
    """False: it stays a canary until an operator promotes it."""
    max_exposure: Annotated[int, Meta(ge=1)] | None = None
    """Requests; None: as many as come."""

    def reset(self, rng: random.Random) -> None:
        super().reset(rng)
        self.began_s: float | None = None
        self.sent_share = self.share
        self.stage = f"canary {100 * self.share:g} %"

    def go_on(self, now_s: float) -> None:
        if self.began_s is None:
            self.began_s = now_s
        if self.max_exposure is not None and self.exposed >= self.max_exposure:
            self.sent_share = 0.0  # what it has had must be enough to decide
        baked = now_s - self.began_s >= self.bake_s and self.judge.looks > 0
        if baked and self.promote_itself:
            self.finish(f"no gate failed in {now_s - self.began_s:.4g} s, {self.judge.new.ended} requests")

    def promote(self, now_s: float) -> None:
        self.finish("by an operator")
