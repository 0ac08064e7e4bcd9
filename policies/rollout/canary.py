"""A small share of the requests to a new version, until it is known to be no worse."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from policies.rollout.gated import StagedRollout
from policies.rollout.gates import Judge, Share
from traces.values import BadValue


class Canary(StagedRollout):
    """Send `share` of the requests to the new version; promote it after `bake_s`, or roll back at a failed gate.

    The gates (see `Gates`) look at errors, latency and quality, each against the old version over the same time. One
    that never answers is caught too: what has been out for longer than the latency gate allows is slow. It is promoted
    after a last look, once `gates.min_requests` of each version have ended. With `max_exposure` no more requests are
    sent to it before that; when all of them have ended, and are too few, it is rolled back. O(log window) a request.

    Source: Beyer et al., "The Site Reliability Workbook", 2018, chapter 16 (canarying releases); Schermann et al., "An
    Empirical Study on Principles and Practices of Continuous Delivery and Deployment", 2018.
    """

    share: Share = 0.05
    bake_s: Annotated[float, Meta(ge=0, le=1e9)] = 600.0
    """From when it is first ready to its promotion, at least."""
    promote_itself: bool = True
    """False: it stays a canary until an operator promotes it."""
    max_exposure: Annotated[int, Meta(ge=1)] | None = None
    """Requests, `gates.min_requests` or more; None: as many as come."""

    def check_values(self) -> None:
        """Raises `BadValue` for versions that are one, and a bound under which nothing could be promoted."""
        super().check_values()
        least = self.gates.min_requests
        if self.max_exposure is not None and self.max_exposure < least:
            raise BadValue(
                "max_exposure",
                f"{self.max_exposure} is below gates.min_requests, {least}, which a promotion needs",
            )

    def begin(self, judge: Judge, now_s: float) -> None:
        self.began_s, self.sent_share = now_s, self.share
        self.settled = False
        """All that `max_exposure` allows has ended, and was looked at."""
        self.stage = f"canary {100 * self.share:g} %"
        judge.begin()

    def go_on(self, judge: Judge, held_s: float, now_s: float) -> None:
        if self.max_exposure is not None and self.exposed >= self.max_exposure and not self.settled:
            self.sent_share = 0.0  # what it has had must be enough to decide
            self.settled = not judge.new.out.open
            if self.settled and self.passes(judge, last=True) and not judge.enough:
                self.go_back(f"undecided, for {judge.new.ended} of them ended")
        if self.over or not self.promote_itself or held_s < self.bake_s or not judge.enough:
            return
        if self.passes(judge, last=True):
            self.finish(f"no gate failed in {held_s:.4g} s, {judge.new.ended} requests")

    def promote(self, now_s: float) -> None:
        self.finish("by an operator")
