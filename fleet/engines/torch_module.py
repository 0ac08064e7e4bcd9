"""An engine that runs any `torch.nn.Module`, given by import path, on a GPU or the CPU.

The one thing to know: torch is only ever touched on a worker thread, through `ctx.in_thread`, so the loop
that the actor lives on is never blocked by it. Importing this module loads no torch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from msgspec import Meta, Struct

from fleet.actor import Context, FleetError
from fleet.engines.base import BatchEngine, DeviceSignals
from fleet.messages import LoadFinished, Payload, RunFinished, Work

if TYPE_CHECKING:
    import torch

    from fleet.engines.nvml import DeviceSampler
    from fleet.engines.torch_runner import TorchRunner

Count = Annotated[int, Meta(ge=1)]


class Collates(Protocol):
    """What a module may define beside `forward`. Without it, payload tensors are stacked."""

    def collate(self, work: Sequence[Work]) -> tuple[torch.Tensor, ...]:
        """The arguments of `forward` for these requests: CPU tensors whose first dimension is `len(work)`.

        A request without a payload should get a made-up input that depends on the request alone: traces carry
        no content, and nor do warm-up batches and deep probes. Called on the worker thread.
        """


class _Ran(Struct, frozen=True):
    """What came of a batch, on its way from the worker thread."""

    service_s: float
    error: str | None = None
    results: list[Payload | None] | None = None


class TorchEngine(BatchEngine):
    """Runs batches of an `nn.Module` whose `forward` returns one tensor with a row for each request.

    A request's input is its `payload.tensor` (all of one shape), or noise of `input_shape` that depends on
    its id alone, or what the module's own `collate` makes of it (see `Collates`). Its result is its row.

    The service time is the worker's, from the first input to the last result on the host. Every `run` is
    answered by exactly one `RunFinished`, a cancelled one too: work on a device cannot be called back. The
    exception is an error after which the device takes no more work (an illegal access, a failed assertion in a
    kernel): it ends the replica's process.
    """

    module: Annotated[str, Meta(pattern=r"^[\w.]+:[\w.]+$")]
    """`package.module:name` of an `nn.Module` class, or of a function that returns an `nn.Module`."""
    kwargs: dict[str, Any] = {}  # Any: whatever the module's constructor takes
    """Arguments of that class or function."""
    device: Annotated[str, Meta(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """`auto` takes the GPU when there is one, else the CPU."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Of the parameters and of floating inputs; None leaves the module as it is made."""
    input_shape: tuple[Count, ...] | None = None
    """Shape of one request's made-up input, without the batch dimension."""
    batch_buckets: tuple[Count, ...] = ()
    """A batch is padded with zero rows to the next of these sizes; a larger one is left as it is."""
    token_buckets: tuple[Count, ...] = ()
    """Where given, dimension 1 of every input is tokens, padded with zeros to the next of these lengths."""
    num_threads: Count | None = None
    """Threads for one operation on the CPU; None leaves torch's own choice."""
    warmup: Annotated[int, Meta(ge=0)] = 2
    """Batches of each bucket that are run as part of the load, where inputs can be made up."""
    return_outputs: bool = True
    """False: results stay on the device and are dropped."""

    def __post_init__(self) -> None:
        self._runner: TorchRunner | None = None
        self._sampler: DeviceSampler | None = None
        self._running: int | None = None
        self._unloaded = False

    def load(self, ctx: Context) -> None:
        self._ctx = ctx
        ctx.in_thread(self._load, LoadFinished)

    def run(self, batch: int, work: Sequence[Work]) -> None:
        runner = self._runner
        if runner is None:
            raise FleetError(f"batch {batch} was given to an engine that is not loaded")
        if self._running is not None:
            raise FleetError(f"batch {batch} was given to an engine that still runs batch {self._running}")
        self._running = batch
        self._ctx.in_thread(
            lambda: self._run(runner, work),
            lambda ran: RunFinished(batch, ran.service_s, ran.error, ran.results),
        )

    def unload(self) -> None:
        self._unloaded = True
        self._runner = None
        if self._sampler is not None:
            self._sampler.close()

    def signals(self) -> DeviceSignals:
        return DeviceSignals() if self._sampler is None else self._sampler.latest

    # --- on the worker thread -----------------------------------------------------------------------------

    def _load(self) -> str | None:
        """Build the runner; one line of error, or None."""
        try:
            from fleet.engines.torch_runner import TorchRunner

            runner = TorchRunner(self)
            sampler = runner.sampler()
        except Exception as error:
            line = _one_line(error)
            return line if isinstance(error, (FleetError, ModuleNotFoundError)) else f"{self.module}: {line}"
        if self._unloaded:
            if sampler is not None:
                sampler.close()
            return "unloaded before the load was done"
        self._runner, self._sampler = runner, sampler
        return None

    def _run(self, runner: TorchRunner, work: Sequence[Work]) -> _Ran:
        started = time.perf_counter()
        try:
            results = runner.run(work)
            return _Ran(time.perf_counter() - started, results=results)
        except Exception as error:
            line = f"batch of {len(work)}: {_one_line(error)}"
            if type(error).__name__ == "AcceleratorError":
                # The device's context is lost: every later batch would fail too, and at once, which looks like
                # speed to a router. So the process ends, and with it the replica.
                raise FleetError(line) from error
            return _Ran(time.perf_counter() - started, error=line)
        finally:
            self._running = None  # before the message is out: the next batch may come at once


def _one_line(error: Exception) -> str:
    """One line that says what went wrong, and what to do where that is known."""
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        return "TorchEngine needs torch: pip install 'fleetlab[torch]'"
    text = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, FleetError):
        return text
    if type(error).__name__ == "OutOfMemoryError":
        return f"out of device memory: {text}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
