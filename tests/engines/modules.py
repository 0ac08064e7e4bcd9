"""Small modules that `TorchEngine` is tested with. Loads torch."""

import threading
import weakref
from collections.abc import Sequence

import torch
from torch import nn

from fleet.messages import Work


class Square(nn.Module):
    """x -> x², and the shapes it was called with."""

    shapes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Square.shapes.append(tuple(x.shape))
        return x * x


class Gate(nn.Module):
    """Does not end before it is let through, and says on which thread it runs."""

    entered = threading.Event()
    opened = threading.Event()
    thread: int | None = None
    num_threads: int | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Gate.thread = threading.get_ident()
        Gate.num_threads = torch.get_num_threads()
        Gate.entered.set()
        assert Gate.opened.wait(timeout=30.0)
        return x


class TokenMean(nn.Module):
    """Mean of the embeddings of a prompt's tokens, made up from the request: padding must not enter it."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(100, width, generator=generator))
        self.shapes: list[tuple[int, ...]] = []

    def collate(self, work: Sequence[Work]) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = [item.request.prompt_tokens or 1 for item in work]
        ids = torch.zeros(len(work), max(lengths), dtype=torch.int64)
        mask = torch.zeros(len(work), max(lengths))
        for i, length in enumerate(lengths):
            ids[i, :length] = torch.arange(1, length + 1)
            mask[i, :length] = 1.0
        return ids, mask

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(ids.shape))
        weight = mask.unsqueeze(-1)
        return (self.table[ids] * weight).sum(dim=1) / weight.sum(dim=1)


seen: list[tuple[int, ...]] = []
"""The shapes that `TokenMean` was called with."""


class Fails(nn.Module):
    """Raises what it is told to, in several lines."""

    def __init__(self, at: str = "forward") -> None:
        super().__init__()
        if at == "init":
            raise RuntimeError("no such weights\nin any folder")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(f"cannot take {tuple(x.shape)}\nreally")


class OutOfMemory(nn.Module):
    """Runs out of device memory while it is made."""

    def __init__(self) -> None:
        super().__init__()
        raise torch.OutOfMemoryError("CUDA out of memory")


class RunsOut(nn.Module):
    """Runs out of device memory in the middle of a batch of more than one."""

    intermediate: weakref.ref[torch.Tensor] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        RunsOut.intermediate = weakref.ref(y)
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 80 GiB")
        return y


class LosesDevice(nn.Module):
    """What CUDA reports when a kernel failed, from batch number `after` on: the context takes no more work."""

    def __init__(self, after: int = 0) -> None:
        super().__init__()
        self.left = after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with ...")
        return x


class Pair(nn.Module):
    """Returns two tensors, where one is wanted."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


def not_a_module() -> str:
    """A factory of the wrong thing."""
    return "weights"
