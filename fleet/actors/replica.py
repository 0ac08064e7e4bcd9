"""A replica owns a device: it loads an engine, runs one batch at a time, and answers probes.

Its life cycle is a table:

    loading -> warm -> ready <-> warm          ready | warm -> draining -> stopped
    and `failed` from anywhere

Up to `max_inflight_batches` are at its door, so that the next one starts when the last one ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from fleet.actor import Actor, Context, FleetError
from fleet.engines.base import Engine
from fleet.messages import (
    Activate,
    BatchesMissing,
    BatchFinished,
    CancelBatch,
    ConfirmBatches,
    Deactivate,
    Drain,
    InjectSlowness,
    LoadFinished,
    Message,
    Probe,
    ProbeAnswered,
    ReplicaReported,
    RunBatch,
    RunFinished,
    Tick,
    Undeliverable,
    Work,
)
from policies.views import ProbeStatus, ReplicaState
from traces.schema import Request

TRANSITIONS: dict[ReplicaState, tuple[ReplicaState, ...]] = {
    "provisioning": ("loading", "failed"),
    "loading": ("warm", "ready", "draining", "failed"),
    "warm": ("ready", "draining", "failed"),
    "ready": ("warm", "draining", "failed"),
    "draining": ("stopped", "failed"),
    "stopped": (),
    "failed": (),
}


class ReplicaSettings(Struct, frozen=True, kw_only=True):
    """What a replica is told when it is brought up."""

    engine: Engine
    seed: int = 0
    """The run's seed, for the engine's noise."""
    max_inflight_batches: int = 2
    report_interval_s: float = 0.25
    weight: float = 1.0
    incarnation: int = 0
    activate: bool = True
    """Take traffic as soon as loaded; False: stay warm until told."""
    preloaded: bool = False
    """Simulation: it was there before the run began."""
    fail_load: bool = False
    """Fault: report that the engine failed to load."""


class Replica(Actor):
    """Runs batches on its engine, in order, and reports to the fleet's observers."""

    def __init__(
        self,
        settings: ReplicaSettings,
        *,
        observers: str = "observers",
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self._settings = settings
        self._engine: Engine = settings.engine.fresh()
        self._observers = observers
        self._on_end = on_end
        """Called once when stopped or failed; its process may end."""
        self.state: ReplicaState = "provisioning"
        self._activate = settings.activate
        self._doorstep: deque[RunBatch] = deque()
        self._running: RunBatch | None = None
        self._started_s = 0.0
        self._probes: dict[int, Probe] = {}
        """Deep probes by the number of the batch that answers them (negative)."""
        self._finished: RunFinished | None = None
        """Held back by an injected slowness."""
        self._cold = True
        self._slowness = 1.0
        self._busy_s = 0.0
        self._reported_s = 0.0
        self._reports = 0

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        self._reported_s = ctx.now
        self._enter("loading", report=not self._settings.preloaded)
        if self._settings.fail_load:
            ctx.after(0.0, LoadFinished("injected: the engine failed to load"))
        else:
            self._engine.reset(self._settings.seed)
            self._engine.load(ctx)
            if self._settings.preloaded:
                self._loaded()  # the engine's own LoadFinished comes too late to matter
        ctx.after(self._settings.report_interval_s, Tick("report"))

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            RunBatch: self.on_run_batch,
            RunFinished: self.on_run_finished,
            CancelBatch: self.on_cancel_batch,
            ConfirmBatches: self.on_confirm_batches,
            Tick: self.on_tick,
            Probe: self.on_probe,
            LoadFinished: self.on_load_finished,
            Activate: self.on_activate,
            Deactivate: self.on_deactivate,
            Drain: self.on_drain,
            InjectSlowness: self.on_inject_slowness,
            Undeliverable: self.on_undeliverable,
        }

    # --- life cycle --------------------------------------------------------------------------------------------

    def _enter(self, state: ReplicaState, detail: str | None = None, *, report: bool = True) -> None:
        if state not in TRANSITIONS[self.state]:
            raise FleetError(f"{self.ctx.address} cannot go from {self.state} to {state}")
        self.state = state
        if report:
            self._report(detail)
        if state in ("stopped", "failed"):
            self._engine.unload()
            if self._on_end is not None:
                self._on_end()

    def on_load_finished(self, message: LoadFinished) -> None:
        if self.state in ("stopped", "failed"):
            return  # it was told to stop while it loaded
        if message.error is not None:
            self._enter("failed", f"the engine failed to load: {message.error}")
        elif self.state == "loading":
            self._loaded()

    def _loaded(self) -> None:
        self._enter("ready" if self._activate else "warm")

    def on_activate(self, message: Activate) -> None:
        self._activate = True
        if self.state == "warm":
            self._enter("ready")

    def on_deactivate(self, message: Deactivate) -> None:
        self._activate = False
        if self.state == "ready":
            self._enter("warm")

    def on_drain(self, message: Drain) -> None:
        if self.state in ("loading", "warm", "ready"):
            self._enter("draining")
            self._stop_if_empty()

    def _stop_if_empty(self) -> None:
        if self.state == "draining" and self._running is None and not self._doorstep:
            self._enter("stopped")

    # --- batches -----------------------------------------------------------------------------------------------

    def on_run_batch(self, message: RunBatch) -> None:
        if self.state not in ("ready", "warm", "draining"):
            error = f"{self.ctx.address} is {self.state}"
            self.ctx.send(message.reply_to, BatchFinished(self.ctx.address, message.batch, 0.0, error=error))
            return
        self._doorstep.append(message)
        if self._running is None:
            self._run_next()

    def _run_next(self) -> None:
        if self._doorstep:
            self._running = self._doorstep.popleft()
            self._started_s = self.ctx.now
            self._engine.run(self._running.batch, self._running.work)

    def on_run_finished(self, message: RunFinished) -> None:
        running = self._running
        if running is None or running.batch != message.batch:
            return
        if self._slowness > 1.0 and self._finished is None:
            self._finished = message
            self.ctx.after((self._slowness - 1.0) * message.service_s, Tick("slow", number=message.batch))
            return
        elapsed_s = message.service_s if self._finished is None else self.ctx.now - self._started_s
        self._finished = None
        self._busy_s += self.ctx.now - max(self._started_s, self._reported_s)
        self._running = None
        self._answer(running, message, elapsed_s)
        self._run_next()
        if self.state == "draining":
            self._stop_if_empty()

    def _answer(self, running: RunBatch, finished: RunFinished, service_s: float) -> None:
        probe = self._probes.pop(running.batch, None)
        if probe is not None:
            status: ProbeStatus = "ok" if finished.error is None else "failed"
            self.ctx.send(
                probe.reply_to, ProbeAnswered(self.ctx.address, probe.probe, status, finished.error)
            )
            return
        cold, self._cold = self._cold, False
        self.ctx.send(
            running.reply_to,
            BatchFinished(self.ctx.address, running.batch, service_s, cold, finished.error, finished.results),
        )

    def holds(self) -> tuple[int, ...]:
        """The batches it has, deep probes left out: the running one first, then those at its door."""
        running = () if self._running is None else (self._running,)
        return tuple(item.batch for item in (*running, *self._doorstep) if item.batch > 0)

    def on_cancel_batch(self, message: CancelBatch) -> None:
        if self._running is not None and self._running.batch == message.batch:
            self._engine.cancel(message.batch)  # its end is its answer, soon or late
            return
        for index, waiting in enumerate(self._doorstep):
            if waiting.batch == message.batch:
                del self._doorstep[index]
                self.ctx.send(
                    waiting.reply_to, BatchFinished(self.ctx.address, waiting.batch, 0.0, error="cancelled")
                )
                return

    def on_confirm_batches(self, message: ConfirmBatches) -> None:
        holds = self.holds()
        missing = tuple(batch for batch in message.batches if batch not in holds)
        if missing:
            self.ctx.send(message.reply_to, BatchesMissing(self.ctx.address, missing))

    def on_inject_slowness(self, message: InjectSlowness) -> None:
        self._slowness = message.factor

    # --- reports and probes ------------------------------------------------------------------------------------

    def on_tick(self, message: Tick) -> None:
        if message.what == "slow":
            if self._finished is not None and self._finished.batch == message.number:
                self.on_run_finished(self._finished)
        elif self.state not in ("stopped", "failed"):
            self._report(None)
            self.ctx.after(self._settings.report_interval_s, Tick("report"))

    def _report(self, detail: str | None) -> None:
        now = self.ctx.now
        span_s = now - self._reported_s
        busy_s = self._busy_s
        if self._running is not None:
            busy_s += now - max(self._started_s, self._reported_s)
        busy = min(1.0, busy_s / span_s) if span_s > 0.0 else None
        self._busy_s, self._reported_s = 0.0, now
        self._reports += 1
        signals = self._engine.signals()
        self.ctx.send(
            self._observers,
            ReplicaReported(
                self.ctx.address, self.state, self._settings.incarnation, self._settings.weight,
                self._settings.max_inflight_batches, len(self._doorstep) + (self._running is not None), busy,
                signals.gpu_utilization, signals.memory_used_bytes, signals.memory_total_bytes, detail, self._reports,
                self.holds(),
            ),
        )  # fmt: skip

    def on_probe(self, message: Probe) -> None:
        if message.level == "deep" and self.state in ("ready", "warm"):
            self._probes[-message.probe] = message
            canary = Work(Request(f"probe/{message.probe}", self.ctx.now, prompt_tokens=8), 1, 1)
            self.on_run_batch(RunBatch(-message.probe, [canary], message.reply_to))
            return
        answered = message.level == "live" or self.state in ("ready", "warm")
        status: ProbeStatus = "ok" if answered else "failed"
        detail = None if answered else f"it is {self.state}"
        self.ctx.send(message.reply_to, ProbeAnswered(self.ctx.address, message.probe, status, detail))

    def on_undeliverable(self, message: Undeliverable) -> None:
        """The head is away; it learns from the next report, and retries what it lost."""
