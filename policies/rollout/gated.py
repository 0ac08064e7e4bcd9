"""What rollouts with gates have in common: two versions, a share, and a way back."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence

from policies.base import RolloutPolicy
from policies.decisions import Serve
from policies.rollout.gates import Gates, Judge
from policies.views import Ending, VersionView
from traces.schema import Request


class GatedRollout(RolloutPolicy):
    """Send a share of the requests to a new version, and none any more once it fails a gate.

    A subclass says the share, and what comes when a stage is over. Each request is drawn by itself, whatever its user
    was served by before.
    """

    stable: str = "1"
    """The old version."""
    version: str = "2"
    """The new one."""
    gates: Gates = Gates()

    def reset(self, rng: random.Random) -> None:
        self.random = rng.random
        self.judge = Judge(self.gates)
        self.sent_share = 0.0
        """Of requests, to the new version."""
        self.over = False
        """It was rolled back, or is everywhere: nothing is judged any more."""
        self.exposed = 0
        """Requests that were sent to the new version."""

    def choose(self, request: Request, versions: Sequence[VersionView], now_s: float) -> Serve:
        served = [view.version for view in versions]
        if not self.over:
            self.look(now_s)
        chosen = self.version if self.random() < self.sent_share else self.stable
        if chosen not in served:
            other = self.stable if chosen == self.version else self.version
            chosen = other if other in served else served[0]
        if chosen == self.version:
            self.exposed += 1
        if not self.over and chosen in (self.version, self.stable):
            (self.judge.new if chosen == self.version else self.judge.old).sent(request.id, request.arrived_s)
        return Serve(chosen)

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        if self.over:
            return
        if ending.version == self.version:
            self.judge.new.request_ended(ending)
        elif ending.version == self.stable:
            self.judge.old.request_ended(ending)
        self.look(now_s)

    def look(self, now_s: float) -> None:
        """Judge, if it is time to, and go on when a stage is over."""
        fault = self.judge.fault(now_s)
        if fault is not None:
            self.go_back(fault)
        else:
            self.go_on(now_s)

    @abstractmethod
    def go_on(self, now_s: float) -> None:
        """Nothing speaks against the new version so far."""

    def go_back(self, why: str) -> None:
        """All to the old version, for good."""
        self.sent_share, self.over = 0.0, True
        self.stage = f"rolled back: {why} ({self.exposed} requests were sent to version {self.version})"

    def finish(self, why: str) -> None:
        """All to the new version."""
        self.sent_share, self.over = 1.0, True
        self.stage = f"promoted: {why}"

    def rollback(self, now_s: float) -> None:
        self.go_back("by an operator")
