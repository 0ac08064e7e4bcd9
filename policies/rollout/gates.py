"""Is the new version worse? What a gate holds against it, and how sure it must be: shared by all rollouts with gates.

The one thing to know: gates look often, so each look is held to a stricter level, and all looks together reject a
version that is as good as the old one with a probability of at most `alpha` for each gate, by the union bound.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import NormalDist
from typing import Annotated

from msgspec import Meta, Struct

from policies.views import Ending

Share = Annotated[float, Meta(gt=0, lt=1)]
_NORMAL = NormalDist()


class Gates(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a new version must keep to, held against the old one over the same time."""

    min_requests: Annotated[int, Meta(ge=2, le=100_000)] = 30
    """A look is taken whenever so many more were sent to the new version, once the old one has ended as many."""
    window: Annotated[int, Meta(ge=2, le=100_000)] = 500
    """Requests of each version that a look is at: the last ones."""
    alpha: Share = 0.01
    """Of each gate, over all looks: the probability to reject a version that is as good."""
    latency_factor: Annotated[float, Meta(gt=0, le=1e6)] | None = 1.2
    """The `quantile` of its latency over that of the old version's, at most; None: latency is not judged."""
    quantile: Share = 0.95
    error_margin: Annotated[float, Meta(ge=0, le=1)] | None = 0.0
    """Share of failed requests above the old version's that is tolerated; None: errors are not judged."""
    quality_margin: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Mean quality below the old version's that is tolerated; None: quality is not judged."""


class Arm:
    """What came of one version's requests: the last ones, and how long those that are out have been."""

    def __init__(self, window: int) -> None:
        self.out: dict[str, float] = {}
        """When each request that has not ended arrived."""
        self.count = 0
        """Requests that were sent to it."""
        self.ended = 0
        """Ever, but for what clients cancelled."""
        self.failed: deque[bool] = deque(maxlen=window)
        self.latencies_s: deque[float] = deque(maxlen=window)
        self.qualities: deque[float] = deque(maxlen=window)

    def sent(self, request_id: str, arrived_s: float) -> None:
        """One more is to be served by it."""
        self.out[request_id] = arrived_s
        self.count += 1

    def request_ended(self, ending: Ending) -> None:
        """One of its requests ended; that its client cancelled it says nothing of the version."""
        self.out.pop(ending.request.id, None)
        if ending.outcome == "cancelled":
            return
        self.ended += 1
        self.failed.append(ending.outcome != "completed")
        if ending.outcome == "completed":
            self.latencies_s.append(ending.e2e_s)
            if ending.quality is not None:
                self.qualities.append(ending.quality)


class Judge:
    """Looks at two arms, and says what the new one fails at."""

    def __init__(self, gates: Gates) -> None:
        self.gates = gates
        self.begin()

    def begin(self) -> None:
        """Forget everything: the two are compared anew."""
        self.old, self.new = Arm(self.gates.window), Arm(self.gates.window)
        self.looks = 0
        self._next_look = self.gates.min_requests

    def fault(self, now_s: float) -> str | None:
        """Why the new version is to be rejected; None: it is not, or it is not time for a look."""
        if self._at_look():
            self.looks += 1
            self._next_look = self.new.count + self.gates.min_requests
            # 6 / pi² · sum of 1 / k² is 1.
            level = self.gates.alpha * 6.0 / (math.pi * self.looks) ** 2
            return self._errors(level) or self._latency(level, now_s) or self._quality(level)
        return None

    def _at_look(self) -> bool:
        """By what was sent, not by what was answered: a version that never answers is looked at too."""
        return self.new.count >= self._next_look and self.old.ended >= self.gates.min_requests

    def _errors(self, level: float) -> str | None:
        margin = self.gates.error_margin
        ended, failed = len(self.new.failed), sum(self.new.failed)
        if margin is None or not ended:
            return None
        old_ended, old_failed = len(self.old.failed), sum(self.old.failed)
        share, old_share = failed / ended, old_failed / old_ended
        if share <= old_share + margin or fisher_p(failed, ended, old_failed, old_ended) >= level:
            return None
        return f"errors {share:.1%} against {old_share:.1%}"

    def _latency(self, level: float, now_s: float) -> str | None:
        factor, quantile = self.gates.latency_factor, self.gates.quantile
        old = sorted(self.old.latencies_s)
        if factor is None or not old:
            return None
        limit_s = factor * old[min(int(quantile * len(old)), len(old) - 1)]
        # One that is still out and has been for longer than the limit is slow already, whatever comes of it.
        late = sum(now_s - arrived_s > limit_s for arrived_s in self.new.out.values())
        slow = late + sum(value > limit_s for value in self.new.latencies_s)
        seen = late + len(self.new.latencies_s)
        if not seen or binomial_tail(slow, seen, 1.0 - quantile) >= level:
            return None
        return f"{slow} of {seen} took over {limit_s:.4g} s, {factor:g} times the old version's p{100 * quantile:g}"

    def _quality(self, level: float) -> str | None:
        margin, new, old = self.gates.quality_margin, self.new.qualities, self.old.qualities
        if margin is None or len(new) < self.gates.min_requests or len(old) < self.gates.min_requests:
            return None
        mean, variance = moments(new)
        old_mean, old_variance = moments(old)
        error = math.sqrt(variance / len(new) + old_variance / len(old))
        short = old_mean - margin - mean
        if short <= 0.0 or (error > 0.0 and _NORMAL.cdf(-short / error) >= level):
            return None
        return f"quality {mean:.3f} against {old_mean:.3f}"


# --- statistics ------------------------------------------------------------------------------------------------


def moments(values: deque[float] | list[float]) -> tuple[float, float]:
    """Mean, and variance as of a sample; 0 of a single one."""
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)


def _choose(n: int, k: int) -> float:
    """The logarithm of n over k."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def binomial_tail(k: int, n: int, p: float) -> float:
    """P(X >= k) of a binomial X."""
    if k <= 0:
        return 1.0
    log_p, log_q = math.log(p), math.log1p(-p)
    terms = (math.exp(_choose(n, i) + i * log_p + (n - i) * log_q) for i in range(k, n + 1))
    return min(1.0, math.fsum(terms))


def fisher_p(failed: int, ended: int, other_failed: int, other_ended: int) -> float:
    """Fisher's exact test, one-sided: P(so many failures or more fall on the first) if both fail alike."""
    total = failed + other_failed
    whole = _choose(ended + other_ended, total)
    most = min(ended, total)
    terms = (
        math.exp(_choose(ended, i) + _choose(other_ended, total - i) - whole)
        for i in range(failed, most + 1)
        if total - i <= other_ended
    )
    return min(1.0, math.fsum(terms))
