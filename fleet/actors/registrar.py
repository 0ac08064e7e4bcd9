"""The registrar hears every report of every replica, once for the whole head, and tells the others what changed.

Most reports change nothing but signals. Those go straight into the views that router and batcher show their policies,
and into a record that the control loop reads when it looks; only a new state, or a lost batch, is worth a message. So
what a report costs does not grow with the number of those who want to know.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from msgspec import Struct, field

from fleet.actor import Actor
from fleet.actors.roster import Reports, take_signals
from fleet.messages import (
    DescribeReplicas,
    Message,
    ReplicaExited,
    ReplicaReported,
    TrustChanged,
    Undeliverable,
)
from fleet.pools import pool_of
from fleet.telemetry.engine_time import EngineTime
from policies.views import ReplicaView


class Mean(Struct):
    """Of samples, since it was last taken; a signal that was not said again meanwhile is what it was."""

    total: float = 0.0
    count: int = 0
    last: float | None = None

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1
        self.last = value

    def take(self) -> float | None:
        if self.count:
            mean = self.total / self.count
            self.total, self.count = 0.0, 0
            return mean
        return self.last


class Heard(Struct):
    """What one replica last said of itself, and who looks at it."""

    report: ReplicaReported | None = None
    reported_s: float = 0.0
    gpu: Mean = field(default_factory=Mean)
    kv: Mean = field(default_factory=Mean)
    waiting: Mean = field(default_factory=Mean)
    """Requests that wait at the replica itself, token by token."""
    views: list[ReplicaView] = field(default_factory=list)
    """Kept up to date in place."""
    sent: AbstractSet[int] = frozenset()
    """Numbers of the batches that it should have, as the batcher's books say."""


class Signals:
    """What all replicas last said. The registrar writes it; the others of the head read it, and show it to policies."""

    def __init__(self) -> None:
        self._heard: dict[str, Heard] = {}

    def get(self, replica: str) -> Heard | None:
        """None: it has not reported, or has ended."""
        return self._heard.get(replica)

    def first_heard(self, replica: str) -> Heard:
        """From now on there is something to be known of it."""
        heard = self._heard[replica] = Heard()
        return heard

    def show_in(self, view: ReplicaView, sent: AbstractSet[int] | None = None) -> None:
        """Keep a view of a replica up to date; `sent` are the numbers of the batches that the replica should have."""
        heard = self._heard.get(view.id)
        if heard is not None:
            heard.views.append(view)
            heard.sent = heard.sent if sent is None else sent

    def room(self, replica: str) -> int:
        """How many more batches it can take, as the batcher's books say; 0 of one that has ended."""
        heard = self._heard.get(replica)
        if heard is None or heard.report is None:
            return 0
        return max(0, heard.report.max_inflight_batches - len(heard.sent))

    def forget(self, replica: str) -> None:
        """It has ended."""
        self._heard.pop(replica, None)

    def reports(self) -> list[ReplicaReported]:
        """The last ones, in the order in which replicas were first heard of."""
        return [heard.report for heard in self._heard.values() if heard.report is not None]


class PoolWatchers(NamedTuple):
    """The actors of one pool that are told of its replicas."""

    batcher: str
    autoscaler: str


class Registrar(Actor):
    """Takes in what replicas, the launcher and the health checker say of replicas; passes on what changes anything."""

    def __init__(self, signals: Signals, engines: EngineTime, *, watchers: str) -> None:
        self._signals, self._engines = signals, engines
        self._watchers = watchers
        self._reports = Reports()
        self.pools: dict[str, PoolWatchers] = {}
        """Who watches the replicas of one pool alone; the group `watchers` watches all of them."""
        self.first: str | None = None
        """Who is told before anybody else: what is sent on when it hears finds the others told."""

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            ReplicaReported: self.on_replica_reported,
            ReplicaExited: self.on_replica_exited,
            TrustChanged: self.on_trust_changed,
            DescribeReplicas: self.on_describe_replicas,
            Undeliverable: self.on_undeliverable,
        }

    def on_replica_reported(self, message: ReplicaReported) -> None:
        if not self._reports.believe(message):
            return
        replica, now = message.replica, self.ctx.now
        heard = self._signals.get(replica) or self._signals.first_heard(replica)
        self._engines.said(replica, message.busy_s, now, bool(heard.sent))
        before, state = heard.report, message.state
        changed = before is None or before.state != state
        heard.report, heard.reported_s = message, now
        for view in heard.views:
            take_signals(view, message, now)
            changed = changed or view.state != state  # one that could not reach it has given it up
        if message.tokens is not None:
            heard.kv.add(message.tokens.kv_utilization)
            heard.waiting.add(message.tokens.waiting)
        if message.gpu_utilization is not None:
            heard.gpu.add(message.gpu_utilization)
        if changed:
            self._pass_on(replica, message)
            if state in ("stopped", "failed"):
                self._forget(replica)
        elif heard.sent and not heard.sent <= set(message.holds):
            pool = self.pools.get(pool_of(replica))
            if pool is not None:
                self.ctx.send(pool.batcher, message)

    def _pass_on(self, replica: str, message: Message) -> None:
        """To all whom it concerns. Pools that share nothing but the router do not hear of each other's replicas."""
        if self.first is not None:
            self.ctx.send(self.first, message)
        pool = self.pools.get(pool_of(replica))
        if pool is not None:
            self.ctx.send(pool.batcher, message)
            self.ctx.send(pool.autoscaler, message)
        self.ctx.send(self._watchers, message)

    def on_replica_exited(self, message: ReplicaExited) -> None:
        self._forget(message.replica)
        self._pass_on(message.replica, message)

    def _forget(self, replica: str) -> None:
        self._reports.ended(replica)
        self._signals.forget(replica)

    def on_trust_changed(self, message: TrustChanged) -> None:
        self._pass_on(message.replica, message)

    def on_describe_replicas(self, message: DescribeReplicas) -> None:
        """Somebody is new here."""
        for report in self._signals.reports():
            if message.pool is None or pool_of(report.replica) == message.pool:
                self.ctx.send(message.reply_to, report)

    def on_undeliverable(self, message: Undeliverable) -> None:
        """Whoever is not there asks when it comes."""
