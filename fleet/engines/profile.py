"""Measure an engine: the table that `fleet profile` writes and `ProfiledLatency` reads.

The engine runs alone, in this process and on this thread, one batch at a time. What is recorded is the
service time that it reports itself; timers do not wait, so that profiling an emulated engine takes no time.
"""

from __future__ import annotations

import os
import platform
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from fleet.actor import FleetError
from fleet.engines.base import BatchEngine
from fleet.messages import LoadFinished, Message, Payload, RunFinished, Work
from traces.schema import Request

T = TypeVar("T")
NonNegative = Annotated[float, Meta(ge=0)]


class ProfilePoint(Struct, frozen=True, forbid_unknown_fields=True):
    """How long one batch took: `batch_size` items of `tokens` prompt tokens each (0: without tokens)."""

    batch_size: Annotated[int, Meta(ge=1)]
    tokens: Annotated[int, Meta(ge=0)]
    min_s: NonNegative
    median_s: NonNegative
    p90_s: NonNegative


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A measured engine."""

    format: Literal["fleetlab-profile/1"] = "fleetlab-profile/1"
    engine: dict[str, object]
    """The engine's name and parameters."""
    repeats: Annotated[int, Meta(ge=1)]
    """Measured runs per point, after the ones that warm it up."""
    load_s: NonNegative
    """From `load` to `LoadFinished`."""
    machine: dict[str, str]
    versions: dict[str, str]
    points: Annotated[tuple[ProfilePoint, ...], Meta(min_length=1)]

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read what `save` wrote. Raises `ValueError` that names the file and what is wrong with it."""
        try:
            return msgspec.json.decode(Path(path).read_bytes(), type=cls)
        except OSError as error:
            raise ValueError(f"cannot read the profile {path}: {error.strerror}") from None
        except msgspec.DecodeError as error:  # ValidationError is one too
            raise ValueError(f"{path} is not a profile as `fleet profile` writes it: {error}") from None


def profile_engine(
    engine: BatchEngine,
    batch_sizes: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    tokens: Sequence[int] = (0,),
    *,
    repeats: int = 10,
    warmup: int = 2,
    payload: Callable[[Request], Payload | None] = lambda request: None,
    on_point: Callable[[ProfilePoint], None] = lambda point: None,
) -> Profile:
    """Run a fresh `engine` at every batch size with prompts of every length, `repeats` times after `warmup`.

    A length of 0 stands for requests without tokens. `payload` makes what a request carries; `on_point` is
    told of every point as it is done. Raises `FleetError` when the engine fails to load or to run.
    """
    bench = _Bench(engine)
    points = []
    try:
        for batch_size in batch_sizes:
            for count in tokens:
                service_s = [
                    bench.service_s(_work(batch_size, count, attempt, payload))
                    for attempt in range(warmup + repeats)
                ]
                points.append(_point(batch_size, count, service_s[warmup:]))
                on_point(points[-1])
    finally:
        bench.engine.unload()
    return Profile(
        engine=msgspec.to_builtins(engine),
        repeats=repeats,
        load_s=bench.load_s,
        machine=_machine(),
        versions=_versions(),
        points=tuple(points),
    )


def _work(
    batch_size: int, tokens: int, attempt: int, payload: Callable[[Request], Payload | None]
) -> list[Work]:
    names = [f"profile-{batch_size}-{tokens}-{i}" for i in range(batch_size)]
    requests = [Request(name, 0.0, prompt_tokens=tokens or None) for name in names]
    return [Work(request, attempt, payload=payload(request)) for request in requests]


def _point(batch_size: int, tokens: int, service_s: Sequence[float]) -> ProfilePoint:
    p90 = quantiles(service_s, n=10, method="inclusive")[-1] if len(service_s) > 1 else service_s[0]
    return ProfilePoint(batch_size, tokens, min(service_s), median(service_s), p90)


# --- a context for an engine alone -------------------------------------------------------------------------


class _Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class _Bench:
    """One loaded engine and the `Context` it acts through."""

    address = "profile"

    def __init__(self, engine: BatchEngine) -> None:
        self.engine: BatchEngine = engine.fresh()
        self.rng = random.Random(0)
        self._started_s = time.perf_counter()
        self._skipped_s = 0.0
        self._inbox: deque[Message] = deque()
        self._timers: list[tuple[float, int, _Timer, Message]] = []
        self._timers_set = 0
        self._batches = 0
        self.engine.reset(0)
        self.engine.load(self)
        finished = self._next(LoadFinished)
        if finished.error is not None:
            raise FleetError(f"the engine failed to load: {finished.error}")
        self.load_s = self.now

    def service_s(self, work: Sequence[Work]) -> float:
        """Run `work` as one batch; how long that took by the engine's own account."""
        self._batches += 1
        self.engine.run(self._batches, work)
        finished = self._next(RunFinished)
        if finished.error is not None:
            raise FleetError(f"the engine failed at batch size {len(work)}: {finished.error}")
        return finished.service_s

    def _next(self, kind: type[T]) -> T:
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


def _machine() -> dict[str, str]:
    """The machine in words; its accelerator only when torch is loaded and sees one."""
    machine = {
        "cpu": _cpu_name(),
        "cpu_cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        machine["torch_threads"] = str(torch.get_num_threads())
        if torch.cuda.is_available():
            machine["gpu"] = torch.cuda.get_device_name()
    return machine


def _cpu_name() -> str:
    """The processor's own name where the kernel tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("fleetlab", "numpy", "torch"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    return versions
