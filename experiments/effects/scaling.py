"""What the sources of scaling policies claim of them, each against what it is to be better than.

One request takes a replica about a quarter of a second, and a new replica 20 s until it serves: demand changes faster
than replicas come, which is when scaling matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.effects.effect import Effect
from fleet import AffineLatency, AffineSteps, EmulatedEngine, EmulatedLlmEngine, FleetSpec, KvSpec, Run
from policies import Fixed, NoBatching, QueueDepth, ScalingPolicy, TargetUtilization
from policies.scaling.gpu_utilization import GpuUtilization
from policies.scaling.horizontal_pod_autoscaler import HorizontalPodAutoscaler
from policies.scaling.keda_queue_length import KedaQueueLength
from policies.scaling.knative_concurrency import KnativeConcurrency
from policies.scaling.max_of import MaxOf
from policies.scaling.predictive import Predictive
from policies.scaling.rate_limited import RateLimited
from policies.scaling.scheduled import Scheduled
from policies.scaling.square_root_staffing import SquareRootStaffing
from policies.scaling.stabilized import Stabilized
from policies.scaling.target_ongoing_requests import TargetOngoingRequests
from policies.scaling.target_tracking import TargetTracking
from policies.scaling.tokens_per_second import TokensPerSecond
from traces import Header, RateSeries, Trace, from_rates

SERVICE_S = 0.25
COLD_START_S = 20.0

Phases = Sequence[tuple[float, float]]
"""(seconds, arrivals a second), one after the other."""


def arrivals(phases: Phases, seed: int) -> Trace:
    """Poisson arrivals at the rate of each phase."""
    per_s = np.concatenate([np.full(round(span_s), rate) for span_s, rate in phases])
    return from_rates(RateSeries(per_s), seed)


def exponential(phases: Phases, seed: int) -> Trace:
    """Likewise, each request with work drawn from the exponential law of mean 1."""
    trace = arrivals(phases, seed)
    work = np.random.default_rng((seed, 1)).exponential(1.0, len(trace))
    table = trace.table.select(["arrived_s"]).append_column("work", pa.array(work))
    return Trace(table, Header(source="effects", provenance="synthetic"))


def with_lengths(phases: Phases, output_tokens: Sequence[int], seed: int) -> Trace:
    """Likewise, the answers of each phase so many tokens long."""
    trace = arrivals(phases, seed)
    ends = np.cumsum([span_s for span_s, _ in phases])
    lengths = np.asarray(output_tokens)[
        np.searchsorted(ends, trace.table["arrived_s"].to_numpy(), side="right")
    ]
    table = trace.table.select(["arrived_s"])
    table = table.append_column("prompt_tokens", pa.array(np.full(len(trace), 100, dtype=np.int64)))
    table = table.append_column("output_tokens", pa.array(lengths.astype(np.int64)))
    return Trace(table, Header(source="effects", provenance="synthetic"))


def e2e_ms(share: float, run: Run, *, since_s: float = 0.0) -> float:
    """A quantile of the latencies of those that arrived from `since_s` on."""
    counted = run.records.filter(pc.greater_equal(run.records["arrived_s"], since_s))
    return 1000.0 * float(pc.quantile(counted["e2e_s"], share)[0].as_py())


def e2e_mean_ms(run: Run, *, since_s: float = 0.0) -> float:
    """The mean latency of those that arrived from `since_s` on."""
    counted = run.records.filter(pc.greater_equal(run.records["arrived_s"], since_s))
    return 1000.0 * float(pc.mean(counted["e2e_s"]).as_py())


def replica_s(run: Run) -> float:
    """Seconds in which replicas held a device."""
    return run.summary.gpu_seconds or 0.0


def changes(run: Run) -> float:
    """How often another number of replicas was asked for."""
    scaled = run.decisions.filter(pc.equal(run.decisions["decision"], "Scale"))
    asked = scaled["value"].to_numpy()
    return float(np.count_nonzero(np.diff(asked)))


def most_replicas(run: Run) -> float:
    """The most that were asked for."""
    scaled = run.decisions.filter(pc.equal(run.decisions["decision"], "Scale"))
    return float(pc.max(scaled["value"]).as_py())


def waiting_apart(spans: Sequence[tuple[float, float]], run: Run) -> float:
    """How far apart the parts of requests that waited are in these spans of time, in percentage points."""
    arrived, waited = run.records["arrived_s"].to_numpy(), run.records["queue_s"].to_numpy() > 1e-6
    parts = [float(waited[(arrived >= low) & (arrived < high)].mean()) for low, high in spans]
    return 100.0 * (max(parts) - min(parts))


def tracking(target: float, **fields: Any) -> TargetTracking:
    """With alarms after seconds and not minutes, so that a run of minutes shows what the rest of the law does."""
    keen: dict[str, Any] = {"scale_out_cooldown_s": 0.0, "period_s": 5.0, "out_periods": 1}
    return TargetTracking(target=target, **(keen | fields))


def nervous() -> TargetOngoingRequests:
    """It follows what the last 5 s were, both ways."""
    return TargetOngoingRequests(upscale_delay_s=0.0, downscale_delay_s=0.0, look_back_period_s=5.0)


def fleet(scaling: ScalingPolicy, **fields: Any) -> FleetSpec:
    """One queue, replicas that take one request at a time, 1 to 24 of them."""
    same: dict[str, Any] = {
        "replicas": 2, "min_replicas": 1, "max_replicas": 24, "binding": "late", "batching": NoBatching(),
        "max_inflight_batches": 1, "report_interval_s": 1.0, "probe_interval_s": 10.0,
        "probe_timeout_s": 5.0, "control_interval_s": 1.0,
        "engine": EmulatedEngine(
            latency=AffineLatency(base_s=0.0, per_item_s=SERVICE_S, jitter_cv=0.5), cold_start_s=COLD_START_S
        ),
    }  # fmt: skip
    return FleetSpec(**(same | {"scaling": scaling} | fields))


def llm_fleet(scaling: ScalingPolicy) -> FleetSpec:
    """Replicas that serve token by token."""
    return FleetSpec(
        engine=EmulatedLlmEngine(
            latency=AffineSteps(base_s=0.02, per_prefill_token_s=0.00005, per_decode_s=0.002),
            kv=KvSpec(blocks=2000), cold_start_s=COLD_START_S,
        ),
        replicas=2, min_replicas=1, max_replicas=16, report_interval_s=1.0, probe_interval_s=10.0,
        probe_timeout_s=5.0, control_interval_s=5.0, scaling=scaling,
    )  # fmt: skip


M_M_C: dict[str, Any] = {
    "engine": EmulatedEngine(latency=AffineLatency(base_s=0.0, per_item_s=1.0)), "control_interval_s": 2.0,
    "replicas": 36, "max_replicas": 60,
}  # fmt: skip
"""Exponential work alone, and replicas that serve at once, as the formulas have it."""
STEP = ((60, 4.0), (120, 28.0), (60, 4.0))
BURST = ((80, 3.0), (60, 20.0), (60, 3.0))
SPIKE = ((60, 4.0), (4, 40.0), (116, 4.0))
WAVES = ((60, 16.0), (60, 4.0)) * 3
DAYS = ((90, 2.0), (60, 20.0)) * 3
RARE = ((20, 2.0), (1180, 0.0)) * 2
SCALES = ((150, 30.0), (300, 2.0))
"""A load of thirty replicas, then of two, where a request takes one a second."""
LONGER = ((120, 2.0), (240, 2.0))

EFFECTS: tuple[Effect, ...] = (
    Effect(
        policy="TargetOngoingRequests",
        claim="one decision asks for all replicas that the load takes, so a step of it is carried sooner",
        trace=partial(arrivals, STEP),
        candidate=fleet(TargetOngoingRequests()),
        baseline=fleet(QueueDepth()),
        against="QueueDepth, one replica at a time",
        figure="e2e mean (ms)",
        read=e2e_mean_ms,
        better="lower",
    ),
    Effect(
        policy="KnativeConcurrency",
        claim="panic mode follows a burst within seconds, where the stable window takes a minute",
        trace=partial(arrivals, BURST),
        candidate=fleet(KnativeConcurrency(target_concurrency=2.0)),
        baseline=fleet(KnativeConcurrency(target_concurrency=2.0, panic_window_percentage=100.0)),
        against="a panic window as long as the stable one",
        figure="e2e p99 (ms)",
        read=partial(e2e_ms, 0.99),
        better="lower",
    ),
    Effect(
        policy="HorizontalPodAutoscaler",
        claim="the stabilization window of 300 s on the way down keeps replicas from flapping",
        trace=partial(arrivals, WAVES),
        candidate=fleet(HorizontalPodAutoscaler(metrics={"in_flight": 1.0})),
        baseline=fleet(HorizontalPodAutoscaler(metrics={"in_flight": 1.0}, down_stabilization_s=0.0)),
        against="no window",
        figure="changes of the number of replicas",
        read=changes,
        better="lower",
    ),
    Effect(
        policy="KedaQueueLength",
        claim="with scaling to none, rare work takes fewer replica seconds than a replica that stands by",
        trace=partial(arrivals, RARE),
        candidate=fleet(KedaQueueLength(), replicas=1, min_replicas=0),
        baseline=fleet(Fixed(replicas=1), replicas=1, min_replicas=0),
        against="Fixed, one replica",
        figure="replica seconds",
        read=replica_s,
        better="lower",
    ),
    Effect(
        policy="TargetTracking",
        claim="scaling in reluctantly keeps capacity for the next wave",
        trace=partial(arrivals, WAVES),
        candidate=fleet(tracking(168.0)),
        baseline=fleet(tracking(168.0, in_periods=1, in_below=1.0, scale_in_cooldown_s=0.0)),
        against="scaling in as soon as out",
        figure="e2e mean from the second wave on (ms)",
        read=partial(e2e_mean_ms, since_s=120.0),
        better="lower",
        seeds=10,
    ),
    Effect(
        policy="GpuUtilization",
        claim="the highest need of the last 5 minutes keeps capacity through a dip",
        trace=partial(arrivals, WAVES),
        candidate=fleet(GpuUtilization()),
        baseline=fleet(GpuUtilization(look_back_s=0.0)),
        against="no look-back",
        figure="e2e mean from the second wave on (ms)",
        read=partial(e2e_mean_ms, since_s=120.0),
        better="lower",
    ),
    Effect(
        policy="TokensPerSecond",
        claim="longer answers at the same number of requests are seen as the load that they are",
        trace=partial(with_lengths, LONGER, (100, 400)),
        candidate=llm_fleet(TokensPerSecond(target_tokens_per_s=100.0, average_s=20.0)),
        baseline=llm_fleet(tracking(60.0)),
        against="TargetTracking of requests a minute, which holds as many replicas for the short ones",
        figure="e2e mean (ms)",
        read=e2e_mean_ms,
        better="lower",
    ),
    Effect(
        policy="Predictive",
        claim="what comes back every day finds its replicas ready",
        trace=partial(arrivals, DAYS),
        candidate=fleet(Predictive(season_s=150.0, bucket_s=5.0, horizon_s=30.0)),
        baseline=fleet(Predictive(season_s=86_400.0, bucket_s=5.0, horizon_s=30.0)),
        against="the same without a season, which only reacts",
        figure="e2e p95 from the second season on (ms)",
        read=partial(e2e_ms, 0.95, since_s=150.0),
        better="lower",
    ),
    Effect(
        policy="Scheduled",
        claim="a surge at a known time finds its replicas ready",
        trace=partial(arrivals, DAYS),
        candidate=fleet(
            Scheduled(
                schedule=((0.0, 1), (65.0, 7)), period_s=150.0, scaler=TargetUtilization(average_s=10.0)
            )
        ),
        baseline=fleet(TargetUtilization(average_s=10.0)),
        against="TargetUtilization alone",
        figure="e2e p95 (ms)",
        read=partial(e2e_ms, 0.95),
        better="lower",
    ),
    Effect(
        policy="SquareRootStaffing",
        claim="the part of requests that wait is the same for a small fleet and for a large one",
        trace=partial(exponential, SCALES),
        candidate=fleet(
            SquareRootStaffing(wait_probability=0.2, average_s=30.0, down_stabilization_s=0.0), **M_M_C
        ),
        baseline=fleet(TargetUtilization(target=0.8, average_s=30.0, down_stabilization_s=0.0), **M_M_C),
        against="TargetUtilization of 80 %",
        figure="waiting, apart at both scales (percentage points)",
        read=partial(waiting_apart, ((40.0, 150.0), (210.0, 450.0))),
        better="lower",
    ),
    Effect(
        policy="MaxOf",
        claim="a second signal sees what the first cannot: utilisation ends at 1, a queue does not",
        trace=partial(arrivals, STEP),
        candidate=fleet(
            MaxOf(
                scalers=[
                    TargetUtilization(average_s=10.0),
                    HorizontalPodAutoscaler(metrics={"in_flight": 2.0}),
                ]
            )
        ),
        baseline=fleet(TargetUtilization(average_s=10.0)),
        against="TargetUtilization alone",
        figure="e2e mean (ms)",
        read=e2e_mean_ms,
        better="lower",
        seeds=10,
    ),
    Effect(
        policy="Stabilized",
        claim="cooldowns of 60 s up and 300 s down prevent oscillation",
        trace=partial(arrivals, WAVES),
        candidate=fleet(Stabilized(scaler=QueueDepth(rest_busy=100.0))),
        baseline=fleet(QueueDepth(rest_busy=100.0)),
        against="QueueDepth alone",
        figure="changes of the number of replicas",
        read=changes,
        better="lower",
    ),
    Effect(
        policy="RateLimited",
        claim="a spike that is over before replicas come does not start as many",
        trace=partial(arrivals, SPIKE),
        candidate=fleet(RateLimited(scaler=nervous())),
        baseline=fleet(nervous()),
        against="TargetOngoingRequests without delays, alone",
        figure="most replicas asked for",
        read=most_replicas,
        better="lower",
    ),
)
