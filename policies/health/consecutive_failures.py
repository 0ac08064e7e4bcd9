"""Consecutive failures: separate counts for losing trust and for winning it back."""

from __future__ import annotations

import random
from typing import Annotated

from msgspec import Meta

from policies.base import HealthPolicy
from policies.decisions import Verdict
from policies.views import ProbeLevel, ProbeOutcome, Trust


class ConsecutiveFailures(HealthPolicy):
    """Suspect a replica after `suspect_after` failed probes in a row, fail it after `failures`. O(1).

    A probe that times out failed. Failures in a row are those of one level: an engine that stalls fails its deep probes
    while the process answers the others well. It takes `recoveries` good probes in a row, and none of any level whose
    last one failed, to be trusted again.

    With probes every T seconds a dead replica is failed between `(failures - 1)·T` and `failures·T` after it
    died; with probability p of losing a probe, a live one is failed after `(1 - p^k) / ((1 - p)·p^k)` probes
    on average, where k is `failures`.

    Source: Kubernetes probes (`failureThreshold`, `successThreshold`); HAProxy `fall` and `rise`.
    """

    failures: Annotated[int, Meta(ge=1)] = 3
    """Failed probes in a row that make a replica failed."""
    recoveries: Annotated[int, Meta(ge=1)] = 2
    """Good probes in a row that make it healthy again."""
    suspect_after: Annotated[int, Meta(ge=1)] = 1
    """Failed probes in a row that make it suspect; from `failures` on it is never merely suspect."""

    def reset(self, rng: random.Random) -> None:
        self.records: dict[str, _Record] = {}

    def observe(self, probe: ProbeOutcome, now_s: float) -> Verdict | None:
        record = self.records.get(probe.replica)
        if probe.status == "ok":
            return self._succeeded(probe, record) if record is not None else None
        if record is None:
            record = self.records[probe.replica] = _Record()
        return self._failed(probe, record)

    def settled(self) -> bool:
        return not self.records

    def _succeeded(self, probe: ProbeOutcome, record: _Record) -> Verdict | None:
        replica = probe.replica
        record.failed.pop(probe.level, None)
        if record.failed:
            return None
        record.good += 1
        if record.trust != "healthy" and record.good < self.recoveries:
            return None
        del self.records[replica]  # nothing to remember of a healthy replica
        return Verdict(replica, "healthy", "recovered") if record.trust != "healthy" else None

    def _failed(self, probe: ProbeOutcome, record: _Record) -> Verdict | None:
        record.good = 0
        failed = record.failed[probe.level] = record.failed.get(probe.level, 0) + 1
        if record.trust != "failed" and failed >= self.failures:
            record.trust = "failed"
            return Verdict(probe.replica, "failed", "failed probes in a row")
        if record.trust == "healthy" and failed >= self.suspect_after:
            record.trust = "suspect"
            return Verdict(probe.replica, "suspect", "failed probe")
        return None


class _Record:
    """What is remembered of one replica that is not known to be well."""

    __slots__ = ("failed", "good", "trust")

    def __init__(self) -> None:
        self.failed: dict[ProbeLevel, int] = {}
        """In a row, by level."""
        self.good = 0
        self.trust: Trust = "healthy"
