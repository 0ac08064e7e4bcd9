"""An engine that runs any `torch.nn.Module`, given by import path, on a GPU or the CPU.

The one thing to know: torch is only ever touched on a worker thread, through `ctx.in_thread`, so the loop
that the actor lives on is never blocked by it. Importing this module loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from msgspec import Meta

from fleet.actor import Context
from fleet.engines.base import BatchEngine
from fleet.engines.bounds import Count
from fleet.engines.devices.signals import DeviceSignals
from fleet.engines.worker import Worker
from fleet.messages import RunFinished, Work

if TYPE_CHECKING:
    import torch

    from fleet.engines.torch.runner import TorchRunner


class Collates(Protocol):
    """What a module may define beside `forward`. Without it, payload tensors are stacked."""

    def collate(self, work: Sequence[Work]) -> tuple[torch.Tensor, ...]:
        """The arguments of `forward` for these requests: CPU tensors whose first dimension is `len(work)`.

        A request without a payload should get a made-up input that depends on the request alone: traces carry
        no content, and nor do warm-up batches and deep probes. Called on the worker thread.
        """


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
        self._worker: Worker[TorchRunner] = Worker("TorchEngine", {"torch": "fleetlab[torch]"})

    def load(self, ctx: Context) -> None:
        self._worker.load(ctx, self.module, self._build)

    def _build(self) -> TorchRunner:
        from fleet.engines.torch.runner import TorchRunner

        return TorchRunner(self)

    def run(self, batch: int, work: Sequence[Work]) -> None:
        self._worker.run(
            batch, "batch", str(len(work)),
            lambda runner: runner.run(work),
            lambda service_s, results, error: RunFinished(batch, service_s, error, results),
        )  # fmt: skip

    def unload(self) -> None:
        self._worker.unload()

    def signals(self) -> DeviceSignals:
        return self._worker.signals()
