"""Passive health checks: what ordinary requests tell of a replica, beside what probes tell."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, field

from policies.base import HealthPolicy, is_settled
from policies.decisions import Verdict
from policies.health.consecutive_failures import ConsecutiveFailures
from policies.resilience.faults import TELLS_NOTHING
from policies.views import Completion, ProbeLevel, ProbeOutcome, ReplicaView, Trust

FORGET_S = 3600.0
"""A replica that was not probed for so long has ended: its name never comes back."""

_SEVERITY: dict[Trust, int] = {"healthy": 0, "suspect": 1, "failed": 2}


class PassiveChecks(HealthPolicy):
    """After `error_limit` failed attempts in a row do `on_error`: tell `active`, or take the replica out. O(1).

    Probes come once in a while, requests all the time, and may fail where probes do not. After `error_limit` in a row

    * `fail-check`: `active` is shown a failed probe, of level `level`; the count begins anew, so that what goes on
      failing counts as one failed probe after another. Good probes of that level in between count as well: a replica
      that answers all of them and fails its requests is not failed by an `active` that wants several in a row.
    * `mark-down`: the replica is suspect, whatever `active` says, until `rise` probes of the levels in `recover_by` in
      a row went well. Live probes do not do: a process may answer them whose engine is ill.

    Trust is the worse of what `active` says and this. Attempts that say nothing of a replica (withdrawn, refused, shed
    at its door) do not count; one that completes begins the count anew.

    Source: HAProxy's `observe layer7` with `error-limit` (default 10), `on-error` (default `fail-check`) and `rise`
    (default 2); nginx's `max_fails` and Envoy's `consecutive_5xx` (default 5) count likewise. Left out: `sudden-death`
    and `fastinter`.
    """

    active: HealthPolicy = field(default_factory=ConsecutiveFailures)
    """What judges the probes."""
    error_limit: Annotated[int, Meta(ge=1)] = 10
    """Failed attempts in a row after which something is done."""
    on_error: Literal["fail-check", "mark-down"] = "fail-check"
    level: ProbeLevel = "ready"
    """Of the failed probe that `active` is shown."""
    rise: Annotated[int, Meta(ge=1)] = 2
    """Good probes in a row that bring back what was marked down."""
    recover_by: Annotated[tuple[ProbeLevel, ...], Meta(min_length=1)] = ("ready", "deep")
    """Levels of these. Only `deep` asks the engine itself; there are such probes only where the fleet has them."""

    def __post_init__(self) -> None:
        if self.active.oracle and not self.oracle:
            raise ValueError("a part is an oracle; use a subclass of PassiveChecks that sets `oracle = True`")

    def reset(self, rng: random.Random) -> None:
        super().reset(rng)
        self.records: dict[str, _Record] = {}
        """Of replicas that are not known to be well."""

    def observe(self, probe: ProbeOutcome, now_s: float) -> Verdict | None:
        verdict = self.active.observe(probe, now_s)
        if verdict is None and probe.replica not in self.records:
            return None
        record = self._record(probe.replica)
        record.probed_s = now_s
        if record.marked_down:
            if probe.status != "ok":
                record.good = 0
            elif probe.level in self.recover_by:
                record.good += 1
            if record.good >= self.rise:
                record.marked_down, record.errors = False, 0
        return self._say(probe.replica, record, verdict, "recovered" if verdict is None else verdict.reason)

    def after_completion(self, completion: Completion, now_s: float) -> Verdict | None:
        replica, failure = completion.replica, completion.failure
        own = self.active.after_completion(completion, now_s)
        if own is None and (failure in TELLS_NOTHING or (failure is None and replica not in self.records)):
            return None
        record = self._record(replica)
        if failure not in TELLS_NOTHING:
            record.errors = 0 if failure is None else record.errors + 1
        reason = None if own is None else own.reason
        if record.errors >= self.error_limit:
            record.errors = 0
            reason = f"{self.error_limit} failed attempts in a row"
            if self.on_error == "mark-down":
                record.marked_down, record.good = True, 0
            else:
                check = ProbeOutcome(
                    replica=replica, level=self.level, status="failed", sent_s=now_s, detail=reason
                )
                own = self.active.observe(check, now_s) or own
        return self._say(replica, record, own, reason)

    def settled(self) -> bool:
        return not self.records and is_settled(self.active, "observe")

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        super().on_replicas(replicas, now_s)
        here = {view.id for view in replicas}
        for name, record in list(self.records.items()):
            # Away and not distrusted here: it drains, or has ended. One that is distrusted is away for that.
            gone = record.trust == "healthy" or now_s - record.probed_s > FORGET_S
            if name not in here and gone:
                del self.records[name]

    def _record(self, replica: str) -> _Record:
        record = self.records.get(replica)
        if record is None:
            record = self.records[replica] = _Record()
        return record

    def _say(
        self, replica: str, record: _Record, active: Verdict | None, reason: str | None
    ) -> Verdict | None:
        """A verdict where trust, the worse of both, has changed by `active`'s latest and by what the record says."""
        if active is not None:
            record.active = active.trust
        marked: Trust = "suspect" if record.marked_down else "healthy"
        trust = max(record.active, marked, key=_SEVERITY.__getitem__)
        before, record.trust = record.trust, trust
        if trust == "healthy" and not record.errors:
            del self.records[replica]  # nothing to remember of a healthy replica
        return Verdict(replica, trust, reason) if trust != before else None


class _Record:
    """What is remembered of one replica."""

    __slots__ = ("active", "errors", "good", "marked_down", "probed_s", "trust")

    def __init__(self) -> None:
        self.active: Trust = "healthy"
        """As probes say."""
        self.errors = 0
        """Failed attempts in a row."""
        self.marked_down = False
        self.good = 0
        """Good probes in a row since then."""
        self.probed_s = 0.0
        self.trust: Trust = "healthy"
