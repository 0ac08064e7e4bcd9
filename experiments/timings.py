"""What engines took in one live run: with that the run is simulated as its machine was at the time.

A profile is measured before a run, by itself; while requests are served the machine may be busier. So what a simulation
with the profile gets wrong is two things at once. With the run's own times, what is left is the simulator's error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct, structs

from fleet import EmulatedEngine, EmulatedLlmEngine, FleetSpec, ProfiledLatency, Run
from fleet.engines import Engine, TimedSteps, timed_latency
from fleet.engines.profiling.timed import step_shapes
from fleet.messages import Work
from fleet.pools import pool_of
from traces import Request

FEWEST = 50
"""Batches or steps of a pool, below which they are too few for a latency model of their own."""


class EngineTimes(Struct, frozen=True, kw_only=True):
    """What the engines of one pool took in one live run."""

    pool: str
    what: Literal["batches", "steps"]
    count: int
    took_s: float
    """All of them together."""
    expected_s: float
    """The same by the latency model that stands in for them, without noise."""
    latency: ProfiledLatency | TimedSteps | None
    """A latency model of these times; None where they are fewer than `FEWEST`."""


class OwnTimes(Struct, frozen=True):
    """One live run, and the same simulated with its engines' own times."""

    pools: tuple[EngineTimes, ...]
    """Those whose engines did real work and said how long."""
    run: Run | None
    """None where no pool has a latency model of its own."""


def own_times(live: FleetSpec, emulated: FleetSpec, run: Run, play: Callable[[FleetSpec], Run]) -> OwnTimes:
    """What the engines of a `run` of `live` took; `emulated` stands in for it in virtual time, where `play` plays it.

    A pool whose engine is emulated live too takes what its model says, and one with few timings keeps its model.
    """
    engines = {pool.name: pool.engine for pool in emulated.serving}
    pools = tuple(_engine_times(live, engines, run.timings))
    changes = {
        f"pools.{times.pool}.engine" if emulated.pools else "engine":
            structs.replace(engines[times.pool], latency=times.latency)
        for times in pools if times.latency is not None
    }  # fmt: skip
    return OwnTimes(pools, play(emulated.replace(changes)) if changes else None)


def _engine_times(live: FleetSpec, engines: Mapping[str, Engine], timings: pa.Table) -> Iterator[EngineTimes]:
    names = np.array([pool_of(replica) for replica in timings["replica"].to_pylist()])
    for pool in live.serving:
        own, engine = timings.filter(pa.array(names == pool.name)), engines.get(pool.name)
        if (
            pool.engine.emulates
            or not len(own)
            or not isinstance(engine, (EmulatedEngine, EmulatedLlmEngine))
        ):
            continue
        yield EngineTimes(
            pool=pool.name,
            what="steps" if isinstance(engine, EmulatedLlmEngine) else "batches",
            count=len(own),
            took_s=pc.sum(own["service_s"]).as_py(),
            expected_s=_expected_s(engine, own),
            latency=timed_latency(own) if len(own) >= FEWEST else None,
        )


def _expected_s(engine: EmulatedEngine | EmulatedLlmEngine, timings: pa.Table) -> float:
    """Of all batches or steps together, without noise, as the engine's latency model says."""
    if isinstance(engine, EmulatedLlmEngine):
        return sum(engine.latency.step_s(shape) for shape in step_shapes(timings))
    sizes = zip(timings["batch_size"].to_pylist(), timings["tokens"].to_pylist(), strict=True)
    return sum(engine.latency.nominal_s(_batch(size, tokens)) for size, tokens in sizes)


def _batch(size: int, tokens: int) -> list[Work]:
    return [Work(Request("timed", 0.0, prompt_tokens=tokens or None), 1)] * size
