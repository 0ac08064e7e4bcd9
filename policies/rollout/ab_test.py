"""Two versions, each for the users that fall to it, and a verdict that may be looked at all the time."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from policies.base import RolloutPolicy
from policies.decisions import Serve
from policies.rollout.feature_flag import position
from policies.views import Ending, VersionView
from traces.schema import Request


class _Sample(Struct):
    """Mean and variance of what one version's requests came to, as they come (Welford)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        off = value - self.mean
        self.mean += off / self.count
        self.squares += off * (value - self.mean)

    @property
    def variance_of_mean(self) -> float:
        return self.squares / (self.count - 1) / self.count if self.count > 1 else math.inf


class ABTest(RolloutPolicy):
    """Serve a `share` of the users by `b`, the others by `a`, and say which is better when that is known. O(1).

    A user is always served by the same version: a keyed hash of the name decides (of the session or the request where
    there is none). The test is the mixture sequential probability ratio test on the difference of means: the likelihood
    ratio, averaged over differences that are normal with the standard deviation `effect`, against none. It may be
    looked at after every request: the probability that it ever exceeds 1 / `alpha` while there is no difference is at
    most `alpha` (as far as means of `min_requests` and more are normal). Where there is no verdict by `horizon`
    requests of each, none is given.

    Source: Johari, Koomen, Pekelis and Walsh, "Peeking at A/B Tests", KDD 2017; Robbins, "Statistical Methods Related
    to the Law of the Iterated Logarithm", 1970.
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
    """Of each version, before the first look."""
    horizon: Annotated[int, Meta(ge=2)] = 100_000
    """Requests of each version, at most."""

    def reset(self, rng: random.Random) -> None:
        self.samples = {self.a: _Sample(), self.b: _Sample()}
        self.over = False
        self.stage = "test runs"

    def choose(self, request: Request, versions: Sequence[VersionView], now_s: float) -> Serve:
        served = [view.version for view in versions]
        wanted, other = (self.b, self.a) if position(self.salt, request) < self.share else (self.a, self.b)
        if wanted in served:
            return Serve(wanted)
        return Serve(other if other in served else served[0])

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        sample = self.samples.get(ending.version)
        value = self._value(ending)
        if self.over or sample is None or value is None:
            return
        sample.add(value)
        self._look()

    def _value(self, ending: Ending) -> float | None:
        if ending.outcome == "cancelled":
            return None  # its client's own doing
        if self.metric == "errors":
            return float(ending.outcome != "completed")
        if ending.outcome != "completed":
            return None
        return ending.e2e_s if self.metric == "e2e_s" else ending.quality

    def _look(self) -> None:
        a, b = self.samples[self.a], self.samples[self.b]
        least = min(a.count, b.count)
        if least < self.min_requests:
            return
        difference = b.mean - a.mean
        if self.likelihood_ratio() >= 1.0 / self.alpha:
            better_if_less = self.metric != "quality"
            better = self.b if (difference < 0.0) == better_if_less else self.a
            self._end(f"version {better} is better")
        elif least >= self.horizon:
            self._end("no difference was found")

    def likelihood_ratio(self) -> float:
        """How much likelier what was seen is with a difference than with none."""
        a, b = self.samples[self.a], self.samples[self.b]
        variance, prior = a.variance_of_mean + b.variance_of_mean, self.effect * self.effect
        if variance <= 0.0:  # all alike on both sides
            return 1.0 if a.mean == b.mean else math.inf
        if not math.isfinite(variance):
            return 1.0
        difference = b.mean - a.mean
        exponent = prior * difference * difference / (2.0 * variance * (variance + prior))
        return math.sqrt(variance / (variance + prior)) * math.exp(min(exponent, 700.0))

    def _end(self, verdict: str) -> None:
        a, b = self.samples[self.a], self.samples[self.b]
        self.over = True
        by_a, by_b = f"{a.mean:.4g} of {a.count} by {self.a}", f"{b.mean:.4g} of {b.count} by {self.b}"
        self.stage = f"verdict: {verdict} ({self.metric} {by_a}, {by_b})"
