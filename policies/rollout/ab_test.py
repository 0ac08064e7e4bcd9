"""Two versions, each for the users that fall to it, and a verdict that may be looked at all the time."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from policies.base import PolicyError, RolloutPolicy
from policies.decisions import Serve
from policies.rollout.blocks import Blocks
from policies.rollout.feature_flag import position, who
from policies.rollout.gates import fisher_p
from policies.rollout.ledger import Ledger
from policies.views import Ending, VersionView
from traces.schema import Request
from traces.values import BadValue


class Sample:
    """Values by user, of which each may have many. O(1) for a value; memory for each user.

    Source: Deng, Knoblich and Lu, "Applying the Delta Method in Metric Analytics", KDD 2018: the requests of one user
    are not independent, users are; so a mean over requests is a ratio of sums over users, and varies as that does.
    """

    __slots__ = ("_counts2", "_products", "_squares", "_sums2", "_users", "count", "sum")

    def __init__(self) -> None:
        self._users: dict[str, tuple[int, float]] = {}
        self.count, self.sum = 0, 0.0
        self._counts2 = 0
        self._products = self._squares = self._sums2 = 0.0

    @property
    def users(self) -> int:
        """How many there are."""
        return len(self._users)

    @property
    def mean(self) -> float:
        """Over the values; 0 where there are none."""
        return self.sum / self.count if self.count else 0.0

    def add(self, user: str, value: float) -> None:
        """One more of this user."""
        count, total = self._users.get(user, (0, 0.0))
        self._users[user] = (count + 1, total + value)
        self.count += 1
        self.sum += value
        self._counts2 += 2 * count + 1
        self._products += count * value + total + value
        self._squares += value * value
        self._sums2 += value * (2.0 * total + value)

    @property
    def variance_of_mean(self) -> float:
        """Infinite below two users."""
        users, mean = len(self._users), self.mean
        if users < 2:
            return math.inf
        squares = self._sums2 - 2.0 * mean * self._products + mean * mean * self._counts2
        return max(0.0, squares) / (self.count * self.count) * users / (users - 1)

    @property
    def variance_if_independent(self) -> float:
        """Likewise, if no two values had to do with each other."""
        if self.count < 2:
            return math.inf
        return max(0.0, self._squares / self.count - self.mean * self.mean) / (self.count - 1)


class Arm:
    """What came of the requests of one version's own users, sent while both versions were served."""

    def __init__(self) -> None:
        self.out = Ledger()
        self.sample = Sample()
        self.ended = self.failed = 0
        """Those that ended, but for what clients cancelled; and of them those that did not complete."""
        self.longest_s = 0.0
        """Of those that completed."""


class ABTest(RolloutPolicy):
    """Serve a `share` of the users by `b`, the others by `a`, and say which is better when that is known. O(1).

    A user is always served by the same version: a keyed hash of the name decides (of the session or the request where
    there is none). The test is the mixture sequential probability ratio test on the difference of means: the likelihood
    ratio, averaged over differences that are normal with the standard deviation `effect`, against none. It may be
    looked at after every request: the probability that it ever exceeds 1 / `alpha` while there is no difference is at
    most `alpha` (as far as means of `min_requests` and more users are normal). Where there is no verdict by `horizon`
    requests of each, none is given.

    Successive latencies depend on each other too, whoever's they are, as they share a queue: a test on `e2e_s` is only
    looked at when a block of successive requests of both versions is complete, from 32 blocks of 32 on (see `Blocks`);
    its variance is that of users and that of blocks, less what both of them count.

    Those count that were sent to the user's own version while both are served, as they end. A version that seems
    better by what it completed, and fails or leaves unanswered more of it (Fisher's exact test at `alpha`, once), is
    not called so. Everybody stays where they are after the verdict, until an operator promotes the winner or rolls back
    to `a`. It remembers each user of the test.

    Source: Johari, Koomen, Pekelis and Walsh, "Peeking at A/B Tests", KDD 2017; Robbins, "Statistical Methods Related
    to the Law of the Iterated Logarithm", 1970; Cameron, Gelbach and Miller, "Robust Inference with Multiway
    Clustering", 2011 (users and blocks).
    """

    a: str = "1"
    b: str = "2"
    share: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    salt: str = "ab"
    metric: Literal["errors", "e2e_s", "quality"] = "errors"
    """Of each request; of latency and quality, of those that completed."""
    effect: Annotated[float, Meta(gt=0)] = 0.05
    """The difference that is looked for, in the unit of the metric."""
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    min_requests: Annotated[int, Meta(ge=2)] = 50
    """Requests of each version, and users, before the first look."""
    horizon: Annotated[int, Meta(ge=2)] = 100_000
    """Requests of each version, at most."""

    def check_values(self) -> None:
        """Raises `BadValue` where the two versions are one."""
        if self.a == self.b:
            raise BadValue("b", f"{self.b!r} is `a` too; name another version")

    def reset(self, rng: random.Random) -> None:
        self.arms = {self.a: Arm(), self.b: Arm()}
        self.blocks = Blocks() if self.metric == "e2e_s" else None
        """None: requests of different users are independent."""
        self.over = False
        self.winner: str | None = None
        self.all_to: str | None = None
        """Where everybody goes since an operator said so."""
        self.stage = "test runs"

    def choose(self, request: Request, versions: Sequence[VersionView], now_s: float) -> Serve:
        in_flight = {view.version: view.in_flight for view in versions}
        wanted, other = (self.b, self.a) if position(self.salt, request) < self.share else (self.a, self.b)
        if self.all_to is not None:
            wanted, other = self.all_to, self.b if self.all_to == self.a else self.a
        elif not self.over:
            self._take_part(request, wanted, in_flight)
        if wanted in in_flight:
            return Serve(wanted)
        return Serve(other if other in in_flight else versions[0].version)

    def _take_part(self, request: Request, wanted: str, in_flight: dict[str, int]) -> None:
        """It does while both are served; what was to be served by one that has gone does not any more."""
        for version, arm in self.arms.items():
            if version in in_flight:
                arm.out.reconcile(in_flight[version])
        out = self.arms[wanted].out
        if wanted not in in_flight:
            out.drop(request.id)
        elif len(self.arms) == sum(version in in_flight for version in self.arms) and request.id not in out:
            out.sent(request.id, request.arrived_s)

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        if not self.over:
            for arm in self.arms.values():
                arm.out.heard(request.id)

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        if self.over:
            return
        for arm in self.arms.values():
            if ending.request.id in arm.out:
                arm.out.drop(ending.request.id)
                if ending.outcome != "cancelled":  # its client's own doing
                    self._count(arm, ending)
                    self._look(now_s)
                return

    def _count(self, arm: Arm, ending: Ending) -> None:
        completed = ending.outcome == "completed"
        arm.ended += 1
        arm.failed += not completed
        if completed:
            arm.longest_s = max(arm.longest_s, ending.e2e_s)
        if self.metric == "errors":
            arm.sample.add(who(ending.request), float(not completed))
        elif completed:
            value = ending.e2e_s if self.metric == "e2e_s" else ending.quality
            if value is not None:
                arm.sample.add(who(ending.request), value)
                if self.blocks is not None:
                    self.blocks.add(int(arm is self.arms[self.b]), value)

    def _look(self, now_s: float) -> None:
        if self.blocks is not None and not self.blocks.complete:
            return
        a, b = self.arms[self.a].sample, self.arms[self.b].sample
        if min(a.count, b.count, a.users, b.users) < self.min_requests:
            if min(arm.ended for arm in self.arms.values()) >= self.horizon:
                self._end("too few users were seen", now_s)
        elif self.likelihood_ratio() >= 1.0 / self.alpha:
            better = self.b if (b.mean < a.mean) == (self.metric != "quality") else self.a
            if self._misses_more(better, now_s):
                self._end(f"version {better} seems better, and fails or leaves out more", now_s)
            else:
                self.winner = better
                self._end(f"version {better} is better", now_s)
        elif min(a.count, b.count) >= self.horizon:
            few = self.blocks is not None and not self.blocks.enough
            self._end("too few requests were seen" if few else "no difference was found", now_s)

    def likelihood_ratio(self) -> float:
        """How much likelier what was seen is with a difference than with none."""
        a, b = self.arms[self.a].sample, self.arms[self.b].sample
        difference, prior = b.mean - a.mean, self.effect * self.effect
        variance = a.variance_of_mean + b.variance_of_mean
        if self.blocks is not None and variance > 0.0:
            blocks = self.blocks.variance()
            both = variance + blocks - a.variance_if_independent - b.variance_if_independent
            variance = self.blocks.as_normal(max(variance, blocks, both), difference)
        if variance <= 0.0:  # all alike on both sides
            return 1.0 if a.mean == b.mean else math.inf
        if not math.isfinite(variance):
            return 1.0
        exponent = prior * difference * difference / (2.0 * variance * (variance + prior))
        return math.sqrt(variance / (variance + prior)) * math.exp(min(exponent, 700.0))

    def _misses_more(self, version: str, now_s: float) -> bool:
        """More of its requests than of the other's failed, or are out for longer than any that completed took."""
        longest_s = max(arm.longest_s for arm in self.arms.values())
        one, other = self.arms[version], self.arms[self.a if version == self.b else self.b]
        counts = []
        for arm in (one, other):
            late = sum(now_s - arrived_s > longest_s for arrived_s in arm.out.open.values())
            counts += [arm.failed + late, arm.ended + late]
        return fisher_p(*counts) < self.alpha

    def _end(self, verdict: str, now_s: float) -> None:
        figures = []
        for version, arm in self.arms.items():
            out = f", {len(arm.out)} still out" if len(arm.out) else ""
            figures.append(
                f"{arm.sample.mean:.4g} of {arm.sample.count} by {version} ({arm.failed} failed{out})"
            )
        self.over, self.arms = True, {}
        self.stage = f"verdict: {verdict} ({self.metric} {', '.join(figures)})"

    def promote(self, now_s: float) -> None:
        if self.winner is None:
            raise PolicyError(f"{self.name()} has no winner to promote; {self.stage}")
        if self.all_to is not None:
            raise PolicyError(f"all requests go to version {self.all_to} already")
        self.all_to = self.winner
        self.stage = f"promoted: all to version {self.winner}, by an operator"

    def rollback(self, now_s: float) -> None:
        self.over, self.arms, self.winner, self.all_to = True, {}, None, self.a
        self.stage = f"rolled back: all to version {self.a}, by an operator"
