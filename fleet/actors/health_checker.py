"""The health checker probes every replica and announces its policy's verdicts.

It asks on a fixed period and judges an unanswered probe when its time is out. Soft state only: a new one
starts from the replicas' next reports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from fleet.actor import Actor, Context, Timer
from fleet.actors.hearing import Hooks
from fleet.actors.roster import Reports
from fleet.blame import blaming, reset
from fleet.messages import (
    DescribeReplicas,
    Message,
    Probe,
    ProbeAnswered,
    ReplicaExited,
    ReplicaReported,
    Tick,
    Told,
    TrustChanged,
    Undeliverable,
)
from fleet.telemetry.sink import Telemetry
from policies.base import HealthPolicy, PolicyError, is_settled
from policies.decisions import Verdict
from policies.views import Completion, ProbeLevel, ProbeOutcome, ProbeStatus


class Asked(Struct):
    """A probe without an answer."""

    replica: str
    level: ProbeLevel
    sent_s: float
    timeout: Timer


def judges_completions(health: HealthPolicy) -> bool:
    """Whether the policy is to be asked about attempts too."""
    return type(health).after_completion is not HealthPolicy.after_completion


class HealthChecker(Actor):
    """Probes, and turns answers and silences into `TrustChanged`."""

    def __init__(
        self,
        *,
        health: HealthPolicy,
        interval_s: float,
        timeout_s: float,
        deep_interval_s: float | None,
        telemetry: Telemetry,
        observers: str = "observers",
        registrar: str = "registrar",
    ) -> None:
        self._health = health
        self._hooks = Hooks(health)
        self._judges_completions = judges_completions(health)
        self._interval_s, self._timeout_s, self._deep_interval_s = interval_s, timeout_s, deep_interval_s
        self._telemetry = telemetry
        self._observers, self._registrar = observers, registrar
        self._probed: dict[str, ProbeLevel] = {}
        """Replicas worth probing, and what to ask them."""
        self._reports = Reports()
        self._open: dict[int, Asked] = {}
        self._last_probe = 0
        self._all_well = False
        """Since the last round of probes began every answer was a good one, and the replicas are the same."""

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        reset(self._health, ctx.rng)
        ctx.send(self._registrar, DescribeReplicas(ctx.address))
        ctx.after(self._interval_s, Tick("ready"))
        if self._deep_interval_s is not None:
            ctx.after(self._deep_interval_s, Tick("deep"))

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            Tick: self.on_tick,
            ProbeAnswered: self.on_probe_answered,
            ReplicaReported: self.on_replica_reported,
            ReplicaExited: self.on_replica_exited,
            TrustChanged: self.on_trust_changed,
            Undeliverable: self.on_undeliverable,
            Told: self.on_told,
        }

    def on_replica_reported(self, message: ReplicaReported) -> None:
        if not self._reports.believe(message):
            return
        if message.state in ("stopped", "failed"):
            self._forget(message.replica)
        elif message.state in ("ready", "warm", "draining"):
            # One that drains takes no traffic, so it is not asked whether it is ready; it has batches to lose.
            level: ProbeLevel = "live" if message.state == "draining" else "ready"
            if self._probed.get(message.replica) != level:
                self._probed[message.replica] = level
                self._all_well = False

    def on_replica_exited(self, message: ReplicaExited) -> None:
        self._forget(message.replica)

    def on_told(self, message: Told) -> None:
        """What came of attempts."""
        self._hooks.hear(message, self.ctx.now)
        if not self._judges_completions:
            return
        for name, arguments in message.calls:
            if name == "on_completed":
                self._judge_completion(arguments[0])

    def _judge_completion(self, completion: Completion) -> None:
        """Ask what an attempt says of the replica that had it."""
        now, replica = self.ctx.now, completion.replica
        if replica not in self._probed:  # it has ended, or does not serve yet
            return
        try:
            verdict = self._health.after_completion(completion, now)
        except Exception as error:
            raise blaming(self._health, error, f"an attempt at {replica}", now) from error
        if verdict is not None:
            self._announce(replica, verdict, "an attempt at it", completion.failure, now)

    def _forget(self, replica: str) -> None:
        self._probed.pop(replica, None)
        self._all_well = False
        self._reports.ended(replica)

    def on_trust_changed(self, message: TrustChanged) -> None:
        """Its own announcement."""

    def on_tick(self, message: Tick) -> None:
        if message.what == "timeout":
            entry = self._open.pop(message.number, None)
            if entry is not None:
                self._observe(entry, "timeout", f"no answer in {self._timeout_s} s", None)
            return
        deep = message.what == "deep"
        self._all_well = True
        for replica, level in sorted(self._probed.items()):
            if not deep:
                self._probe(replica, level)
            elif level == "ready":
                self._probe(replica, "deep")
        interval_s = self._deep_interval_s if deep else self._interval_s
        if interval_s is not None:
            self.ctx.every(interval_s, message)

    def at_rest(self, message: Message) -> bool:
        """A deep probe makes an engine work."""
        return (
            self._all_well
            and not self._open
            and message == Tick("ready")
            and is_settled(self._health, "observe")
        )

    def _probe(self, replica: str, level: ProbeLevel) -> None:
        self._last_probe += 1
        timeout = self.ctx.after(self._timeout_s, Tick("timeout", number=self._last_probe))
        self._open[self._last_probe] = Asked(replica, level, self.ctx.now, timeout)
        self.ctx.send(replica, Probe(self._last_probe, level, self.ctx.address))

    def on_probe_answered(self, message: ProbeAnswered) -> None:
        entry = self._open.get(message.probe)
        if entry is None or entry.replica != message.replica:  # nobody answers for another
            self._telemetry.counters["late_probe_answers"] += 1
            return
        del self._open[message.probe]
        entry.timeout.cancel()
        self._observe(entry, message.status, message.detail, self.ctx.now - entry.sent_s)

    def on_undeliverable(self, message: Undeliverable) -> None:
        if isinstance(message.message, Probe):
            entry = self._open.pop(message.message.probe, None)
            if entry is not None:
                entry.timeout.cancel()
                self._observe(entry, "failed", f"{message.to} is {message.reason}", None)

    def _observe(
        self,
        entry: Asked,
        status: ProbeStatus,
        detail: str | None,
        round_trip_s: float | None,
    ) -> None:
        replica, level, sent_s = entry.replica, entry.level, entry.sent_s
        now = self.ctx.now
        if status != "ok":
            self._all_well = False
        if self._reports.has_ended(replica) or (level != "live" and self._probed.get(replica) == "live"):
            return  # it ended, or began to drain after it was asked
        outcome = ProbeOutcome(
            replica=replica,
            level=level,
            status=status,
            sent_s=sent_s,
            round_trip_s=round_trip_s,
            detail=detail,
        )
        try:
            verdict = self._health.observe(outcome, now)
        except Exception as error:
            raise blaming(self._health, error, f"a probe of {replica}", now) from error
        if verdict is not None:
            self._announce(replica, verdict, f"a probe of {replica}", detail, sent_s)

    def _announce(
        self, replica: str, verdict: Verdict, asked: str, detail: str | None, signal_s: float
    ) -> None:
        """Tell everybody; `signal_s` is when what it rests on was sent, or heard."""
        now = self.ctx.now
        answer: object = verdict  # what a policy returns is not what its signature says until it is checked
        if not isinstance(answer, Verdict) or answer.replica != replica:
            raise PolicyError(
                f"health policy {self._health.name()} answered {verdict!r} to {asked}; "
                "expected None or a Verdict about that replica"
            )
        reason = verdict.reason or detail
        self._telemetry.decided(
            now, "health", replica, verdict.trust, choice=verdict.trust, reason=reason,
            signal_age_s=now - signal_s,
        )  # fmt: skip
        self.ctx.send(self._observers, TrustChanged(replica, verdict.trust, reason))
