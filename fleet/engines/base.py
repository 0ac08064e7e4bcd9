"""What an engine is: it executes batches, and never schedules.

A replica tells its engine `load`, `run`, `cancel`, `unload`; the engine answers by message to the replica's
own address: `LoadFinished`, `RunFinished`. It is given one batch at a time. As a value in a `FleetSpec` it
holds parameters only; each replica uses a fresh one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from msgspec import Struct

from fleet.actor import Context
from fleet.messages import Work
from policies.base import Component, kebab_case


class DeviceSignals(Struct, frozen=True):
    """What the device's own counters say; None where there are none."""

    gpu_utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None


def engine_name(class_name: str) -> str:
    """`EmulatedEngine` -> `emulated`: what it goes by in TOML, where the field says that it is an engine."""
    return kebab_case(class_name.removesuffix("Engine"))


class Engine(Component, tag_field="engine", tag=engine_name):
    """Base of all engines."""

    slot = "engine"

    def reset(self, seed: int) -> None:
        """Called once before `load`, with the run's seed: an engine's noise depends on nothing else."""

    @abstractmethod
    def load(self, ctx: Context) -> None:
        """Make ready to run; then `LoadFinished` arrives at `ctx.address`."""

    @abstractmethod
    def run(self, batch: int, work: Sequence[Work]) -> None:
        """Run `work` together; then `RunFinished(batch, ...)` arrives. `service_s` is on this process's clock."""

    def cancel(self, batch: int) -> None:
        """The batch is no longer wanted. End it early if that can be done; its `RunFinished` comes all the same."""

    def unload(self) -> None:
        """Give back the device."""

    def signals(self) -> DeviceSignals:
        """The device's counters now; called once a report interval, must not block."""
        return DeviceSignals()
