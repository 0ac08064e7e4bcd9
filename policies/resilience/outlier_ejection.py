"""Outlier ejection: leave out for a while the few replicas that do worse than the others."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from policies.base import BreakerPolicy
from policies.resilience.faults import TELLS_NOTHING
from policies.resilience.remembered import AWAY_S, Remembered
from policies.views import Completion, ReplicaView
from traces.values import BadValue


class OutlierEjection(BreakerPolicy):
    """Eject a replica that fails again and again, or far more often than the others do. O(1); a sweep O(n log n).

    *Failures in a row*: `consecutive_failures` of them, with no answer between, eject a replica at once.

    *Success rate*: every `interval_s` the replicas that had at least `request_volume` attempts in it, if there are at
    least `minimum_hosts` such, are compared. Those whose rate lies below the mean less `stdev_factor` standard
    deviations (of the population) are ejected, the worst first. One bad replica among n is at most sqrt(n - 1)
    deviations away, so with 1.9 it takes five to tell it, and ten to tell two that are equally bad.

    An ejection lasts `base_ejection_s` times the number of ejections in a row, at most `max_ejection_s`; each
    `interval_s` without one takes one off that number. None is ejected where that would make more of them than
    `max_ejected_fraction` of the replicas, but one always may be: what is bad everywhere is no outlier. When none of
    the candidates is allowed, routing chooses as if all were (as in Envoy's panic mode, which begins below half).

    An attempt that was withdrawn, refused or never had room counts as none; one that ends while its replica is ejected
    is no news.

    A replica that may not be chosen for a while (a missed probe) keeps what is known of it, and the rest of its
    ejection. While it is away what ends there counts, but it is not ejected, and takes no place of those that may be;
    so one that comes back ejected may make them more than that part until an ejection ends. It is forgotten when it
    has been away for `max_ejection_s`, or 300 s where that is longer.

    Source: Envoy's outlier detection (`consecutive_5xx` and success rate; its documentation and defaults, and the
    arithmetic of `outlier_detection_impl.cc`, whose example this reproduces: rates of 50 and four times 100 % have
    the threshold 52). There an ejection ends with the first sweep after its time, here with its time; and that one
    always may be ejected has become an option there (`always_eject_one_host`).
    """

    consecutive_failures: Annotated[int, Meta(ge=1)] | None = 5
    """Failed attempts in a row that eject a replica; None: they are not judged."""
    interval_s: Annotated[float, Meta(gt=0)] = 10.0
    """Seconds from one comparison of success rates to the next."""
    request_volume: Annotated[int, Meta(ge=1)] = 100
    """Attempts that a replica must have had in an interval to be compared."""
    minimum_hosts: Annotated[int, Meta(ge=1)] = 5
    """Replicas with so many attempts that it takes to compare them."""
    stdev_factor: Annotated[float, Meta(ge=0)] = 1.9
    """Standard deviations below the mean beyond which a replica is an outlier."""
    base_ejection_s: Annotated[float, Meta(gt=0)] = 30.0
    """How long the first ejection lasts."""
    max_ejection_s: Annotated[float, Meta(gt=0)] = 300.0
    """How long any lasts, at most."""
    max_ejected_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.1
    """Part of the replicas that may be ejected at the same time; one may be, however few there are."""

    def check_values(self) -> None:
        """Building calls this once each field is right by itself: the first ejection is no longer than any may be."""
        if self.max_ejection_s < self.base_ejection_s:
            raise BadValue(
                "max_ejection_s",
                f"{self.max_ejection_s:g} is less than base_ejection_s={self.base_ejection_s:g}",
            )

    def reset(self, rng: random.Random) -> None:
        self.hosts: Remembered[_Host] = Remembered(max(AWAY_S, self.max_ejection_s))
        self.next_sweep_s = self.interval_s

    def allows(self, replica: ReplicaView, now_s: float) -> bool:
        host = self.hosts.of(replica.id)
        return host is None or now_s >= host.ejected_until_s

    def on_completed(self, completion: Completion, now_s: float) -> None:
        if now_s >= self.next_sweep_s:
            self._sweep(now_s)
        host, failure = self.hosts.of(completion.replica), completion.failure
        if host is None or now_s < host.ejected_until_s or failure in TELLS_NOTHING:
            return
        host.attempts += 1
        if failure is None:
            host.failed_in_a_row = 0
            return
        host.failed += 1
        host.failed_in_a_row += 1
        if self.consecutive_failures is None or host.failed_in_a_row < self.consecutive_failures:
            return
        if self.hosts.is_here(completion.replica):
            host.failed_in_a_row = 0
            self._eject(host, now_s)

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        for view in replicas:
            if self.hosts.of(view.id) is None:
                self.hosts.add(view.id, _Host())
        self.hosts.seen((view.id for view in replicas), now_s)

    def _sweep(self, now_s: float) -> None:
        """Compare what came of the interval that has ended, as of its end, and begin the one of `now_s`."""
        at_s = self.next_sweep_s
        self.next_sweep_s = (math.floor(now_s / self.interval_s) + 1) * self.interval_s
        compared = [
            host
            for host in self.hosts.here()
            if host.attempts >= self.request_volume and at_s >= host.ejected_until_s
        ]
        if len(compared) >= self.minimum_hosts:
            for host in self._outliers(compared):
                self._eject(host, at_s)
        for host in self.hosts.all():
            host.attempts = host.failed = 0

    def _outliers(self, hosts: list[_Host]) -> list[_Host]:
        """Those of them that did far worse than the others, the worst first."""
        rates = [host.success_rate for host in hosts]
        if min(rates) == max(rates):  # which rounding could hide
            return []
        mean = math.fsum(rates) / len(rates)
        stdev = math.sqrt(math.fsum((rate - mean) ** 2 for rate in rates) / len(rates))
        below = [host for host in hosts if host.success_rate < mean - self.stdev_factor * stdev]
        return sorted(below, key=lambda host: host.success_rate)

    def _eject(self, host: _Host, at_s: float) -> None:
        """Unless that would be too many."""
        here = self.hosts.here()
        ejected = sum(at_s < other.ejected_until_s for other in here)
        if ejected and (ejected + 1) / len(here) > self.max_ejected_fraction:
            return
        # Reckoned where it is needed: how many intervals have gone by well since the last ejection ended.
        well = math.floor((at_s - host.ejected_until_s) / self.interval_s) if host.ejections else 0
        most = math.ceil(self.max_ejection_s / self.base_ejection_s)
        host.ejections = min(max(0, host.ejections - well) + 1, most)
        host.ejected_until_s = at_s + min(host.ejections * self.base_ejection_s, self.max_ejection_s)


class _Host:
    """What is known of one replica."""

    __slots__ = ("attempts", "ejected_until_s", "ejections", "failed", "failed_in_a_row")

    def __init__(self) -> None:
        self.attempts = self.failed = 0
        """In this interval."""
        self.failed_in_a_row = 0
        self.ejections = 0
        """In a row, when it was ejected last."""
        self.ejected_until_s = 0.0

    @property
    def success_rate(self) -> float:
        return (self.attempts - self.failed) / self.attempts
