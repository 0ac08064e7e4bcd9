"""An engine that takes the time a model would, and does nothing else.

It acts through `ctx.after` alone, so one class serves virtual time and real time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from fleet.actor import Context, Timer
from fleet.engines.base import BatchEngine
from fleet.engines.latency.batches.base import LatencyModel
from fleet.messages import LoadFinished, RunFinished, Work


class EmulatedEngine(BatchEngine):
    """Load takes `cold_start_s`; a batch takes what `latency` says, and reports that as its service time.

    Every `run` is answered by exactly one `RunFinished`, unless `unload` comes first.
    """

    latency: LatencyModel
    cold_start_s: Annotated[float, Meta(ge=0)] = 0.0
    fail_load: bool = False
    """The load ends in an error, after `cold_start_s`."""
    interruptible: bool = False
    """True: a cancelled batch ends at once, as in engines that stop between steps. False: it runs on, as on a
    GPU whose kernels cannot be called back, and the device stays taken."""

    def __post_init__(self) -> None:
        self._timer: Timer | None = None
        self._batch: int | None = None

    def reset(self, seed: int) -> None:
        self.latency.reset(seed)

    def load(self, ctx: Context) -> None:
        error = "the load was told to fail (fail_load=True)" if self.fail_load else None
        self._ctx = ctx
        self._timer = ctx.after(self.cold_start_s, LoadFinished(error))

    def run(self, batch: int, work: Sequence[Work]) -> None:
        service_s = self.latency.seconds(work)
        self._batch = batch
        self._started_s = self._ctx.now
        self._service_s = service_s
        self._timer = self._ctx.after(service_s, RunFinished(batch, service_s))

    def cancel(self, batch: int) -> None:
        if not self.interruptible or self._timer is None or batch != self._batch:
            return
        ran_s = self._ctx.now - self._started_s
        if ran_s < self._service_s:  # else it has ended, and says so now if it has not yet
            self._timer.cancel()
            self._service_s = 0.0
            self._timer = self._ctx.after(0.0, RunFinished(batch, ran_s, error="cancelled"))

    def unload(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
