"""Phi accrual: suspicion on a scale, from how long this replica usually takes to be heard again."""

from __future__ import annotations

import math
import random
from collections import OrderedDict, deque
from typing import Annotated

from msgspec import Meta

from policies.base import HealthPolicy
from policies.decisions import Verdict
from policies.views import ProbeLevel, ProbeOutcome, Trust
from traces.values import BadValue

FORGET_S = 3600.0
"""A replica that was not probed for so long has ended: its name never comes back."""


def phi(silence_s: float, mean_s: float, deviation_s: float) -> float:
    """`-log10` of the probability that a heartbeat comes later than after `silence_s`: 1 is 10 %, 2 is 1 %, ...

    Intervals are taken as normal, by a logistic approximation of the normal distribution (within 0.00014 near the mean;
    far from it, it gives a larger phi than the distribution itself). `deviation_s` > 0.
    """
    y = (silence_s - mean_s) / deviation_s
    exponent = y * (1.5976 + 0.070566 * y * y)
    # log(1 + e^x), for any x: neither end overflows.
    return (max(exponent, 0.0) + math.log1p(math.exp(-abs(exponent)))) / math.log(10.0)


class PhiAccrual(HealthPolicy):
    """Suspect a replica at phi `suspect_threshold`, fail it at `threshold`: the less likely its silence is. O(1).

    A good answer to a probe is a heartbeat. From the intervals between the last `max_sample_size` of them come a mean
    and a deviation; phi is `-log10` of the probability that a heartbeat would come even later than now, were it still
    to come. So a replica whose answers come irregularly is given more time than one that is on the second. It is asked
    whenever a probe fails or times out, which is when it may have become suspicious.

    Each level of probes has a history of its own, for an engine that stalls fails deep probes while its process
    answers the others; trust is that of the worst level. A level is trusted again with its next good answer.
    The interval of a silence that was suspected is not learned, or the next one would seem normal. A replica
    that never answered is reckoned from its first probe.

    A history begins with two intervals about `first_interval_s`, a quarter of it apart from it.

    Source: Hayashibara et al., "The Phi Accrual Failure Detector", SRDS 2004; the formula and defaults are those of
    Akka's `PhiAccrualFailureDetector` (`akka.cluster.failure-detector`: `threshold` 8, `max-sample-size` 1000,
    `min-std-deviation` 100 ms, `acceptable-heartbeat-pause` 3 s, `heartbeat-interval` 1 s). Cassandra's
    `phi_convict_threshold` is 8 as well, with 1,000 samples. The lower threshold for sending no new work is an
    example of the paper's.
    """

    threshold: Annotated[float, Meta(gt=0)] = 8.0
    """Phi at which a replica is failed: one silence in 10^8 is so long, if intervals are normal."""
    suspect_threshold: Annotated[float, Meta(gt=0)] = 1.0
    """Phi at which it gets no new work."""
    max_sample_size: Annotated[int, Meta(ge=2, le=100_000)] = 1000
    """Intervals that count, the last ones; of each level of each replica."""
    min_std_deviation_s: Annotated[float, Meta(gt=0)] = 0.1
    """Least deviation: what comes on the second for an hour is not dead a moment later."""
    acceptable_pause_s: Annotated[float, Meta(ge=0)] = 3.0
    """Seconds added to the mean, for heartbeats that are lost and replicas that pause."""
    first_interval_s: Annotated[float, Meta(gt=0)] = 1.0
    """Mean interval that a history begins with: about the period of probes."""

    def check_values(self) -> None:
        """Building calls this once each field is right by itself: suspicion comes first."""
        if self.suspect_threshold > self.threshold:
            raise BadValue(
                "suspect_threshold", f"{self.suspect_threshold:g} is above threshold={self.threshold:g}"
            )

    def reset(self, rng: random.Random) -> None:
        self.records: OrderedDict[str, _Record] = OrderedDict()
        """The one that was probed last comes last."""

    def observe(self, probe: ProbeOutcome, now_s: float) -> Verdict | None:
        record = self._record(probe.replica, now_s)
        history = record.levels.get(probe.level)
        if history is None:
            history = record.levels[probe.level] = _History(self, probe.sent_s)
        if probe.status == "ok":
            history.heard(now_s)
        else:
            history.trust = self._trust(history.phi(now_s), history.trust)
        trust = max((known.trust for known in record.levels.values()), key=_SEVERITY.__getitem__)
        if trust == record.trust:
            return None
        record.trust = trust
        return Verdict(probe.replica, trust, f"{probe.level} probes: phi {history.phi(now_s):.1f}")

    def phi(self, replica: str, level: ProbeLevel, now_s: float) -> float:
        """How suspicious it is now; 0 where nothing is known of it."""
        record = self.records.get(replica)
        history = None if record is None else record.levels.get(level)
        return 0.0 if history is None else history.phi(now_s)

    def _trust(self, suspicion: float, before: Trust) -> Trust:
        """Silence only grows, and what was failed is so until it is heard."""
        if before == "failed" or suspicion >= self.threshold:
            return "failed"
        return "suspect" if before == "suspect" or suspicion >= self.suspect_threshold else "healthy"

    def _record(self, replica: str, now_s: float) -> _Record:
        record = self.records.get(replica)
        if record is None:
            record = self.records[replica] = _Record()
        record.probed_s = now_s
        self.records.move_to_end(replica)
        while next(iter(self.records.values())).probed_s < now_s - FORGET_S:
            self.records.popitem(last=False)
        return record


_SEVERITY: dict[Trust, int] = {"healthy": 0, "suspect": 1, "failed": 2}


class _Record:
    """What is known of one replica."""

    __slots__ = ("levels", "probed_s", "trust")

    def __init__(self) -> None:
        self.levels: dict[ProbeLevel, _History] = {}
        self.probed_s = 0.0
        self.trust: Trust = "healthy"


class _History:
    """The heartbeats of one replica at one level."""

    __slots__ = ("_heard", "_heard_s", "_intervals", "_policy", "_squares", "_total", "trust")

    def __init__(self, policy: PhiAccrual, since_s: float) -> None:
        self._policy = policy
        self._intervals: deque[float] = deque()
        self._total = self._squares = 0.0
        self._heard = False
        self._heard_s = since_s
        self.trust: Trust = "healthy"
        self._learn(0.75 * policy.first_interval_s)
        self._learn(1.25 * policy.first_interval_s)

    def heard(self, now_s: float) -> None:
        """A heartbeat."""
        if self._heard and self.trust == "healthy":
            self._learn(now_s - self._heard_s)
        self._heard, self._heard_s, self.trust = True, now_s, "healthy"

    def phi(self, now_s: float) -> float:
        """How unlikely it is that the next heartbeat comes later than this, if it comes."""
        policy, count = self._policy, len(self._intervals)
        mean_s = self._total / count
        # Sums of squares lose digits: what should be 0 may come out below it.
        deviation_s = math.sqrt(max(0.0, self._squares / count - mean_s * mean_s))
        return phi(
            now_s - self._heard_s,
            mean_s + policy.acceptable_pause_s,
            max(deviation_s, policy.min_std_deviation_s),
        )

    def _learn(self, interval_s: float) -> None:
        if len(self._intervals) == self._policy.max_sample_size:
            oldest_s = self._intervals.popleft()
            self._total -= oldest_s
            self._squares -= oldest_s * oldest_s
        self._intervals.append(interval_s)
        self._total += interval_s
        self._squares += interval_s * interval_s
