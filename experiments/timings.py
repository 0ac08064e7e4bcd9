"""What engines took in one live run: with that the run is simulated as its machine was at the time.

A profile is measured before a run, by itself; while requests are served the machine may be busier. So what a simulation
with the profile gets wrong is two things at once. With the run's own times, what is left is the simulator's error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct, structs

from fleet import EmulatedEngine, EmulatedLlmEngine, FleetSpec, Run
from fleet.engines.profiling.timed import step_shapes, timed_latency
from fleet.messages import Work
from fleet.pools import Pool, pool_of
from traces import Request

FEWEST = 50
"""Batches or steps of a pool, below which they are too few for a latency model of their own."""
Emulated: TypeAlias = EmulatedEngine | EmulatedLlmEngine


class OwnTimes(Struct, frozen=True, kw_only=True):
    """What the engines of one live run took."""

    spec: FleetSpec | None
    """The fleet with latency models of the run's own; None where no pool was timed often enough."""
    timed: int
    """Batches and steps."""
    took_s: float
    """All of them together."""
    expected_s: float
    """The same by the latency models of before, without noise."""
    run: Run | None = None
    """The live run simulated as `spec`."""


def own_times(live: FleetSpec, emulated: FleetSpec, run: Run) -> OwnTimes:
    """What the engines of a `run` of `live` took, held against `emulated`, which stands in for it in virtual time.

    A pool whose engine is emulated in both takes what its model says. One with fewer than `FEWEST` timings keeps
    the latency model that it has.
    """
    changes: dict[str, Emulated] = {}
    timed, took_s, expected_s = 0, 0.0, 0.0
    for pool, engine, timings in _by_pool(live, emulated, run.timings):
        timed += len(timings)
        took_s += pc.sum(timings["service_s"]).as_py()
        expected_s += _expected_s(engine, timings)
        if len(timings) >= FEWEST:
            path = f"pools.{pool.name}.engine" if emulated.pools else "engine"
            changes[path] = structs.replace(engine, latency=timed_latency(timings))
    spec = emulated.replace(changes) if changes else None
    return OwnTimes(spec=spec, timed=timed, took_s=took_s, expected_s=expected_s)


def _by_pool(
    live: FleetSpec, emulated: FleetSpec, timings: pa.Table
) -> Iterator[tuple[Pool, Emulated, pa.Table]]:
    """Pools with engines that did real work, what stands in for these, and how long they took."""
    real = {pool.name for pool in live.serving if not pool.engine.emulates}
    pools = np.array([pool_of(replica) for replica in timings["replica"].to_pylist()])
    for pool in emulated.serving:
        own = timings.filter(pa.array(pools == pool.name))
        if pool.name in real and len(own) and isinstance(pool.engine, (EmulatedEngine, EmulatedLlmEngine)):
            yield pool, pool.engine, own


def _expected_s(engine: Emulated, timings: pa.Table) -> float:
    """Of all batches or steps together, without noise, as the engine's latency model says."""
    if isinstance(engine, EmulatedLlmEngine):
        return sum(engine.latency.step_s(shape) for shape in step_shapes(timings))
    sizes = zip(timings["batch_size"].to_pylist(), timings["tokens"].to_pylist(), strict=True)
    return sum(engine.latency.nominal_s(_batch(size, tokens)) for size, tokens in sizes)


def _batch(size: int, tokens: int) -> list[Work]:
    return [Work(Request("timed", 0.0, prompt_tokens=tokens or None), 1)] * size
