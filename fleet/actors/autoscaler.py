"""The autoscaler runs the control loop: it asks its policies how many replicas there should be, and closes the gap.

It holds soft state only. Kill it, and a new one learns what there is from the replicas' next reports; that is
also why it counts what it *requested* apart from what it *observed*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from fleet.actor import Actor, Context
from fleet.actors.hearing import Hooks
from fleet.actors.roster import Reports
from fleet.blame import blaming, reset
from fleet.messages import (
    Activate,
    Deactivate,
    Drain,
    KillReplica,
    Message,
    QueueReport,
    ReplicaExited,
    ReplicaReported,
    ReportQueue,
    StartReplica,
    Tick,
    Told,
    TrustChanged,
    Undeliverable,
    replica_number,
)
from fleet.telemetry.sink import Telemetry
from policies.base import Policy, PolicyError, ScalingPolicy, WarmPoolPolicy, is_settled
from policies.decisions import Scale, Warm
from policies.views import PoolView, ReplicaState, ReplicaView, Trust


class Known(Struct):
    """What is known of one replica."""

    state: ReplicaState
    requested: ReplicaState
    """Where it was told to go: `ready`, `warm` or `stopped`."""
    trust: Trust = "healthy"
    failed_s: float = 0.0
    since_s: float = 0.0
    """When it was asked for, or first heard of."""
    report: ReplicaReported | None = None
    reported_s: float = 0.0

    @property
    def counts(self) -> bool:
        """Part of the capacity that is there or on its way."""
        return self.trust != "failed" and self.requested != "stopped"


class Autoscaler(Actor):
    """Desired, requested, observed: asks for the first, keeps the second, is told the third."""

    def __init__(
        self,
        *,
        scaling: ScalingPolicy,
        warm_pool: WarmPoolPolicy,
        min_replicas: int,
        max_replicas: int,
        initial_replicas: int,
        control_interval_s: float,
        failed_grace_s: float,
        start_timeout_s: float = 600.0,
        router: str,
        telemetry: Telemetry,
        launcher: str = "launcher",
        settle_s: float = 0.0,
        first_number: int | None = None,
    ) -> None:
        self._scaling, self._warm_pool = scaling, warm_pool
        self._hooks = Hooks(scaling, warm_pool)
        self._min, self._max = min_replicas, max_replicas
        self._interval_s = control_interval_s
        self._grace_s, self._start_timeout_s = failed_grace_s, start_timeout_s
        self._router, self._launcher = router, launcher
        self._telemetry = telemetry
        # Somebody else starts the first ones; until they report they are on their way, not missing.
        self._known = {
            f"replica/{number}": Known("provisioning", "ready") for number in range(initial_replicas)
        }
        self._reports = Reports()
        self._next_number = initial_replicas if first_number is None else first_number
        self._settle_s = settle_s
        """How long to listen before the first decision: for one that replaces another, and must learn what there is."""
        self._counted = (0, 0, 0.0)
        """Attempts enqueued and finished at the last tick, and when that was."""
        self._failed_starts = 0
        self._not_before_s = 0.0
        self._desired: tuple[int, int] | None = None
        self._seen: PoolView | None = None
        self._at_rest = False
        """Nothing has changed since the last time, and nothing is under way: so it will be until something happens."""

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        reset(self._scaling, ctx.rng)
        reset(self._warm_pool, ctx.rng)
        ctx.after(self._settle_s, Tick("control"))

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            Tick: self.on_tick,
            QueueReport: self.on_queue_report,
            ReplicaReported: self.on_replica_reported,
            ReplicaExited: self.on_replica_exited,
            TrustChanged: self.on_trust_changed,
            Undeliverable: self.on_undeliverable,
            Told: self.on_told,
        }

    # --- what is there -----------------------------------------------------------------------------------------

    def on_replica_reported(self, message: ReplicaReported) -> None:
        now = self.ctx.now
        if not self._reports.believe(message):
            return
        known = self._known.get(message.replica)
        if known is None:
            requested: ReplicaState = (
                "stopped" if message.state == "draining" else "warm" if message.state == "warm" else "ready"
            )
            known = self._known[message.replica] = Known(message.state, requested, since_s=now)
            self._next_number = max(self._next_number, replica_number(message.replica) + 1)
        starting = known.state in ("provisioning", "loading") and known.requested != "stopped"
        if message.state == "failed" and starting:
            self._back_off(message.replica, message.detail)
        elif message.state in ("ready", "warm") and known.state == "loading":
            self._failed_starts = 0
        known.state, known.report, known.reported_s = message.state, message, now
        self._telemetry.replica_changed(now, message.replica, message.state, message.detail)
        if message.state in ("stopped", "failed"):
            self._reports.ended(message.replica)
            del self._known[message.replica]

    def on_replica_exited(self, message: ReplicaExited) -> None:
        self._reports.ended(message.replica)
        known = self._known.pop(message.replica, None)
        if known is not None:
            # One that was told to end before it was ready did what it was told.
            if known.state in ("provisioning", "loading") and known.requested != "stopped":
                self._back_off(message.replica, message.detail)
            state: ReplicaState = "stopped" if message.expected else "failed"
            self._telemetry.replica_changed(self.ctx.now, message.replica, state, message.detail)

    def on_trust_changed(self, message: TrustChanged) -> None:
        known = self._known.get(message.replica)
        if known is not None and known.trust != message.trust:  # said twice, it is no newer
            known.trust, known.failed_s = message.trust, self.ctx.now

    def on_undeliverable(self, message: Undeliverable) -> None:
        """A command to a replica that is gone; its exit is, or will be, reported."""

    def on_told(self, message: Told) -> None:
        """What came of attempts."""
        self._hooks.hear(message, self.ctx.now)

    def _back_off(self, replica: str, detail: str | None) -> None:
        """A replica never became ready: wait longer before each next try, so that a broken model costs little."""
        delay_s = min(30.0, 0.5 * 2.0**self._failed_starts)
        self._failed_starts += 1
        self._not_before_s = self.ctx.now + delay_s
        self._telemetry.counters["failed_starts"] += 1
        self._telemetry.decided(
            self.ctx.now,
            "scaling",
            replica,
            "StartFailed",
            value=delay_s,
            reason=detail or "it ended before it was ready",
        )

    # --- the loop ----------------------------------------------------------------------------------------------

    def on_tick(self, message: Tick) -> None:
        self.ctx.send(self._router, ReportQueue(self.ctx.address))
        self.ctx.every(self._interval_s, message)

    def on_queue_report(self, message: QueueReport) -> None:
        now = self.ctx.now
        pool = self._pool_view(message, now)
        self._telemetry.pool_sampled(now, pool)
        try:
            scale = self._scaling.desired(pool, now)
        except Exception as error:
            raise blaming(self._scaling, error, f"pool {pool.name}", now) from error
        try:
            warm = self._warm_pool.desired(pool, now)
        except Exception as error:
            raise blaming(self._warm_pool, error, f"pool {pool.name}", now) from error
        _demand_count(self._scaling, scale, Scale)
        _demand_count(self._warm_pool, warm, Warm)
        desired = min(max(scale.replicas, self._min), self._max)
        if (desired, warm.replicas) != self._desired:
            self._desired = (desired, warm.replicas)
            self._telemetry.decided(
                now,
                "scaling",
                pool.name,
                "Scale",
                value=desired,
                reason=scale.reason,
                signal_age_s=now - pool.as_of_s,
            )
            self._telemetry.decided(
                now, "warm_pool", pool.name, "Warm", value=warm.replicas, reason=warm.reason
            )
        self._reconcile(desired, warm.replicas, now)
        self._at_rest = self._nothing_changes(pool)

    def _nothing_changes(self, pool: PoolView) -> bool:
        """Shown the same as the last time, both policies would say the same, and all is as it was wanted."""
        if not is_settled(self._scaling, "desired") or not is_settled(self._warm_pool, "desired"):
            return False
        seen, self._seen = self._seen, replace(pool, as_of_s=0.0, replicas=())
        return seen == self._seen and all(
            known.trust == "healthy" and known.state == known.requested for known in self._known.values()
        )

    def at_rest(self, message: Message) -> bool:
        return self._at_rest

    def passed_over(self, message: Message, due_s: float, periods: int) -> None:
        """The control loop would have seen the same each time: the series says so."""
        seen = self._seen
        if seen is not None:
            for number in range(periods):
                self._telemetry.pool_sampled(due_s + number * self._interval_s, seen)

    def _pool_view(self, queue: QueueReport, now: float) -> PoolView:
        counting = [known for known in self._known.values() if known.counts]
        ready = [known for known in counting if known.state == "ready"]
        reports = [known.report for known in ready if known.report is not None]
        enqueued, finished, then = self._counted
        span_s = now - then
        self._counted = (queue.enqueued, queue.finished, now)
        return PoolView(
            ready=len(ready),
            warm=sum(known.state == "warm" for known in counting),
            starting=sum(known.state in ("provisioning", "loading") for known in counting),
            draining=sum(known.requested == "stopped" for known in self._known.values()),
            requested=len(counting),
            min_replicas=self._min,
            max_replicas=self._max,
            queue_depth=queue.queue_depth,
            oldest_wait_s=queue.oldest_wait_s,
            in_flight=queue.in_flight,
            arrivals_per_s=(queue.enqueued - enqueued) / span_s if span_s > 0.0 else 0.0,
            completions_per_s=(queue.finished - finished) / span_s if span_s > 0.0 else 0.0,
            busy_fraction=_mean([report.busy_fraction for report in reports]),
            gpu_utilization=_mean([report.gpu_utilization for report in reports]),
            memory_used_fraction=_mean([_memory_fraction(report) for report in reports]),
            kv_utilization=_mean(
                [None if item.tokens is None else item.tokens.kv_utilization for item in reports]
            ),
            as_of_s=min((known.reported_s for known in ready), default=now),
            replicas=tuple(self._view(name, known) for name, known in self._known.items()),
        )

    @staticmethod
    def _view(name: str, known: Known) -> ReplicaView:
        report = known.report
        if report is None:
            return ReplicaView(id=name, state=known.state, trust=known.trust)
        return ReplicaView(
            id=name, state=known.state, trust=known.trust, in_flight=report.batches, as_of_s=known.reported_s,
            weight=report.weight, busy_fraction=report.busy_fraction, gpu_utilization=report.gpu_utilization,
            memory_used_bytes=report.memory_used_bytes, memory_total_bytes=report.memory_total_bytes,
            tokens=report.tokens,
        )  # fmt: skip

    # --- closing the gap ---------------------------------------------------------------------------------------

    def _reconcile(self, desired: int, spares: int, now: float) -> None:
        self._replace_failed(now)
        self._end_late_starts(now)
        self._remind()
        serving = self._requested("ready")
        spare = self._requested("warm")
        for _ in range(desired - len(serving)):
            loaded = [name for name in spare if self._known[name].state == "warm"] or spare
            if loaded:
                self._activate(loaded[0])
                spare.remove(loaded[0])
            elif not self._start(activate=True, now=now):
                break
        for name in self._victims(serving, len(serving) - desired):
            if len(spare) < spares and self._known[name].state == "ready":
                self._known[name].requested = "warm"
                self.ctx.send(name, Deactivate())
                spare.append(name)
            else:
                self._drain(name)
        for _ in range(spares - len(spare)):
            if not self._start(activate=False, now=now):
                break
        for name in spare[spares:]:
            self._drain(name)

    def _replace_failed(self, now: float) -> None:
        """A replica that failed its checks no longer counts; after a grace in which it may recover it is ended."""
        for name, known in list(self._known.items()):
            if known.trust == "failed" and now - known.failed_s >= self._grace_s:
                if known.requested != "stopped":
                    self._telemetry.counters["replaced"] += 1
                known.requested = "stopped"
                self.ctx.send(self._launcher, KillReplica(name))

    def _end_late_starts(self, now: float) -> None:
        """Nobody probes a replica before it is ready, so one that hangs while it starts is known by its time."""
        for name, known in list(self._known.items()):
            late = now - known.since_s > self._start_timeout_s
            if not late or known.state not in ("provisioning", "loading"):
                continue
            if known.requested != "stopped":
                detail = f"it was {known.state} for over {self._start_timeout_s:g} s (start_timeout_s)"
                self._back_off(name, detail)
                known.requested = "stopped"
            self.ctx.send(self._launcher, KillReplica(name))

    def _remind(self) -> None:
        """Say again what has not come about: the command may have been lost, and twice does no harm."""
        for name, known in self._known.items():
            if known.requested == "stopped" and known.state in ("loading", "warm", "ready"):
                self.ctx.send(name, Drain())
            elif known.requested == "warm" and known.state == "ready":
                self.ctx.send(name, Deactivate())
            elif known.requested == "ready" and known.state == "warm":
                self.ctx.send(name, Activate())

    def _requested(self, state: ReplicaState) -> list[str]:
        return [name for name, known in self._known.items() if known.counts and known.requested == state]

    def _start(self, *, activate: bool, now: float) -> bool:
        """Ask for a replica; False when it must wait (back-off, or the fleet's maximum with its spares)."""
        if now < self._not_before_s:
            return False
        name = f"replica/{self._next_number}"
        self._next_number += 1
        self._known[name] = Known("provisioning", "ready" if activate else "warm", since_s=now)
        self._telemetry.replica_changed(now, name, "provisioning")
        self.ctx.send(self._launcher, StartReplica(name, activate))
        return True

    def _activate(self, name: str) -> None:
        self._known[name].requested = "ready"
        self.ctx.send(name, Activate())

    def _victims(self, serving: list[str], count: int) -> list[str]:
        """Whom to retire: those not ready yet, then idle ones, then the least loaded; the newest first."""
        if count <= 0:
            return []

        def cost(name: str) -> tuple[int, int, int]:
            known = self._known[name]
            batches = known.report.batches if known.report is not None else 0
            return (known.state == "ready", batches, -replica_number(name))

        return sorted(serving, key=cost)[:count]

    def _drain(self, name: str) -> None:
        self._known[name].requested = "stopped"
        if self._known[name].state == "provisioning":
            self.ctx.send(self._launcher, KillReplica(name))
        else:
            self.ctx.send(name, Drain())


def _demand_count(policy: Policy, answer: object, kind: type[Scale] | type[Warm]) -> None:
    """The policy must have answered a number of replicas."""
    replicas = getattr(answer, "replicas", None)
    if not isinstance(answer, kind) or type(replicas) is not int or replicas < 0:
        raise PolicyError(
            f"{policy.slot} policy {policy.name()} answered {answer!r}; expected {kind.__name__}(replicas >= 0)"
        )


def _memory_fraction(report: ReplicaReported) -> float | None:
    if report.memory_used_bytes is None or not report.memory_total_bytes:
        return None
    return report.memory_used_bytes / report.memory_total_bytes


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
