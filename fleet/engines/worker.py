"""What an engine's model lives on: a worker thread, and the one call at a time that it is given there.

The one thing to know: the loop hands over and is told; all that may block or fail is done over there, and comes back
as a value. What it costs to find out what went wrong is one line that says what to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from fleet.actor import Context, FleetError
from fleet.engines.devices.signals import NO_SIGNALS, DeviceSignals
from fleet.messages import LoadFinished, Message

if TYPE_CHECKING:
    from fleet.engines.devices.nvml import DeviceSampler


class Runner(Protocol):
    """A loaded model. It is made, and called, on the worker thread only."""

    def sampler(self) -> DeviceSampler | None:
        """Reads the counters of the model's device; None where it has none."""


R = TypeVar("R", bound=Runner)
T = TypeVar("T")


class Worker(Generic[R]):
    """A runner and the thread it is used on. `extras` names the packages that it needs, and where to get them."""

    def __init__(self, engine: str, extras: dict[str, str]) -> None:
        self._engine, self._extras = engine, extras
        self.runner: R | None = None
        """None until it is loaded, and after it was unloaded."""
        self._sampler: DeviceSampler | None = None
        self._running: int | None = None
        self._unloaded = False

    # --- on the loop -------------------------------------------------------------------------------------------

    def load(self, ctx: Context, model: str, build: Callable[[], R]) -> None:
        """Build the runner over there; then `LoadFinished` arrives."""
        self._ctx = ctx
        ctx.in_thread(lambda: self._build(model, build), LoadFinished)

    def demand(self, what: str) -> R:
        """The runner. Raises `FleetError` that says what was asked of an engine without one."""
        if self.runner is None:
            raise FleetError(f"{what} was given to an engine that is not loaded")
        return self.runner

    def run(
        self,
        number: int,
        what: str,
        size: str,
        call: Callable[[R], T],
        answer: Callable[[float, T | None, str | None], Message],
    ) -> None:
        """Call the runner over there; then `answer(service_s, value, error)` arrives.

        One of value and error is None. `what` it is (a batch, a step) and its `size` are for errors.
        """
        runner = self.demand(f"{what} {number}")
        if self._running is not None:
            raise FleetError(f"{what} {number} was given to an engine that still runs {what} {self._running}")
        self._running = number
        self._ctx.in_thread(
            lambda: self._call(lambda: call(runner), f"{what} of {size}"), lambda ran: answer(*ran)
        )

    def unload(self) -> None:
        """Give back the device; a load that is under way ends in an error."""
        self._unloaded = True
        self.runner = None
        if self._sampler is not None:
            self._sampler.close()

    def signals(self) -> DeviceSignals:
        """The device's counters as last read."""
        return NO_SIGNALS if self._sampler is None else self._sampler.latest

    # --- on the worker thread ----------------------------------------------------------------------------------

    def _build(self, model: str, build: Callable[[], R]) -> str | None:
        """One line of error, or None."""
        try:
            runner = build()
            sampler = runner.sampler()
        except Exception as error:
            line = self._one_line(error)
            return line if isinstance(error, (FleetError, ModuleNotFoundError)) else f"{model}: {line}"
        if self._unloaded:
            if sampler is not None:
                sampler.close()
            return "unloaded before the load was done"
        self.runner, self._sampler = runner, sampler
        return None

    def _call(self, call: Callable[[], T], what: str) -> tuple[float, T | None, str | None]:
        started = time.perf_counter()
        try:
            value = call()
            return time.perf_counter() - started, value, None
        except Exception as error:
            line = f"{what}: {self._one_line(error)}"
            if type(error).__name__ == "AcceleratorError":
                # The device's context is lost: every later call would fail too, and at once, which looks like speed
                # to a router. So the process ends, and with it the replica.
                raise FleetError(line) from error
            return time.perf_counter() - started, None, line
        finally:
            self._running = None  # before the message is out: the next call may come at once

    def _one_line(self, error: Exception) -> str:
        """One line that says what went wrong, and what to do where that is known."""
        if isinstance(error, ModuleNotFoundError) and error.name in self._extras:
            return f"{self._engine} needs {error.name}: pip install '{self._extras[error.name]}'"
        text = next(iter(str(error).strip().splitlines()), "")
        if isinstance(error, FleetError):
            return text
        if type(error).__name__ == "OutOfMemoryError":
            return f"out of device memory: {text}"
        return f"{type(error).__name__}: {text}" if text else type(error).__name__
