"""Warm pools: what their sources claim. A loss, a ramp, and a pool that is used now and then."""

from __future__ import annotations

import random

import pyarrow.compute as pc

from experiments.effects.effect import Effect
from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run
from policies import Fixed, FixedSize, NoBatching, NoWarmPool, QueueDepth, TargetUtilization
from policies.warm_pool.fraction import Fraction
from policies.warm_pool.keep_alive_histogram import KeepAliveHistogram
from policies.warm_pool.scale_to_zero import ScaleToZero
from policies.warm_pool.surge_slope import SurgeSlope
from traces import Fault, FaultTrace, Trace, poisson, surge
from traces.schema import Request, TraceEntry

COLD_S = 10.0
ENGINE = EmulatedEngine(latency=AffineLatency(base_s=0.02, per_item_s=0.01), cold_start_s=COLD_S)


def steady(seed: int) -> Trace:
    """Poisson arrivals, most of what twenty replicas can do."""
    return poisson(185.0, 16.0, seed=seed)


def three_are_lost(seed: int) -> FaultTrace:
    """Of twenty, at the same time."""
    return FaultTrace(
        faults=tuple(Fault(at_s=3.0, kind="crash", replica=f"replica/{number}") for number in (0, 7, 14))
    )


def ramp(seed: int) -> Trace:
    """From what one replica can do to what several can, in 20 s and back."""
    return surge(20.0, 200.0, 30.0, 20.0, 50.0, seed=seed)


def visits(seed: int) -> Trace:
    """A request about every quarter of an hour, for seven hours."""
    rng, at_s, entries = random.Random(f"visits {seed}"), 60.0, []
    for number in range(30):
        entries.append(TraceEntry(request=Request(id=str(number), arrived_s=at_s)))
        at_s += rng.uniform(840.0, 960.0)
    return Trace.from_entries(entries)


def short_pauses(seed: int) -> Trace:
    """A request every few minutes, five on average, for seven hours."""
    return poisson(1.0 / 300.0, 25_200.0, seed=seed)


def e2e_p99_ms(run: Run) -> float:
    """The 99th percentile from arrival to reply."""
    return 1000.0 * (run.summary.e2e_s.p99 or 0.0)


def cold(run: Run) -> float:
    """Of a hundred requests, those that waited for most of a cold start."""
    waited = run.records["e2e_s"].drop_null()
    return 100.0 * (pc.sum(pc.greater(waited, COLD_S / 2)).as_py() or 0) / len(waited)


def held_s(run: Run) -> float:
    """Seconds that replicas held devices, for each request."""
    return (run.summary.gpu_seconds or 0.0) / run.summary.submitted


FLEET = FleetSpec(
    engine=EmulatedEngine(latency=AffineLatency(base_s=0.0, per_item_s=0.1), cold_start_s=COLD_S),
    replicas=20, max_replicas=20, scaling=Fixed(), batching=NoBatching(),
)  # fmt: skip
CLIMBING = FleetSpec(
    engine=EmulatedEngine(latency=AffineLatency(base_s=0.0, per_item_s=0.04), cold_start_s=COLD_S),
    replicas=2, min_replicas=1, max_replicas=20, binding="late", queue_capacity=100_000,
    scaling=TargetUtilization(average_s=5.0, down_stabilization_s=60.0),
)  # fmt: skip
SELDOM = FleetSpec(
    engine=ENGINE, replicas=1, min_replicas=0, max_replicas=1, scaling=QueueDepth(look_back_s=1.0),
    control_interval_s=5.0, report_interval_s=60.0, probe_interval_s=120.0,
)  # fmt: skip

EFFECTS: tuple[Effect, ...] = (
    Effect(
        policy="Fraction",
        claim="headroom in proportion takes the loss of a part of the fleet, where one spare does not",
        trace=steady,
        faults=three_are_lost,
        candidate=FLEET.replace(warm_pool=Fraction(fraction=0.15)),
        baseline=FLEET.replace(warm_pool=FixedSize(size=1)),
        against="FixedSize, one",
        figure="e2e p99 (ms)",
        read=e2e_p99_ms,
        better="lower",
        note="not shown on seeds that it was not tried out with",
    ),
    Effect(
        policy="SurgeSlope",
        claim="as many spares as a ramp takes in a cold start hide the cold starts",
        trace=ramp,
        candidate=CLIMBING.replace(warm_pool=SurgeSlope(cold_start_s=COLD_S + 1.0)),
        baseline=CLIMBING.replace(warm_pool=NoWarmPool()),
        against="NoWarmPool",
        figure="e2e p99 (ms)",
        read=e2e_p99_ms,
        better="lower",
    ),
    Effect(
        policy="KeepAliveHistogram",
        claim="fewer cold starts than a fixed keep-alive of ten minutes",
        trace=visits,
        candidate=SELDOM.replace(warm_pool=KeepAliveHistogram()),
        baseline=SELDOM.replace(warm_pool=ScaleToZero()),
        against="ScaleToZero, 10 min",
        figure="cold starts (%)",
        read=cold,
        better="lower",
    ),
    Effect(
        policy="KeepAliveHistogram",
        claim="... while less is held than by that",
        trace=visits,
        candidate=SELDOM.replace(warm_pool=KeepAliveHistogram()),
        baseline=SELDOM.replace(warm_pool=ScaleToZero()),
        against="ScaleToZero, 10 min",
        figure="device time per request (s)",
        read=held_s,
        better="lower",
    ),
    Effect(
        policy="ScaleToZero",
        claim="a keep-alive spares most requests the cold start where they come within it",
        trace=short_pauses,
        candidate=SELDOM.replace(warm_pool=ScaleToZero()),
        baseline=SELDOM.replace(warm_pool=NoWarmPool()),
        against="NoWarmPool",
        figure="cold starts (%)",
        read=cold,
        better="lower",
    ),
)
