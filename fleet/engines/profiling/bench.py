"""One engine alone on this thread: what is measured here is the service time that it reports itself.

Timers do not wait, so that measuring an engine that only emulates takes no time.
"""

from __future__ import annotations

import os
import platform
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from importlib import metadata
from pathlib import Path
from typing import Generic, TypeVar

from fleet.actor import FleetError
from fleet.engines.base import Engine
from fleet.messages import LoadFinished, Message

T = TypeVar("T")
EngineT = TypeVar("EngineT", bound=Engine)


class _Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Bench(Generic[EngineT]):
    """One fresh engine, loaded, and the `Context` it acts through. Raises `FleetError` when it fails to load."""

    address = "profile"

    def __init__(self, engine: EngineT) -> None:
        self.engine: EngineT = engine.fresh()
        self.rng = random.Random(0)
        self._started_s = time.perf_counter()
        self._skipped_s = 0.0
        self._inbox: deque[Message] = deque()
        self._timers: list[tuple[float, int, _Timer, Message]] = []
        self._timers_set = 0
        self.engine.reset(0)
        self.engine.load(self)
        finished = self.next(LoadFinished)
        if finished.error is not None:
            raise FleetError(f"the engine failed to load: {finished.error}")
        self.load_s = self.now

    def next(self, kind: type[T]) -> T:
        """The next message of this kind that the engine sends to itself, however long its timers take."""
        while self._inbox or self._timers:
            message = self._inbox.popleft() if self._inbox else self._due()
            if isinstance(message, kind):
                return message
        raise FleetError(f"the engine did not send {kind.__name__}")

    def _due(self) -> Message | None:
        """What the next timer says, as if its time had come."""
        due_s, _, timer, message = heappop(self._timers)
        self._skipped_s += max(0.0, due_s - self.now)
        return None if timer.cancelled else message

    # Context:

    @property
    def now(self) -> float:
        return time.perf_counter() - self._started_s + self._skipped_s

    def send(self, to: str, message: Message) -> None:
        raise FleetError(f"an engine reports to its own address, not to {to}")

    def after(self, delay_s: float, message: Message) -> _Timer:
        timer = _Timer()
        self._timers_set += 1
        heappush(self._timers, (self.now + delay_s, self._timers_set, timer, message))
        return timer

    def in_thread(self, work: Callable[[], T], then: Callable[[T], Message]) -> None:
        self._inbox.append(then(work()))


# --- what was measured, and where --------------------------------------------------------------------------


def machine() -> dict[str, str]:
    """The machine in words; its accelerator only when torch is loaded and sees one."""
    found = {
        "cpu": _cpu_name(),
        "cpu_cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch_threads"] = str(torch.get_num_threads())
        if torch.cuda.is_available():
            found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu_name() -> str:
    """The processor's own name where the kernel tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of what the measurement depends on."""
    found = {"python": platform.python_version()}
    for name in ("fleetlab", "numpy", "torch", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found
