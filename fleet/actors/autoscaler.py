"""The autoscaler runs the control loop: it asks its policies how many replicas there should be, and closes the gap.

It holds soft state only. Kill it, and a new one learns what there is from the replicas' next reports; that is
also why it counts what it *requested* apart from what it *observed*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from fleet.actor import Actor, Context
from fleet.actors.hearing import Hooks
from fleet.actors.operations import PoolEmptied, RetirePool, ScalePool
from fleet.actors.pool_watch import Known, PoolWatch
from fleet.actors.registrar import Signals
from fleet.actors.roster import Reports
from fleet.blame import blaming, reset
from fleet.messages import (
    Activate,
    Deactivate,
    DescribeReplicas,
    Drain,
    KillReplica,
    Message,
    PoolReport,
    ReplicaExited,
    ReplicaReported,
    ReportPool,
    StartFailed,
    StartHeld,
    StartReplica,
    Tick,
    Told,
    TrustChanged,
    Undeliverable,
    replica_number,
)
from fleet.pools import Pool
from fleet.telemetry.sink import RecordedState, Telemetry
from policies.backoff import grown
from policies.base import Policy, PolicyError, is_settled
from policies.decisions import Scale, Warm
from policies.views import PoolView, ReplicaState

LONGEST_BACK_OFF_S = 30.0
"""Between two starts, where none of them ever becomes ready."""


class Autoscaler(Actor):
    """Desired, requested, observed: asks for the first, keeps the second, is told the third."""

    def __init__(
        self,
        *,
        pool: Pool,
        initial_replicas: int = 0,
        start_replicas: int = 0,
        control_interval_s: float,
        failed_grace_s: float,
        start_timeout_s: float = 600.0,
        failed_starts_limit: int = 6,
        router: str,
        telemetry: Telemetry,
        signals: Signals,
        registrar: str = "registrar",
        launcher: str = "launcher",
        operator: str = "operator",
        settle_s: float = 0.0,
        first_number: int | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """`initial_replicas` somebody else starts, `start_replicas` this one, at once.

        `say` gets a line for whoever watches the fleet, now and then.
        """
        self._start_replicas = start_replicas
        self.pool = pool
        self._scaling, self._warm_pool = pool.scaling, pool.warm_pool
        self._hooks = Hooks(pool.scaling, pool.warm_pool)
        self._retired = False
        self._interval_s = control_interval_s
        self._grace_s, self._start_timeout_s = failed_grace_s, start_timeout_s
        self._router, self._launcher, self._operator = router, launcher, operator
        self._telemetry = telemetry
        self._signals, self._registrar = signals, registrar
        # Somebody else starts the first ones; until they report they are on their way, not missing.
        self._known = {
            pool.replica(number): Known("provisioning", "ready") for number in range(initial_replicas)
        }
        self._reports = Reports()
        self._next_number = initial_replicas if first_number is None else first_number
        self._settle_s = settle_s
        """How long to listen before the first decision: for one that replaces another, and must learn what there is."""
        self._watch = PoolWatch(signals, pool)
        self._failed_starts = 0
        """In a row. Those that were asked for before the first of them failed are one with it."""
        self._failure: str | None = None
        """Of the last of these."""
        self._failed_s = -1.0
        """When the last of these failed."""
        self._failed_starts_limit = failed_starts_limit
        self._say = say
        self._not_before_s = 0.0
        self._desired: tuple[int, int] | None = None
        self._seen: PoolView | None = None
        self._at_rest = False
        """Nothing has changed since the last time, and nothing is under way: so it will be until something happens."""

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        reset(self._scaling, ctx.rng)
        reset(self._warm_pool, ctx.rng)
        ctx.send(self._registrar, DescribeReplicas(ctx.address, self.pool.name))
        ctx.after(self._settle_s, Tick("control"))
        if self._start_replicas:
            self._desired = (self._start_replicas, 0)
            self._reconcile(*self._desired, ctx.now)

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            Tick: self.on_tick,
            PoolReport: self.on_pool_report,
            ReplicaReported: self.on_replica_reported,
            ReplicaExited: self.on_replica_exited,
            TrustChanged: self.on_trust_changed,
            StartHeld: self.on_start_held,
            Undeliverable: self.on_undeliverable,
            Told: self.on_told,
            ScalePool: self.on_scale_pool,
            RetirePool: self.on_retire_pool,
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
            self._back_off(message.replica, known, message.detail)
        elif message.state in ("ready", "warm") and known.state == "loading":
            self._failed_starts = 0
        noticed = message.state == "draining" and known.requested != "stopped"
        known.enter(message.state, message.busy_s, now)
        self._telemetry.replica_changed(now, message.replica, message.state, message.detail)
        if message.state in ("stopped", "failed"):
            self._reports.ended(message.replica)
            del self._known[message.replica]
            self._say_if_emptied()
        elif noticed:
            self._on_notice(known, now)

    def _on_notice(self, known: Known, now: float) -> None:
        """It drains, and nobody here told it to: its host takes it away. What takes its place is asked for now."""
        known.requested = "stopped"
        self._telemetry.counters["notices"] += 1
        if self._desired is not None:
            self._reconcile(*self._desired, now)

    def on_replica_exited(self, message: ReplicaExited) -> None:
        self._reports.ended(message.replica)
        known = self._known.pop(message.replica, None)
        if known is not None:
            # One that was told to end before it was ready did what it was told.
            if known.state in ("provisioning", "loading") and known.requested != "stopped":
                self._back_off(message.replica, known, message.detail)
            state: ReplicaState = "stopped" if message.expected else "failed"
            self._telemetry.replica_changed(self.ctx.now, message.replica, state, message.detail)
            self._say_if_emptied()

    def on_trust_changed(self, message: TrustChanged) -> None:
        known = self._known.get(message.replica)
        if known is not None and known.trust != message.trust:  # said twice, it is no newer
            known.trust, known.failed_s = message.trust, self.ctx.now

    def on_start_held(self, message: StartHeld) -> None:
        """The launcher has no place for it yet, or has one now: only then does its start begin."""
        known = self._known.get(message.replica)
        if known is not None:
            known.held, known.since_s = message.held, self.ctx.now
            state: RecordedState = "waiting" if message.held else "provisioning"
            self._telemetry.replica_changed(self.ctx.now, message.replica, state)

    def on_undeliverable(self, message: Undeliverable) -> None:
        """A command to a replica that is gone; its exit is, or will be, reported."""

    def on_told(self, message: Told) -> None:
        """What came of attempts."""
        self._hooks.hear(message, self.ctx.now)

    def _back_off(self, replica: str, known: Known, detail: str | None) -> None:
        """A replica never became ready: wait longer before each next try, so that a broken model costs little."""
        now, reason = self.ctx.now, detail or "it ended before it was ready"
        news = known.since_s > self._failed_s
        if news:
            self._failed_starts += 1
            self._failed_s = now
        self._failure = f"{replica}: {reason}"
        delay_s = grown(0.5, 2.0, self._failed_starts - 1, LONGEST_BACK_OFF_S)
        self._not_before_s = now + delay_s
        self._telemetry.counters["failed_starts"] += 1
        self._telemetry.decided(now, "scaling", replica, "StartFailed", value=delay_s, reason=reason)
        hopeless = self._failed_starts >= self._failed_starts_limit
        self.ctx.send(self._router, StartFailed(f"{replica}: {reason}", hopeless, self.pool.name))
        if news and self._say is not None:
            self._say(
                f"{replica} did not start: {reason} (failed start {self._failed_starts} in a row; "
                f"the next try in {delay_s:g} s)"
            )

    # --- the loop ----------------------------------------------------------------------------------------------

    def on_tick(self, message: Tick) -> None:
        if self._retired and not self._known:
            return
        self.ctx.send(self._router, ReportPool(self.ctx.address, pool=self.pool.name))
        self.ctx.every(self._interval_s, message)

    def on_pool_report(self, message: PoolReport) -> None:
        now = self.ctx.now
        pool = self._watch.look(message, self._known, now)
        self._telemetry.pool_sampled(now, pool)
        if self._retired:
            self._reconcile(0, 0, now)
            return
        try:
            scale = self._scaling.desired(pool, now)
        except Exception as error:
            raise blaming(self._scaling, error, f"pool {pool.name}", now) from error
        _demand_count(self._scaling, scale, Scale)
        # Work that was let in is to be done: none at all is what there may be while there is none.
        low, high = self._watch.bounds
        least = max(low, 1) if pool.in_flight else low
        desired = min(max(scale.replicas, least), high)
        pool = replace(pool, desired=desired)
        try:
            warm = self._warm_pool.desired(pool, now)
        except Exception as error:
            raise blaming(self._warm_pool, error, f"pool {pool.name}", now) from error
        _demand_count(self._warm_pool, warm, Warm)
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
        seen, self._seen = self._seen, replace(pool, as_of_s=0.0, interval_s=0.0, replicas=())
        return seen == self._seen and all(
            known.trust == "healthy" and (known.held or known.state == known.requested)
            for known in self._known.values()
        )

    def at_rest(self, message: Message) -> bool:
        return self._at_rest

    def passed_over(self, message: Message, due_s: float, periods: int) -> None:
        """The control loop would have seen the same each time: the series says so."""
        seen = self._seen
        if seen is not None:
            for number in range(periods):
                self._telemetry.pool_sampled(due_s + number * self._interval_s, seen)

    # --- operations --------------------------------------------------------------------------------------------

    def on_scale_pool(self, message: ScalePool) -> None:
        """An operator says: within these bounds from now on."""
        if self._retired:
            return
        low, high = self._watch.bounds
        low = low if message.min_replicas is None else message.min_replicas
        high = high if message.max_replicas is None else message.max_replicas
        self._watch.bounds = min(low, high), high
        self._at_rest, self._seen = False, None
        if self._desired is not None:
            low, high = self._watch.bounds
            self._desired = (min(max(self._desired[0], low), high), self._desired[1])
            self._reconcile(*self._desired, self.ctx.now)

    def on_retire_pool(self, message: RetirePool) -> None:
        """An operator says: none from now on. Those there are finish what they have."""
        self._retired = True
        self._watch.bounds = 0, 0
        self._desired = (0, 0)
        self._at_rest = False
        self._reconcile(0, 0, self.ctx.now)
        self._say_if_emptied()

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most replicas there may be."""
        return self._watch.bounds

    @property
    def next_number(self) -> int:
        """Of the next replica that it would start."""
        return self._next_number

    @property
    def retired(self) -> bool:
        """An operator has retired its pool."""
        return self._retired

    def described(self) -> dict[str, Any]:  # Any: JSON values
        """How its pool stands, in plain values."""
        pool, states = self.pool, Counter(known.state for known in self._known.values())
        low, high = self.bounds
        return {
            "model": pool.model, "version": pool.version, "variant": pool.variant, "device": pool.device,
            "cost_per_hour": pool.cost_per_hour, "replicas": dict(sorted(states.items())),
            "min_replicas": low, "max_replicas": high,
            "desired": None if self._desired is None else self._desired[0], "retired": self._retired,
            "failed_starts": self._failed_starts, "failure": self._failure if self._failed_starts else None,
        }  # fmt: skip

    def _say_if_emptied(self) -> None:
        if self._retired and not self._known:
            self.ctx.send(self._operator, PoolEmptied(self.pool.name))

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
            if not late or known.held or known.state not in ("provisioning", "loading"):
                continue
            if known.requested != "stopped":
                detail = f"it was {known.state} for over {self._start_timeout_s:g} s (start_timeout_s)"
                self._back_off(name, known, detail)
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
        name = self.pool.replica(self._next_number)
        self._next_number += 1
        self._known[name] = Known("provisioning", "ready" if activate else "warm", since_s=now)
        self._telemetry.replica_changed(now, name, "provisioning")
        spares = 0 if self._desired is None else self._desired[1]
        self.ctx.send(self._launcher, StartReplica(name, activate, self._watch.bounds[1] + spares))
        return True

    def _activate(self, name: str) -> None:
        self._known[name].requested = "ready"
        self.ctx.send(name, Activate())

    def _victims(self, serving: list[str], count: int) -> list[str]:
        """Whom to retire: those not ready yet, then idle ones, then the least loaded; the newest first."""
        if count <= 0:
            return []

        def cost(name: str) -> tuple[int, int, int]:
            known, heard = self._known[name], self._signals.get(name)
            batches = 0 if heard is None or heard.report is None else heard.report.batches
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
