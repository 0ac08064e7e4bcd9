"""The worker-thread side of `TorchEngine`: a module on its device, and the way of tensors to it and back.

Everything here runs on a worker thread, one call at a time. Only `TorchEngine` imports this module, on that
thread, for it loads torch.
"""

from __future__ import annotations

import importlib
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import Any, Literal, Protocol
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from fleet.actor import FleetError
from fleet.engines.devices.nvml import DeviceSampler
from fleet.messages import Payload, Work
from traces.schema import Request

Collate = Callable[[Sequence[Work]], tuple[torch.Tensor, ...]]

_MADE_UP_INPUTS = 16
_WARMUP_TOKENS = 16


class Parameters(Protocol):
    """What it is told: the parameters of `TorchEngine`, which documents them."""

    module: str
    kwargs: dict[str, Any]  # Any: whatever the module's constructor takes
    device: str
    dtype: Literal["float32", "float16", "bfloat16"] | None
    input_shape: tuple[int, ...] | None
    batch_buckets: tuple[int, ...]
    token_buckets: tuple[int, ...]
    num_threads: int | None
    warmup: int
    return_outputs: bool


class TorchRunner:
    """A loaded module that has been warmed up. Raises `FleetError` in one line, or what the module raises."""

    def __init__(self, engine: Parameters) -> None:
        self._batch_buckets = sorted(engine.batch_buckets)
        self._token_buckets = sorted(engine.token_buckets)
        self._return_outputs = engine.return_outputs
        self._device = _device(engine.device)
        self._on_gpu = self._device.type == "cuda"
        self._num_threads = engine.num_threads
        new_stream: Callable[[torch.device], torch.cuda.Stream] = torch.cuda.Stream
        self._stream = new_stream(self._device) if self._on_gpu else None
        self._staging = Staging(pinned=self._on_gpu)
        with self._on_stream():
            module = _build(engine.module, engine.kwargs).eval().requires_grad_(False)
            dtype = None if engine.dtype is None else getattr(torch, engine.dtype)
            self._module = module.to(self._device, dtype)
        self._dtype = _floating_dtype(self._module)
        self._collate: Collate | None = getattr(module, "collate", None)
        self._made_up = None if engine.input_shape is None else _noise(engine.input_shape)
        if self._collate is not None or self._made_up is not None:
            self._warm_up(engine.warmup)
        self._synchronize()

    def sampler(self) -> DeviceSampler | None:
        """What samples the device's counters; None on the CPU."""
        return (
            DeviceSampler(str(torch.cuda.get_device_properties(self._device).uuid)) if self._on_gpu else None
        )

    @torch.inference_mode()
    def run(self, work: Sequence[Work]) -> list[Payload | None] | None:
        """One forward pass; for each request its row of the output, on the host."""
        if self._num_threads is not None:
            torch.set_num_threads(self._num_threads)  # OpenMP keeps this per thread, and threads come and go
        with self._on_stream():
            try:
                return self._forward(work)
            except torch.OutOfMemoryError as error:
                out_of_memory = str(error)
            except BaseException:
                self._synchronize()  # the next batch writes to staging that a copy may still be reading
                raise
            # Outside the `except`: until it is left, the traceback keeps the batch's tensors alive.
            self._synchronize()
            torch.cuda.empty_cache()
            raise torch.OutOfMemoryError(out_of_memory)

    def _forward(self, work: Sequence[Work]) -> list[Payload | None] | None:
        inputs = self._stacked(work) if self._collate is None else self._collated(work, self._collate(work))
        output = self._module(*inputs)
        if not isinstance(output, torch.Tensor) or output.ndim == 0 or len(output) != len(inputs[0]):
            what = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise FleetError(f"forward must return one tensor of {len(inputs[0])} rows, not {what}")
        if not self._return_outputs:
            self._synchronize()
            return None
        rows = self._fetch(output[: len(work)])
        return [Payload(tensor=row) for row in rows]

    def _warm_up(self, repeats: int) -> None:
        sizes, lengths = self._batch_buckets or [1], self._token_buckets or [_WARMUP_TOKENS]
        for size, tokens in product(sizes, lengths):
            work = [Work(Request(f"warm-up/{i}", 0.0, prompt_tokens=tokens), attempt=1) for i in range(size)]
            for _ in range(repeats):
                self.run(work)

    # --- to the device and back ---------------------------------------------------------------------------

    def _stacked(self, work: Sequence[Work]) -> list[torch.Tensor]:
        """Payload tensors, or noise in their place, as one input; copied once, into the staging buffer."""
        rows = [self._row(item) for item in work]
        shapes = {row.shape for row in rows}
        if len(shapes) > 1:
            raise FleetError(f"payloads differ in shape ({sorted(shapes)}): give the module a `collate`")
        shape = (len(rows), *rows[0].shape)
        dtype = torch.from_numpy(np.empty(0, rows[0].dtype)).dtype
        host = self._staging.take(0, self._bucketed(shape), dtype)
        np.stack(rows, out=host.numpy()[_corner(shape)])
        return [self._send(_zero_beyond(host, shape))]

    def _row(self, item: Work) -> NDArray[np.generic]:
        row: NDArray[np.generic]
        if item.payload is not None and item.payload.tensor is not None:
            row = item.payload.tensor
        elif self._made_up is not None:
            row = self._made_up[crc32(item.request.id.encode()) % len(self._made_up)]
        else:
            raise FleetError(
                f"request {item.request.id} has no tensor: set `input_shape`, or give the module a `collate`"
            )
        return row

    def _collated(self, work: Sequence[Work], tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        for tensor in tensors:
            if tensor.ndim == 0 or len(tensor) != len(work):
                raise FleetError(f"collate made shape {tuple(tensor.shape)} of {len(work)} requests")
        return [self._place(slot, tensor) for slot, tensor in enumerate(tensors)]

    def _place(self, slot: int, tensor: torch.Tensor) -> torch.Tensor:
        shape = self._bucketed(tensor.shape)
        if not self._on_gpu and shape == tuple(tensor.shape):
            return self._send(tensor)
        host = self._staging.take(slot, shape, tensor.dtype)
        host[_corner(tensor.shape)].copy_(tensor)
        return self._send(_zero_beyond(host, tensor.shape))

    def _bucketed(self, shape: Sequence[int]) -> tuple[int, ...]:
        padded = [_next_bucket(self._batch_buckets, shape[0]), *shape[1:]]
        if self._token_buckets and len(shape) > 1:
            padded[1] = _next_bucket(self._token_buckets, shape[1])
        return tuple(padded)

    def _send(self, host: torch.Tensor) -> torch.Tensor:
        sent = host.to(self._device, non_blocking=True)
        return sent.to(self._dtype) if sent.is_floating_point() else sent

    def _fetch(self, output: torch.Tensor) -> NDArray[np.generic]:
        """[n, ...] on the host, where the next batch does not touch it; a scalar per item becomes [n, 1]."""
        if output.dtype == torch.bfloat16:  # numpy has none
            output = output.float()
        if self._on_gpu:
            host = self._staging.take("output", tuple(output.shape), output.dtype)
            host.copy_(output, non_blocking=True)
            self._synchronize()
            output = host.clone()
        array: NDArray[np.generic] = output.numpy()
        return array.reshape(len(array), -1) if array.ndim == 1 else array

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _synchronize(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()


class Staging:
    """Host memory that tensors pass through. Pinned, it is kept and reused, one buffer for each place."""

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._buffers: dict[int | str, torch.Tensor] = {}

    def take(self, place: int | str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor with undefined content; pinned, it is valid until the same place is taken again."""
        if not self._pinned:
            return torch.empty(tuple(shape), dtype=dtype)
        size = math.prod(shape) * dtype.itemsize
        buffer = self._buffers.get(place)
        if buffer is None or len(buffer) < size:
            buffer = torch.empty(1 << max(size - 1, 0).bit_length(), dtype=torch.uint8, pin_memory=True)
            self._buffers[place] = buffer
        return buffer[:size].view(dtype).view(tuple(shape))


def _corner(shape: Sequence[int]) -> tuple[slice, ...]:
    """Where a tensor of `shape` goes in a padded one: only dimensions 0 and 1 are ever padded."""
    return tuple(slice(size) for size in shape[:2])


def _zero_beyond(host: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """`host` with zeros wherever it is larger than `shape`."""
    host[shape[0] :].zero_()
    if host.ndim > 1:
        host[: shape[0], shape[1] :].zero_()
    return host


def _next_bucket(buckets: Sequence[int], size: int) -> int:
    i = bisect_left(buckets, size)
    return buckets[i] if i < len(buckets) else size


def _noise(shape: Sequence[int]) -> NDArray[np.float32]:
    generator = np.random.default_rng(0)
    return generator.standard_normal((_MADE_UP_INPUTS, *shape), dtype=np.float32)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise FleetError(f"torch finds {torch.cuda.device_count()} CUDA devices, so none is {name!r}")
    return device


def _floating_dtype(module: torch.nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def _build(path: str, kwargs: dict[str, object]) -> torch.nn.Module:
    """Import `package.module:name` and call it."""
    module_name, _, name = path.partition(":")
    try:
        found: object = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise FleetError(f"cannot import {path}: {error}") from error
    if not callable(found):
        raise FleetError(f"{path} is no class or function, but {type(found).__name__}")
    built = found(**kwargs)
    if not isinstance(built, torch.nn.Module):
        raise FleetError(f"{path} made no torch.nn.Module, but {type(built).__name__}")
    return built
