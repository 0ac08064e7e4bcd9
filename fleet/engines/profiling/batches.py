"""Measure an engine: the table that `fleet profile` writes and `ProfiledLatency` reads.

The engine runs alone, one batch at a time; `steps` measures those that serve token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median, quantiles

import msgspec

from fleet.actor import FleetError
from fleet.engines.base import BatchEngine
from fleet.engines.latency.tables.batch_profile import Profile, ProfilePoint
from fleet.engines.profiling.bench import Bench, machine, versions
from fleet.messages import Payload, RunFinished, Work
from traces.schema import Request


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
    bench = Bench(engine)
    points = []
    try:
        for batch_size in batch_sizes:
            for count in tokens:
                service_s = [
                    _service_s(bench, attempt + 1, _work(batch_size, count, attempt, payload))
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
        machine=machine(),
        versions=versions(),
        points=tuple(points),
    )


def _service_s(bench: Bench[BatchEngine], batch: int, work: Sequence[Work]) -> float:
    """Run `work` as one batch; how long that took by the engine's own account."""
    bench.engine.run(batch, work)
    finished = bench.next(RunFinished)
    if finished.error is not None:
        raise FleetError(f"the engine failed at batch size {len(work)}: {finished.error}")
    return finished.service_s


def _work(
    batch_size: int, tokens: int, attempt: int, payload: Callable[[Request], Payload | None]
) -> list[Work]:
    names = [f"profile-{batch_size}-{tokens}-{i}" for i in range(batch_size)]
    requests = [Request(name, 0.0, prompt_tokens=tokens or None) for name in names]
    return [Work(request, attempt, payload=payload(request)) for request in requests]


def _point(batch_size: int, tokens: int, service_s: Sequence[float]) -> ProfilePoint:
    p90 = quantiles(service_s, n=10, method="inclusive")[-1] if len(service_s) > 1 else service_s[0]
    return ProfilePoint(batch_size, tokens, min(service_s), median(service_s), p90)
