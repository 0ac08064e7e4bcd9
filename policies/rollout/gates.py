"""Is the new version worse? What a gate holds against it, and how sure it must be: shared by all rollouts with gates.

Two things to know. Gates look often, so each look is held to a stricter level, and all looks together reject a version
that is as good as the old one with a probability of at most `alpha` for each gate, by the union bound. And a request is
held against what the old version did *when it ended*, as the old version's own requests are: load, and whatever else
comes and goes, hits both alike, and that a quantile of a few hundred latencies is not the true one does so too.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable
from statistics import NormalDist
from typing import Annotated

from msgspec import Meta, Struct

from policies.rollout.ledger import Ledger
from policies.views import Ending, VersionView

Share = Annotated[float, Meta(gt=0, lt=1)]
_NORMAL = NormalDist()
_ROUNDING = 1e-9


class Gates(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a new version must keep to, held against the old one over the same time."""

    min_requests: Annotated[int, Meta(ge=2, le=100_000)] = 30
    """A look is taken whenever so many more were sent to the new version, once the old one has ended as many."""
    window: Annotated[int, Meta(ge=2, le=100_000)] = 500
    """Latencies of the old version whose quantile is the measure: the last ones."""
    alpha: Share = 0.01
    """Of each gate, over all looks: the probability to reject a version that is as good."""
    latency_factor: Annotated[float, Meta(gt=0, le=1e6)] | None = 1.2
    """The `quantile` of its latency over that of the old version's, at most; None: latency is not judged."""
    quantile: Share = 0.95
    error_margin: Annotated[float, Meta(ge=0, le=1)] | None = 0.0
    """Share of failed requests above the old version's that is tolerated; None: errors are not judged."""
    quality_margin: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Mean quality below the old version's that is tolerated; None: quality is not judged."""


class Recent:
    """The last `window` latencies. To add one is O(log n) and a move of memory, to ask for a quantile O(1)."""

    __slots__ = ("_in_time", "_sorted", "_window")

    def __init__(self, window: int) -> None:
        self._window = window
        self._in_time: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, seconds: float) -> None:
        """One more; the oldest goes when there are too many."""
        if len(self._in_time) == self._window:
            del self._sorted[bisect_left(self._sorted, self._in_time.popleft())]
        self._in_time.append(seconds)
        insort(self._sorted, seconds)

    def quantile(self, share: float, longer: int = 0) -> float | None:
        """The least of them that is no less than `share` of all; `longer`: so many more are known to be above all.

        None: it is one of those, or there are none.
        """
        rank = self.rank(share, longer)
        return self._sorted[rank - 1] if len(self._sorted) >= rank else None

    def rank(self, share: float, longer: int = 0) -> int:
        """Which one that is, from 1, the least first."""
        return max(1, math.ceil(share * (len(self._sorted) + longer) - _ROUNDING))


class Moments:
    """Count, mean and variance of values as they come, each O(1). Source: Welford, Technometrics 1962."""

    __slots__ = ("_squares", "count", "mean")

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        """One more."""
        self.count += 1
        off = value - self.mean
        self.mean += off / self.count
        self._squares += off * (value - self.mean)

    @property
    def variance(self) -> float:
        """As of a sample; 0 of a single one."""
        return self._squares / max(1, self.count - 1)


class Arm:
    """What came of the requests that the rollout sent to one version."""

    def __init__(self, window: int) -> None:
        self.out = Ledger()
        self.recent = Recent(window)
        self.begin()

    def begin(self) -> None:
        """Count anew. What is out stays out, and latencies are kept as long as they are recent."""
        self.count = 0
        """Requests that were sent to it."""
        self.ended = self.failed = 0
        """Those that ended, but for what clients cancelled; and of them those that did not complete."""
        self.judged = self.slow = 0
        """Those whose latency was held against the old version's, and those of them that were slow."""
        self.qualities = Moments()

    def request_ended(self, ending: Ending) -> None:
        """One of its requests ended; that its client cancelled it is no error of the version."""
        self.out.drop(ending.request.id)
        if ending.outcome == "cancelled":
            return
        self.ended += 1
        self.failed += ending.outcome != "completed"
        if ending.quality is not None:
            self.qualities.add(ending.quality)


class Judge:
    """Looks at two arms, and says what the new one fails at. O(log `window`) for each request.

    A request of the new version is *slow* if it takes longer than `latency_factor` times the old version's `quantile`
    of the time when it ends; one of the old version, if it takes longer than that quantile. One that is still out is so
    when that time has passed, whether it is ever answered, fails or is cancelled then; what ended in another way before
    says nothing of latency, nor does what ended while the quantile was not known. Requests of the old version that are
    out for longer than its quantile count in it, so that what stalls both is held against neither.

    Where both are served at the same time, whether a request is slow does not depend on which version it was drawn
    for, if both are alike, whatever the quantile was: so slow ones of both are compared. Where the new version is held
    against what the old one did before, the quantile is one order statistic of so many latencies.
    """

    def __init__(self, gates: Gates) -> None:
        self.gates = gates
        self.old, self.new = Arm(gates.window), Arm(gates.window)
        self.begin()

    def begin(self, *, old_too: bool = True, parts: int = 1) -> None:
        """The two are compared anew, by what ends from now on; not `old_too`: the new one with what the old one did.

        `parts`: so many comparisons of one rollout share `alpha`.
        """
        if old_too:
            self.old.begin()
        self.new.begin()
        self._apart = not old_too
        """Not at the same time."""
        self.looks, self._parts = 0, parts
        self._next_look = self.gates.min_requests

    # --- what happens ------------------------------------------------------------------------------------------

    def arm_of(self, request_id: str) -> Arm | None:
        """The arm to which an open request was sent; None: it was not sent by this rollout, or has ended."""
        if request_id in self.new.out:
            return self.new
        return self.old if request_id in self.old.out else None

    def sent(self, arm: Arm, request_id: str, arrived_s: float) -> None:
        """One more is to be served by this arm."""
        arm.out.sent(request_id, arrived_s)
        arm.count += 1

    def heard(self, request_id: str) -> None:
        """It was not refused on the way."""
        arm = self.arm_of(request_id)
        if arm is not None:
            arm.out.heard(request_id)

    def request_ended(self, ending: Ending) -> None:
        """A request ended. What the rollout did not send, such as what pins its version, says nothing."""
        arm = self.arm_of(ending.request.id)
        if arm is None:
            return
        known = ending.request.id in arm.out.late
        arm.request_ended(ending)
        if not known:
            self._took(arm, ending)
        if arm is self.old and (ending.outcome == "completed" or self._is_long(ending.e2e_s)):
            arm.recent.add(ending.e2e_s)

    def _is_long(self, took_s: float) -> bool:
        """Of a request of the old version that came to nothing: not before it had taken longer than the quantile."""
        usual_s = self.old.recent.quantile(self.gates.quantile)
        return usual_s is not None and took_s > usual_s

    def _took(self, arm: Arm, ending: Ending) -> None:
        """How long a request took that was not known to be slow."""
        limit_s = self.limit_s(arm)
        if limit_s is not None and (ending.outcome == "completed" or ending.e2e_s > limit_s):
            arm.judged += 1
            arm.slow += ending.e2e_s > limit_s

    def seen(self, old: VersionView | None, new: VersionView | None, now_s: float) -> None:
        """The two versions as they are now, before a request is sent to one of them; None: it is not served."""
        for view, arm in ((old, self.old), (new, self.new)):
            if view is not None:
                arm.out.reconcile(view.in_flight)
        for arm in (self.old, self.new):
            self._find_late(arm, now_s)

    def _find_late(self, arm: Arm, now_s: float) -> None:
        out = arm.out
        while out.open:
            request_id, arrived_s = next(iter(out.open.items()))
            limit_s = self.limit_s(arm)
            if limit_s is None or now_s - arrived_s <= limit_s:
                return
            out.is_late(request_id)
            arm.judged += 1
            arm.slow += 1

    def limit_s(self, arm: Arm) -> float | None:
        """What takes longer in this arm is slow; None: nobody can say now. O(1)."""
        gates, old = self.gates, self.old
        if gates.latency_factor is None or len(old.recent) < min(gates.min_requests, gates.window):
            return None
        usual_s = old.recent.quantile(gates.quantile, len(old.out.late))
        if usual_s is None:
            return None  # so many are out, and for so long, that the quantile is one of theirs
        return usual_s if arm is old else gates.latency_factor * usual_s

    # --- looks -------------------------------------------------------------------------------------------------

    @property
    def enough(self) -> bool:
        """So many of each have ended that the new version may be trusted if nothing speaks against it."""
        return min(self.old.ended, self.new.ended) >= self.gates.min_requests

    def fault(self, *, last: bool = False) -> str | None:
        """Why the new version is to be rejected; None: it is not, or it is not time for a look.

        `last`: look at what there is, for it is to be decided now.
        """
        if not last and not self._at_look():
            return None
        self.looks += 1
        self._next_look = self.new.count + self.gates.min_requests
        # 6 / pi² · sum of 1 / k² is 1.
        level = self.gates.alpha / self._parts * 6.0 / (math.pi * self.looks) ** 2
        return self._errors(level) or self._latency(level) or self._quality(level)

    def _at_look(self) -> bool:
        """By what was sent, not by what was answered: a version that never answers is looked at too."""
        return self.new.count >= self._next_look and self.old.ended >= self.gates.min_requests

    def _errors(self, level: float) -> str | None:
        margin, old, new = self.gates.error_margin, self.old, self.new
        if margin is None or not new.ended or not old.ended:
            return None
        share, old_share = new.failed / new.ended, old.failed / old.ended
        if share <= old_share + margin or fisher_p(new.failed, new.ended, old.failed, old.ended) >= level:
            return None
        return f"errors {share:.1%} against {old_share:.1%}"

    def _latency(self, level: float) -> str | None:
        factor, quantile, new = self.gates.latency_factor, self.gates.quantile, self.new
        if factor is None or self._latency_p() >= level:
            return None
        limit_s = self.limit_s(new)
        told = "" if limit_s is None else f"{limit_s:.4g} s, "
        return f"{new.slow} of {new.judged} took over {told}{factor:g} times the old version's p{100 * quantile:g}"

    def _latency_p(self) -> float:
        """How likely so many slow ones of the new version, or more, are if it is no slower by the factor."""
        old, new = self.old, self.new
        if not self._apart:
            return fisher_p(new.slow, new.judged, old.slow, old.judged)
        late = len(old.out.late)
        rank = old.recent.rank(self.gates.quantile, late)
        return exceedance_tail(new.slow, new.judged, len(old.recent) + late, rank)

    def _quality(self, level: float) -> str | None:
        margin, new, old = self.gates.quality_margin, self.new.qualities, self.old.qualities
        if margin is None or min(new.count, old.count) < self.gates.min_requests:
            return None
        error = math.sqrt(new.variance / new.count + old.variance / old.count)
        short = old.mean - margin - new.mean
        if short <= 0.0 or (error > 0.0 and _NORMAL.cdf(-short / error) >= level):
            return None
        return f"quality {new.mean:.3f} against {old.mean:.3f}"


# --- statistics ------------------------------------------------------------------------------------------------


def _choose(n: int, k: int) -> float:
    """The logarithm of n over k."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _sum(term: float, i: int, end: int, ratio: Callable[[int], float]) -> float:
    """`term`, which belongs to `i`, and those after it up to `end`, each `ratio(i)` times the one before.

    They must fall from the first on; what no float would show any more is left out.
    """
    total, step = 0.0, 1 if end >= i else -1
    while term > total * 1e-17:
        total += term
        if i == end:
            break
        term *= ratio(i)
        i += step
    return total


def exceedance_tail(k: int, m: int, n: int, rank: int) -> float:
    """P(k or more of m values exceed the one of this rank among n others), all of one distribution, whichever. O(m).

    Exact where no two values are alike; where some are, it is at most that. For k > 0, 1 <= rank <= n.

    Source: Gumbel and von Schelling, "The Distribution of the Number of Exceedances", 1950 (the negative hypergeometric
    distribution).
    """
    if k <= 0:
        return 1.0
    if k > m:
        return 0.0

    def chance(i: int) -> float:
        return math.exp(_choose(rank - 1 + m - i, m - i) + _choose(n - rank + i, i) - _choose(n + m, m))

    def up(i: int) -> float:
        return (n - rank + i + 1) * (m - i) / ((i + 1) * (rank - 1 + m - i))

    if k == m or up(k) < 1.0:
        return min(1.0, _sum(chance(k), k, m, up))
    return max(0.0, 1.0 - _sum(chance(k - 1), k - 1, 0, lambda i: 1.0 / up(i - 1)))


def fisher_p(failed: int, ended: int, other_failed: int, other_ended: int) -> float:
    """Fisher's exact test, one-sided: P(so many failures or more fall on the first) if both fail alike. O(√n)."""
    total, least = failed + other_failed, max(0, failed + other_failed - other_ended)
    if failed <= least:
        return 1.0

    def chance(i: int) -> float:
        whole = _choose(ended + other_ended, total)
        return math.exp(_choose(ended, i) + _choose(other_ended, total - i) - whole)

    def up(i: int) -> float:
        return (ended - i) * (total - i) / ((i + 1) * (other_ended - total + i + 1))

    if failed > total * ended / (ended + other_ended):
        return min(1.0, _sum(chance(failed), failed, min(ended, total), up))
    return max(0.0, 1.0 - _sum(chance(failed - 1), failed - 1, least, lambda i: 1.0 / up(i - 1)))
