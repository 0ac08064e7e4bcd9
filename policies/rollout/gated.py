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
from traces.values import BadValue


def view_of(versions: Sequence[VersionView], name: str) -> VersionView | None:
    """The view of this version; None: it is not served. O(n)."""
    for view in versions:
        if view.version == name:
            return view
    return None


def instead(versions: Sequence[VersionView], new: str) -> str:
    """What serves where the old version is not there: the first that is not the new one, unless that is alone. O(n)."""
    return next((view.version for view in versions if view.version != new), new)


class GatedRollout(RolloutPolicy):
    """Send a share of the requests to a new version, and none any more once it fails a gate.

    A subclass says which versions these are, when it begins, and what comes next. Each request is drawn by itself,
    once, whatever its user was served by before: one that is asked about again stays where it is while that is served.
    Where the new one is not served, the old one serves. Where that is not served, which may be a name that was
    misspelt, it is the first of the others; the new one gets more than its share only where it is alone.
    """

    gates: Gates = Gates()

    def start(self, rng: random.Random, old: str, new: str) -> None:
        """Begin with all requests at the old version. For `reset`."""
        self.random = rng.random
        self.old, self.new = Serve(old), Serve(new)
        self.judge: Judge | None = Judge(self.gates)
        """None: nothing is judged any more."""
        self.sent_share = 0.0
        """Of requests, to the new version."""
        self.over = False
        """It was rolled back, or is everywhere."""
        self.exposed = 0
        """Requests that were sent to the new version."""

    def choose(self, request: Request, versions: Sequence[VersionView], now_s: float) -> Serve:
        old, new = view_of(versions, self.old.version), view_of(versions, self.new.version)
        if self.judge is not None:
            self.judge.heard(request.id)  # it is asked about again, so it was let in
        if not self.over:
            self.watch(old, new, now_s)
        judge = self.judge
        arm = None if judge is None else judge.arm_of(request.id)
        if judge is None or arm is None:
            to_new = self.random() < self.sent_share
        else:  # it is asked about again
            to_new = arm is judge.new
            if (new if to_new else old) is not None:
                return self.new if to_new else self.old
            arm.out.drop(request.id)  # what was to serve it has gone: neither is judged by it
        if (new if to_new else old) is None:
            to_new = old is None and len(versions) == 1 and new is not None
        if to_new:
            self.exposed += 1
        elif old is None:
            return Serve(instead(versions, self.new.version))
        if judge is not None and arm is None:
            judge.sent(judge.new if to_new else judge.old, request.id, request.arrived_s)
        return self.new if to_new else self.old

    @abstractmethod
    def watch(self, old: VersionView | None, new: VersionView | None, now_s: float) -> None:
        """Before each choice, until it is over: begin, judge, go on. None: that version is not served now."""

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        if self.judge is not None:
            self.judge.heard(request.id)

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        if self.judge is not None:
            self.judge.request_ended(ending)
            self.passes(self.judge)

    def passes(self, judge: Judge, *, last: bool = False) -> bool:
        """False: a gate failed, and it was rolled back. `last`: look even where it is not time for a look."""
        fault = judge.fault(last=last)
        if fault is not None:
            self.go_back(fault)
        return fault is None

    def go_back(self, why: str) -> None:
        """All to the old version, for good."""
        self.sent_share, self.over, self.judge = 0.0, True, None
        self.stage = f"rolled back: {why} ({self.exposed} requests were sent to version {self.new.version})"

    def finish(self, why: str) -> None:
        """All to the new version."""
        self.sent_share, self.over, self.judge = 1.0, True, None
        self.stage = f"promoted: {why}"

    def destination(self, *, back: bool) -> str:
        return (self.old if back else self.new).version

    def rollback(self, now_s: float) -> None:
        if not self.over or self.sent_share > 0.0:
            self.go_back("by an operator")


class StagedRollout(GatedRollout):
    """A gated rollout that begins when the new version has a ready replica: that it still loads is no fault of it.

    Where one of the two is retired before it is over, it waits, and begins anew when both are there: what comes back
    may be another build.
    """

    stable: str = "1"
    """The old version."""
    version: str = "2"
    """The new one."""

    def check_values(self) -> None:
        """Raises `BadValue` where the two versions are one."""
        if self.stable == self.version:
            raise BadValue("version", f"{self.version!r} is the stable one too; name another")

    def reset(self, rng: random.Random) -> None:
        self.start(rng, self.stable, self.version)
        self.wait(self.version)

    def wait(self, missing: str) -> None:
        """Nothing to the new version yet: the version `missing` is not there."""
        self.began_s: float | None = None
        self.sent_share = 0.0
        self.stage = f"{self.name()}: waits for version {missing}"

    def watch(self, old: VersionView | None, new: VersionView | None, now_s: float) -> None:
        judge = self.judge
        if judge is None:
            return
        if old is None or new is None:
            self.wait(self.stable if old is None else self.version)
            return
        if self.began_s is None:
            if new.ready:
                self.begin(judge, now_s)
            else:
                self.wait(self.version)
        judge.seen(old, new, now_s)
        if self.began_s is not None and self.passes(judge):
            self.go_on(judge, now_s - self.began_s, now_s)

    @abstractmethod
    def begin(self, judge: Judge, now_s: float) -> None:
        """The new version is there: send it its share, and count anew. Sets `began_s`."""

    @abstractmethod
    def go_on(self, judge: Judge, held_s: float, now_s: float) -> None:
        """Nothing speaks against the new version so far, `held_s` after `began_s`."""
