"""A replica owns a device: it loads an engine, runs what it is sent, and answers probes.

Its life cycle is a table:

    loading -> warm -> ready <-> warm          ready | warm -> draining -> stopped
    and `failed` from anywhere

This is what all replicas have in common. How work is run depends on the kind of engine: `BatchReplica` runs whole
requests, a batch at a time; `TokenReplica` serves token by token.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from fleet.actor import Actor, Context, FleetError
from fleet.actors.quality import Quality
from fleet.actors.timing import Timings
from fleet.engines.base import Engine
from fleet.messages import (
    Activate,
    AskLoad,
    BatchesMissing,
    BatchFinished,
    CancelBatch,
    ConfirmBatches,
    Deactivate,
    Drain,
    InjectSlowness,
    LoadAnswered,
    LoadFinished,
    Message,
    Payload,
    Probe,
    ProbeAnswered,
    ReplicaReported,
    RunBatch,
    Tick,
    Timing,
    Undeliverable,
    Work,
)
from policies.base import EvictionPolicy, IterationPolicy
from policies.views import ProbeStatus, ReplicaState, TokenSignals
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


MOST_LATENCIES = 16
"""Of the last attempts: a load is of now."""


class ReplicaSettings(Struct, frozen=True, kw_only=True):
    """What a replica is told when it is brought up."""

    engine: Engine
    seed: int = 0
    """The run's seed, for the engine's noise."""
    max_inflight_batches: int = 2
    report_interval_s: float = 0.25
    weight: float = 1.0
    slowness: float = 1.0
    """How many times as long as its engine it takes: the fastest of its pool takes 1."""
    quality: float | None = None
    """Of its pool's answers, on average; None: nobody says."""
    incarnation: int = 0
    activate: bool = True
    """Take traffic as soon as loaded; False: stay warm until told."""
    preloaded: bool = False
    """Simulation: it was there before the run began, so nobody hears that it loads."""
    fail_load: bool = False
    """Fault: report that the engine failed to load."""
    timed: bool = False
    """Say with each answer how long the engine took, and for what: for live runs, where nothing else knows."""
    iteration: IterationPolicy | None = None
    """For engines that serve token by token."""
    eviction: EvictionPolicy | None = None


class Replica(Actor):
    """Life cycle, reports and probes. A subclass runs the work."""

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
        self.failure: str | None = None
        """Why it failed, if it did."""
        self._activate = settings.activate
        self._probes: dict[int, Probe] = {}
        """Deep probes by the number of the batch that answers them (negative)."""
        self._cold = True
        self._slowness = settings.slowness
        """How many times as long as its engine it takes now."""
        drawn = settings.quality if self._engine.emulates else None
        self._quality = None if drawn is None else Quality(drawn, settings.seed)
        self._judges = type(self._engine).judge is not Engine.judge
        self._timings = Timings() if settings.timed else None
        self._running_since_s: float | None = None
        """When the engine began what it runs."""
        self._ran_s = 0.0
        """Engine seconds so far, without what runs now."""
        self._reported_s = self._reported_busy_s = 0.0
        """When the last report was made, and the engine seconds in it."""
        self._reports = 0
        self._reported_idle = False
        self._latencies_s: deque[float] | None = None
        """How long the last attempts took from coming here to their good ends; None: nobody ever asked."""

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        self._reported_s = ctx.now
        self._enter("loading", report=not self._settings.preloaded)
        if self._settings.fail_load:
            ctx.after(0.0, LoadFinished("injected: the engine failed to load"))
        else:
            self._engine.reset(self._settings.seed)
            self._engine.load(ctx)
        ctx.after(self._settings.report_interval_s, Tick("report"))

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            RunBatch: self.on_run_batch,
            CancelBatch: self.on_cancel_batch,
            ConfirmBatches: self.on_confirm_batches,
            Tick: self.on_tick,
            Probe: self.on_probe,
            AskLoad: self.on_ask_load,
            LoadFinished: self.on_load_finished,
            Activate: self.on_activate,
            Deactivate: self.on_deactivate,
            Drain: self.on_drain,
            InjectSlowness: self.on_inject_slowness,
            Undeliverable: self.on_undeliverable,
        }

    # --- for a subclass ----------------------------------------------------------------------------------------

    @abstractmethod
    def accept(self, message: RunBatch) -> None:
        """Take in a batch, and run it when its turn comes."""

    @abstractmethod
    def on_cancel_batch(self, message: CancelBatch) -> None:
        """Part of what it has is not wanted any more."""

    @abstractmethod
    def batches(self) -> list[int]:
        """The numbers of all batches it has, those of deep probes (negative) included."""

    @abstractmethod
    def attempts(self) -> int:
        """How many attempts it has, those of deep probes left out."""

    def opened(self) -> None:
        """The engine is loaded."""

    def token_signals(self) -> TokenSignals | None:
        """What it reports when it serves token by token."""
        return None

    def steps_begun(self) -> int:
        """How many steps its engine was given, when it serves token by token."""
        return 0

    def proves_itself(self, probe: Probe) -> bool:
        """What runs anyway will show whether the engine works, and answer this deep probe; else a canary must."""
        return False

    def timed(self, message: Tick) -> None:
        """A timer of the subclass's own ran out."""

    # --- life cycle --------------------------------------------------------------------------------------------

    def _enter(self, state: ReplicaState, detail: str | None = None, *, report: bool = True) -> None:
        if state not in TRANSITIONS[self.state]:
            raise FleetError(f"{self.ctx.address} cannot go from {self.state} to {state}")
        self.state = state
        if state == "failed":
            self.failure = detail
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
        self.opened()
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
        if self.state == "draining" and not self.batches():
            self._enter("stopped")

    # --- work --------------------------------------------------------------------------------------------------

    def on_run_batch(self, message: RunBatch) -> None:
        if self.state in ("ready", "warm", "draining"):
            self.accept(message)
            return
        error = f"{self.ctx.address} is {self.state}"
        self.ctx.send(
            message.reply_to,
            BatchFinished(self.ctx.address, message.batch, 0.0, error=error, busy_s=self.busy_s),
        )

    def answered_probe(self, batch: int, error: str | None) -> bool:
        """Answer the deep probe that this batch was for; False when it was for none."""
        probe = self._probes.pop(batch, None)
        if probe is None:
            return False
        status: ProbeStatus = "ok" if error is None else "failed"
        self.ctx.send(probe.reply_to, ProbeAnswered(self.ctx.address, probe.probe, status, error))
        return True

    def first_answer(self) -> bool:
        """True once: the first answer of a replica's life is a cold one."""
        cold, self._cold = self._cold, False
        return cold

    def holds(self) -> tuple[int, ...]:
        """The batches it has, deep probes left out."""
        return tuple(batch for batch in self.batches() if batch > 0)

    def timings(self) -> list[Timing] | None:
        """What the next answer takes along, where somebody asks."""
        return None if self._timings is None else self._timings.take(self.ctx.now)

    def on_confirm_batches(self, message: ConfirmBatches) -> None:
        holds = set(self.holds())
        missing = tuple(batch for batch in message.batches if batch not in holds)
        if missing:
            self.ctx.send(message.reply_to, BatchesMissing(self.ctx.address, missing))

    def on_inject_slowness(self, message: InjectSlowness) -> None:
        self._slowness = message.factor * self._settings.slowness

    def rated(
        self, work: Sequence[Work], results: Sequence[Payload | None] | None
    ) -> tuple[list[float | None] | None, str | None]:
        """How good each of these answers is, None where nobody can say of any; and what was wrong with the judge."""
        if self._judges:
            return self._judged(work, results or [None] * len(work))
        if self._quality is None:
            return None, None
        return [self._quality.of(item.request.id) for item in work], None

    def _judged(
        self, work: Sequence[Work], results: Sequence[Payload | None]
    ) -> tuple[list[float | None] | None, str | None]:
        name = self._engine.name()
        try:
            rated = [self._engine.judge(item, result) for item, result in zip(work, results, strict=True)]
            wrong = [quality for quality in rated if quality is not None and not 0.0 <= quality <= 1.0]
        except Exception as error:  # an engine is code of others
            return None, f"{name} could not judge its answer: {type(error).__name__}: {error}"
        if wrong:
            return None, f"{name} judged its answer {wrong[0]!r}; a quality is from 0 to 1"
        return (rated if any(quality is not None for quality in rated) else None), None

    # --- reports and probes ------------------------------------------------------------------------------------

    @property
    def busy_s(self) -> float:
        """How long the engine has run since it started, up to now."""
        since_s = self._running_since_s
        return self._ran_s if since_s is None else self._ran_s + (self.ctx.now - since_s)

    def engine_started(self) -> None:
        """For the account of its time: the engine begins."""
        self._running_since_s = self.ctx.now

    def engine_ended(self) -> None:
        """For the account of its time: the engine has nothing to do for now."""
        self._ran_s = self.busy_s
        self._running_since_s = None

    def on_ask_load(self, message: AskLoad) -> None:
        """A router asks how much there is to do here."""
        if self._latencies_s is None:
            self._latencies_s = deque(maxlen=MOST_LATENCIES)
        latency_s = median(self._latencies_s) if self._latencies_s else None
        in_flight = message.waiting + self.attempts()
        answer = LoadAnswered(self.ctx.address, message.asked_s, in_flight, latency_s)
        self.ctx.send(message.reply_to, answer)

    def on_tick(self, message: Tick) -> None:
        if message.what != "report":
            self.timed(message)
        elif self.state not in ("stopped", "failed"):
            self._report(None)
            self.ctx.every(self._settings.report_interval_s, message)

    def at_rest(self, message: Message) -> bool:
        """Its next report would say what its last one said: nothing to do since then, nothing now."""
        return self._reported_idle and self.state in ("warm", "ready") and not self.batches()

    def _report(self, detail: str | None) -> None:
        now = self.ctx.now
        span_s, busy_s = now - self._reported_s, self.busy_s
        busy = min(1.0, (busy_s - self._reported_busy_s) / span_s) if span_s > 0.0 else None
        self._reported_s, self._reported_busy_s = now, busy_s
        self._reports += 1
        signals = self._engine.signals()
        batches = self.batches()
        self.ctx.send(
            self._observers,
            ReplicaReported(
                self.ctx.address, self.state, self._settings.incarnation, self._settings.weight,
                self._settings.max_inflight_batches, len(batches), busy,
                signals.gpu_utilization, signals.memory_used_bytes, signals.memory_total_bytes, detail, self._reports,
                tuple([batch for batch in batches if batch > 0]), self.token_signals(), busy_s,
            ),
        )  # fmt: skip
        self._reported_idle = busy == 0.0 and not batches

    def complain(self, what: str) -> None:
        """Something is wrong that no request suffers from: say so in a report of its own."""
        self._report(what)

    def on_probe(self, message: Probe) -> None:
        if message.level == "deep" and self.state in ("ready", "warm"):
            if self.proves_itself(message):
                return
            self._probes[-message.probe] = message
            canary = Work(Request(f"probe/{message.probe}", self.ctx.now, prompt_tokens=8), 1, 1)
            self.on_run_batch(RunBatch(-message.probe, [canary], message.reply_to))
            return
        answered = message.level == "live" or self.state in ("ready", "warm")
        status: ProbeStatus = "ok" if answered else "failed"
        detail = None if answered else f"it is {self.state}"
        self.ctx.send(message.reply_to, ProbeAnswered(self.ctx.address, message.probe, status, detail))

    def on_undeliverable(self, message: Undeliverable) -> None:
        """The head is away; it learns from the next report, and retries what it lost. Or it does not take an answer."""
        lost = message.message
        if message.never and isinstance(lost, BatchFinished) and lost.error is None:
            self.unanswerable(
                message.to, lost, f"its answer was not taken: {message.detail or message.reason}"
            )

    def unanswerable(self, to: str, lost: BatchFinished, why: str) -> None:
        """An answer cannot be given: that is the answer, and what would come to the same is not tried again."""
        self.ctx.send(to, replace(lost, error=why, results=None, usage=None, quality=None, refused=True))
