"""What an engine is: it executes, and never schedules.

A replica tells its engine `load`, `unload`, and what to run; the engine answers by message to the replica's own
address. As a value in a `FleetSpec` it holds parameters only; each replica uses a fresh one.

There are two kinds. A `BatchEngine` runs a batch of whole requests, one batch at a time. A `StepEngine` runs one
step of continuous batching at a time: so many tokens of these sequences.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from fleet.actor import Context
from fleet.engines.devices.signals import NO_SIGNALS, DeviceSignals
from fleet.messages import Payload, Work
from policies.base import Component, kebab_case

if TYPE_CHECKING:
    from fleet.tokens.kv_cache import KvCache
    from fleet.tokens.sequence import SequenceState, StepWork
    from policies.base import EvictionPolicy, IterationPolicy


def engine_name(class_name: str) -> str:
    """`EmulatedEngine` -> `emulated`: what it goes by in TOML, where the field says that it is an engine."""
    return kebab_case(class_name.removesuffix("Engine"))


class Engine(Component, tag_field="engine", tag=engine_name):
    """Base of both kinds."""

    slot = "engine"

    inflight_batches: ClassVar[int]
    """How many batches a replica with such an engine may hold, unless the fleet's specification says otherwise."""

    @property
    def emulates(self) -> bool:
        """It takes the time that a latency model says, and answers nothing of its own."""
        return getattr(self, "latency", None) is not None

    @property
    def device_name(self) -> str | None:
        """What its latency model is of, where that is a device with a name."""
        device = getattr(getattr(self, "latency", None), "device", None)
        return device if isinstance(device, str) else getattr(device, "name", None)

    def expected_service_s(self) -> float | None:
        """What one ordinary request takes alone, as its latency model says; None where there is none."""
        expected = getattr(getattr(self, "latency", None), "expected_service_s", None)
        return None if expected is None else float(expected())

    def judge(self, work: Work, result: Payload | None) -> float | None:
        """How good this answer is, 0..1; None where this engine cannot say. Called for each answer; must not block."""
        return None

    def reset(self, seed: int) -> None:
        """Called once before `load`, with the run's seed: an engine's noise depends on nothing else."""

    @abstractmethod
    def load(self, ctx: Context) -> None:
        """Make ready to run; then `LoadFinished` arrives at `ctx.address`."""

    def unload(self) -> None:
        """Give back the device."""

    def signals(self) -> DeviceSignals:
        """The device's counters now; called once a report interval, must not block."""
        return NO_SIGNALS


class BatchEngine(Engine):
    """Runs batches of whole requests, one at a time."""

    inflight_batches = 2

    @abstractmethod
    def run(self, batch: int, work: Sequence[Work]) -> None:
        """Run `work` together; then `RunFinished(batch, ...)` arrives. `service_s` is on this process's clock."""

    @property
    def interruptible(self) -> bool:
        """Whether `cancel` ends a batch that runs: then that ends it on a slow replica too, when it comes."""
        return False

    def cancel(self, batch: int) -> None:
        """The batch is no longer wanted. End it early if that can be done; its `RunFinished` comes all the same.

        That of a batch which was ended early has an `error`, and how long it ran. An engine that does so says that it
        is `interruptible`.
        """


class StepEngine(Engine):
    """Runs steps of continuous batching, one span of them at a time, on a paged key-value cache.

    The cache's account belongs to the replica's scheduler, which is told here how much there is of it. Whatever a
    sequence holds in the engine is the engine's own; `forget` says that it is not needed any more.
    """

    inflight_batches = 1_024

    @abstractmethod
    def open_cache(self, eviction: EvictionPolicy) -> KvCache:
        """The account of this engine's cache, empty. Called once, after `LoadFinished`."""

    def prompt_tokens(self, work: Work) -> int:
        """How many tokens the prompt of `work` has. Raises `FleetError` for one that cannot be served.

        The request's own word, where there is no tokeniser to ask: at least 1, because there must be something to
        start from.
        """
        return max(1, work.request.prompt_tokens or 1)

    def output_tokens(self, work: Work) -> int | None:
        """How many tokens its answer will have, where that is known before it is generated."""
        return None

    @abstractmethod
    def run_step(self, work: StepWork) -> None:
        """Run `work`, up to `work.most` times over; then `StepRan(work.number, ...)` arrives."""

    def answered(self, work: Work) -> bool:
        """True when the tokens that this attempt resumes are its whole answer: then there is nothing left to run."""
        return work.output_tokens is not None and 0 < work.output_tokens <= len(work.resume)

    # --- asynchronous scheduling ---------------------------------------------------------------------------------

    def plans_ahead(self, policy: IterationPolicy) -> bool:
        """Is each step to be planned when the one before it begins, and not when that has ended?"""
        return False

    def last_step(self) -> tuple[int, float]:
        """Of the steps under way, end after the one that runs now: how many that makes, and when it began."""
        raise NotImplementedError(f"{type(self).__name__} cannot be planned ahead")

    def steps_left(self) -> int:
        """How many of the steps under way will begin after the one that runs now."""
        raise NotImplementedError(f"{type(self).__name__} cannot be planned ahead")

    def prolong(self) -> None:
        """`most` of the work under way has grown, in its first step: run it so many times over."""
        raise NotImplementedError(f"{type(self).__name__} cannot be planned ahead")

    def interrupt(self) -> None:
        """Something changed: of the steps under way, end after the one that runs now."""

    def steps_done(self) -> int:
        """How many of the steps under way have ended by now."""
        return 0

    def forget(self, sequence: SequenceState) -> None:
        """This sequence ended, was cancelled, or lost its place: give up what is kept for it.

        Never during a step that it is part of. One that loses its place still says that it runs: it will be back, and
        what it generated so far is part of it.
        """
