"""The fleet, the scalers and the traffic of the studies of scaling.

A request is served whole, by itself, for 6 s on average: as long as an answer of a language model, and so that some
replicas are busy with one request a second, and hours of a recorded trace can be played at its own clock. That matters:
the windows and delays of the systems whose scalers these are last minutes, and are kept as they come. What counts load
is set to the same in all of them: replicas busy for `BUSY` of the time.

Three kinds of traffic, all of `RATE_PER_S` requests a second on average: Azure's hour of conversations of 2023; the
rates of a web service (tweets of August 2021), from which arrivals are drawn; and phases in which requests come, with
nothing between them. Where a recorded trace is not at hand, one of its kind is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from msgspec import Struct

from experiments.load import open_loop
from experiments.studies.result import Measure
from experiments.studies.workloads import BLOCK_TOKENS, chat
from fleet import (
    AffineLatency,
    EmulatedEngine,
    EmulatedLlmEngine,
    FleetSpec,
    KvSpec,
    RooflineSteps,
    Run,
    simulate,
)
from fleet.telemetry.occupancy import changes_of, held_s
from policies import (
    Fixed,
    LatencyTarget,
    NoBatching,
    QueueDepth,
    ScalingPolicy,
    TargetKvUtilization,
    TargetUtilization,
)
from policies.scaling.erlang import servers_for
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
from traces import RateSeries, Slo, Trace, from_rates, load_rates, load_trace, mmpp

_TRACES = Path("../shared/traces")
AZURE = _TRACES / "azure-llm-2023/AzureLLMInferenceTrace_conv.csv"
WEB = _TRACES / "web-twitter/workload.tbz2"

RATE_PER_S = 1.0
"""Requests a second of each trace, on average over all of it."""
SERVICE_S, SERVICE_CV = 6.0, 0.5
"""Of one request, lognormal."""
OBJECTIVE_S = 20.0
"""From arrival to answer: shorter than a cold start, so that who meets none that is ready is late."""
PROVISION_S, LOAD_S = 20.0, 20.0
COLD_START_S = PROVISION_S + LOAD_S
LOOK_S = 5.0
"""Between two looks of the control loop, and two reports of a replica. Systems that decide less often do so by a period
of their own (Kubernetes 15 s, AWS 60 s); Knative (2 s) and Ray Serve (0.1 s) would look more often."""
BUSY = 0.7
"""What part of its time each replica is to be busy, by whatever measure a scaler has for it."""
MOST = 48
COST_PER_HOUR = 3.67
"""List price of an A100, in dollars (Azure, NC24ads A100 v4)."""
ON_S, OFF_S = 300.0, 900.0
"""Mean lengths of the phases with requests and without."""
_MINUTE_S = 60.0
_DAY_S = 86_400.0
LLM_RATE_PER_S = 2.0
LLM_OBJECTIVE = Slo(ttft_s=2.0, tpot_s=0.08)
"""Of Llama-3.1-8B on L4s, where a step takes 63 ms however few are in it."""
LLM_MOST, LLM_COST_PER_HOUR = 12, 0.70
_TOKENS_PER_S, _IN_FLIGHT, _KV = 120.0, 8.0, 0.35
"""What a replica has of each where three to four serve the mean rate: 409 tokens/s, 30 requests, 1.4 caches in all."""
_WAIT_PROBABILITY = 0.2
"""Of a schedule made in hindsight: the part of a minute's requests that may wait, as of square-root staffing."""

MEASURES = (
    Measure(name="attained", label="in time (%)", better="higher", scale=100.0),
    Measure(name="held", label="devices held", better="lower"),
    Measure(name="cost", label="$ per 1,000", better="neither"),
    Measure(name="p99_s", label="e2e p99 (s)", better="neither"),
    Measure(name="starts", label="cold starts/h", better="neither"),
    Measure(name="changes", label="changes/h", better="neither"),
)
"""`devices held`: on average, in any state: device seconds over seconds. `changes`: of the number that is asked for."""


def fleet(scaling: ScalingPolicy, *, to_none: bool = False) -> FleetSpec:
    """A fleet with this scaler; it begins with what the mean rate takes, or, if it may have none, with one."""
    latency = AffineLatency(base_s=SERVICE_S, per_item_s=0.0, jitter_cv=SERVICE_CV)
    return FleetSpec(
        engine=EmulatedEngine(latency=latency, cold_start_s=LOAD_S),
        replicas=1 if to_none else replicas_for(RATE_PER_S),
        min_replicas=0 if to_none else 1,
        max_replicas=MOST,
        binding="late",
        batching=NoBatching(),
        max_inflight_batches=1,
        scaling=scaling,
        slo=Slo(e2e_s=OBJECTIVE_S),
        cost_per_hour=COST_PER_HOUR,
        provision_s=PROVISION_S,
        control_interval_s=LOOK_S,
        report_interval_s=LOOK_S,
        probe_interval_s=60.0,
    )


def llm_fleet(scaling: ScalingPolicy) -> FleetSpec:
    """A fleet that serves token by token, of devices on which a replica can take about one request a second."""
    model, device = "llama-3.1-8b", "l4"
    steps = RooflineSteps(
        model=model, device=device, flops_efficiency=0.6, bytes_efficiency=0.85, overhead_s=0.001
    )
    kv = KvSpec(block_tokens=BLOCK_TOKENS, model=model, device=device)
    return FleetSpec(
        engine=EmulatedLlmEngine(latency=steps, kv=kv, cold_start_s=LOAD_S),
        replicas=4,
        min_replicas=1,
        max_replicas=LLM_MOST,
        scaling=scaling,
        slo=LLM_OBJECTIVE,
        cost_per_hour=LLM_COST_PER_HOUR,
        provision_s=PROVISION_S,
        control_interval_s=LOOK_S,
        report_interval_s=LOOK_S,
        probe_interval_s=60.0,
    )


def replicas_for(rate_per_s: float) -> int:
    """How many are busy for `BUSY` of the time at this rate."""
    return min(MOST, max(1, math.ceil(rate_per_s * SERVICE_S / BUSY - 1e-9)))


def late_from_none(on_s: float) -> float:
    """The least part of the requests that is late where each phase of requests finds no replica.

    Phases are exponential of mean `on_s`. Who comes less than `cold start + service - objective` after the first
    request of a phase is late, even if it is seen at once and there are replicas for all: 1 - exp(-that / on_s).
    """
    return 1.0 - math.exp(-max(0.0, COLD_START_S + SERVICE_S - OBJECTIVE_S) / on_s)


# --- scalers -----------------------------------------------------------------------------------------------


def hpa() -> HorizontalPodAutoscaler:
    """With all that it has where nobody says otherwise, but for the target."""
    return HorizontalPodAutoscaler(metrics={"utilization": BUSY})


def on_requests(*, down_stabilization_s: float = 300.0) -> HorizontalPodAutoscaler:
    """The same, by requests in flight, which do not stop at what replicas can do."""
    return HorizontalPodAutoscaler(metrics={"in_flight": BUSY}, down_stabilization_s=down_stabilization_s)


def ray_serve(*, downscale_delay_s: float = 600.0) -> TargetOngoingRequests:
    """With all that it has where nobody says otherwise, but for the target and what is given."""
    return TargetOngoingRequests(target_ongoing_requests=BUSY, downscale_delay_s=downscale_delay_s)


def knative(*, panic: bool = True) -> KnativeConcurrency:
    """One request at a time, of which 70 %. Without panic: its window is the stable one, its threshold the highest."""
    if panic:
        return KnativeConcurrency(target_concurrency=1.0, target_utilization_percentage=100.0 * BUSY)
    return KnativeConcurrency(
        target_concurrency=1.0, target_utilization_percentage=100.0 * BUSY,
        panic_window_percentage=100.0, panic_threshold_percentage=1000.0,
    )  # fmt: skip


def aws() -> TargetTracking:
    """By invocations a minute, as for SageMaker."""
    return TargetTracking(target=60.0 * BUSY / SERVICE_S)


def predictive(*, season_s: float = _DAY_S, more: float = 0.0) -> Predictive:
    """`horizon_s` is a cold start and a look before and after it; `more` replicas, relative to what `BUSY` takes.

    With a season that does not end in a run it forecasts nothing.
    """
    headroom = (1.0 + more) / BUSY - 1.0
    return Predictive(season_s=season_s, horizon_s=COLD_START_S + 2.0 * LOOK_S, headroom=headroom)


def _queue_depth() -> QueueDepth:
    return QueueDepth(up_at=1.0, down_at=0.5, rest_busy=BUSY)


def _utilization() -> TargetUtilization:
    return TargetUtilization(target=BUSY)


SCALERS: Mapping[str, Callable[[Trace], ScalingPolicy]] = {
    "Kubernetes HPA": lambda _: hpa(),
    "HPA on requests": lambda _: on_requests(),
    "fixed at the mean": lambda trace: Fixed(replicas=replicas_for(per_minute(trace).mean() / _MINUTE_S)),
    "fixed at the peak": lambda trace: Fixed(replicas=replicas_for(per_minute(trace).max() / _MINUTE_S)),
    "queue depth": lambda _: _queue_depth(),
    "queue depth, stabilized": lambda _: Stabilized(scaler=_queue_depth()),
    "target utilization": lambda _: _utilization(),
    "utilization, rate limited": lambda _: RateLimited(scaler=_utilization()),
    "utilization or queue": lambda _: MaxOf(scalers=[_utilization(), _queue_depth()]),
    "GPU utilization": lambda _: GpuUtilization(target=BUSY),
    "latency target": lambda _: LatencyTarget(target_s=OBJECTIVE_S),
    "Ray Serve": lambda _: ray_serve(),
    "Knative": lambda _: knative(),
    "KEDA": lambda _: KedaQueueLength(metric="in_flight", threshold=BUSY),
    "AWS target tracking": lambda _: aws(),
    "square root": lambda _: SquareRootStaffing(),
    "predictive": lambda _: predictive(),
    "schedule in hindsight": lambda trace: Scheduled(
        schedule=schedule_of(trace), period_s=2.0 * (trace.duration_s + _DAY_S)
    ),
}
"""Each for a trace, which only what is fixed or scheduled is told. `predictive` has seen no season of these."""
LLM_SCALERS: Mapping[str, Callable[[Trace], ScalingPolicy]] = {
    "Kubernetes HPA": lambda _: hpa(),
    "HPA on requests": lambda _: HorizontalPodAutoscaler(metrics={"in_flight": _IN_FLIGHT}),
    "Ray Serve": lambda _: TargetOngoingRequests(target_ongoing_requests=_IN_FLIGHT),
    "Knative": lambda _: KnativeConcurrency(
        target_concurrency=_IN_FLIGHT / BUSY, target_utilization_percentage=100.0 * BUSY
    ),
    "KV utilization": lambda _: TargetKvUtilization(target=_KV),
    "tokens per second": lambda _: TokensPerSecond(target_tokens_per_s=_TOKENS_PER_S),
}
"""For replicas that serve token by token, which are busy with one request as with a hundred."""
IN_HINDSIGHT = ("fixed at the mean", "fixed at the peak", "schedule in hindsight")
"""Those that know the trace that they are to serve."""


def per_minute(trace: Trace) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Requests in each minute, those of the last one up to the last request."""
    arrived_s = trace.table["arrived_s"].to_numpy()
    minutes = int(arrived_s[-1] // _MINUTE_S) + 1
    return np.bincount((arrived_s // _MINUTE_S).astype(int), minlength=minutes).astype(float)


def schedule_of(trace: Trace) -> tuple[tuple[float, int], ...]:
    """For each minute what the M/M/c queue needs in it and in the next, whose replicas start now."""
    needs = [
        servers_for(count / _MINUTE_S * SERVICE_S, _WAIT_PROBABILITY, MOST) for count in per_minute(trace)
    ]
    following = [*needs[1:], needs[-1]]
    return tuple(
        (minute * _MINUTE_S, max(pair)) for minute, pair in enumerate(zip(needs, following, strict=True))
    )


# --- traffic -----------------------------------------------------------------------------------------------


@cache
def _azure() -> Trace:
    return open_loop(load_trace(AZURE))


def is_there(path: Path, *, recorded: bool) -> bool:
    """Whether a recorded trace is wanted and at hand."""
    return recorded and path.exists()


def azure_hour(seed: int, *, recorded: bool = True) -> Trace:
    """The whole hour at its own clock; which of its requests, a seed draws. Else bursts of some minutes."""
    if not is_there(AZURE, recorded=recorded):
        return mmpp([0.5 * RATE_PER_S, 2.0 * RATE_PER_S], [400.0, 200.0], 3600.0, seed)
    return _thinned(_azure(), seed)


def llm_hour(seed: int, *, recorded: bool = True) -> Trace:
    """Azure's hour with its lengths, at twice the rate of the others. Else independent requests of such lengths."""
    if not is_there(AZURE, recorded=recorded):
        return chat(round(3600.0 * LLM_RATE_PER_S), seed).scale_rate(LLM_RATE_PER_S)
    return _azure().upsample(LLM_RATE_PER_S / RATE_PER_S * _share(_azure()), seed=seed)


def part_of(trace: Trace, part: int, parts: int) -> Trace:
    """One of so many stretches of equal time, slowed until it lasts as long as the whole, with its part of the load."""
    span_s = trace.duration_s / parts
    stretch = trace.slice(part * span_s, (part + 1) * span_s).scale_time(float(parts))
    return stretch.upsample(parts * _share(trace), seed=part)


def azure_part(part: int, parts: int, *, recorded: bool = True) -> Trace:
    """That of Azure's hour. Else bursts as short as they are in it then."""
    if not is_there(AZURE, recorded=recorded):
        return mmpp([0.5 * RATE_PER_S, 2.0 * RATE_PER_S], [200.0, 100.0], 3600.0, part)
    return part_of(_azure(), part, parts)


def given_part(name: str, part: int, parts: int) -> Trace:
    """That of a trace by name, which is first stretched or pressed to an hour. Only its times are taken."""
    trace = open_loop(load_trace(name))
    return part_of(trace.scale_time(3500.0 / trace.duration_s), part, parts)


def _thinned(trace: Trace, seed: int) -> Trace:
    return trace.upsample(_share(trace), seed=seed)


def _share(trace: Trace) -> float:
    """Of its requests, or times as many, that come to `RATE_PER_S`."""
    return RATE_PER_S * trace.duration_s / len(trace)


def web(start_s: float, span_s: float, seed: int, *, faster: float = 1.0, recorded: bool = True) -> Trace:
    """A Poisson process by the rates of a web service in that time, played so many times as fast.

    Its gaps of half an hour a day are bridged by a straight line, as nobody says that nothing came then.
    """
    series = _web_rates() if is_there(WEB, recorded=recorded) else _drawn_rates()
    drawn = from_rates(
        series.slice(start_s, start_s + span_s), seed, scale=RATE_PER_S / faster / series.mean_per_s
    )
    return drawn.scale_time(1.0 / faster)


def web_starts_s(parts: int, span_s: float) -> list[float]:
    """Where parts of so many seconds begin: on different days, at different times of the day."""
    return [3600.0 + part * (2.0 * _DAY_S + span_s) for part in range(parts)]


def bursts(
    seeds: int, *, hour_s: float, web_s: float, recorded: bool = True, given: str | None = None
) -> dict[str, list[Trace]]:
    """Two kinds of traffic by name, one trace for each seed: that of Azure and that of the web service.

    Of the first the first `hour_s`, of the other `web_s` each. In the place of both, parts of a trace that is given.
    """
    if given is not None:
        return {given: [given_part(given, seed, seeds) for seed in range(seeds)]}
    starts_s = web_starts_s(seeds, web_s)
    return {
        "Azure's hour" if is_there(AZURE, recorded=recorded) else "drawn bursts": [
            azure_hour(seed, recorded=recorded).first(seconds=hour_s) for seed in range(seeds)
        ],
        "web service" if is_there(WEB, recorded=recorded) else "drawn waves": [
            web(start_s, web_s, seed, recorded=recorded) for seed, start_s in enumerate(starts_s)
        ],
    }


@cache
def _web_rates() -> RateSeries:
    return bridged(load_rates(WEB))


def bridged(series: RateSeries) -> RateSeries:
    """The same with a straight line over each gap, between the means of the minutes before and after it."""
    per_s = series.per_s.copy()
    missing = np.isnan(per_s)
    edges = np.diff(np.concatenate([[False], missing, [False]]).astype(int))
    steps = round(_MINUTE_S / series.step_s)
    for start, end in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
        before, after = per_s[max(0, start - steps) : start], per_s[end : end + steps]
        sides = [side[~np.isnan(side)] for side in (before, after)]
        low, high = (float(side.mean()) if len(side) else series.mean_per_s for side in sides)
        per_s[start:end] = np.linspace(low, high, end - start)
    return RateSeries(per_s, series.step_s, series.source)


@cache
def _drawn_rates() -> RateSeries:
    """Of the web service's kind: a wave over the day, and bursts at half hours, most of which come each day."""
    rng = np.random.default_rng(2021)
    days = 20
    hour = np.arange(days * 24 * 60) / 60.0
    per_minute = 65.0 * (1.0 - 0.3 * np.cos(2.0 * np.pi * (hour - 2.0) / 24.0))
    for day in range(days):
        for usual in range(1, 24, 2):
            at = (day * 24 + usual) * 60 + int(rng.choice([2, 32]))
            per_minute[at : at + int(rng.integers(5, 15))] = 240.0
    return RateSeries(np.repeat(per_minute, 60), 1.0, "drawn")


def on_off(duration_s: float, seed: int) -> Trace:
    """Phases with requests and without, of exponential lengths."""
    return mmpp([0.0, RATE_PER_S], [OFF_S, ON_S], duration_s, seed)


# --- runs --------------------------------------------------------------------------------------------------


class Job(Struct, frozen=True, kw_only=True):
    """One run, of which what comes from `from_s` on counts."""

    trace: Trace
    spec: FleetSpec
    seed: int
    from_s: float = 0.0

    def run(self) -> dict[str, float]:
        """Its measures."""
        return measures_of(simulate(self.trace, self.spec, seed=self.seed, check=False), self.from_s)


def measures_of(run: Run, from_s: float = 0.0) -> dict[str, float]:
    """`MEASURES` of a run, from that time to its last arrival."""
    counted = run.records.filter(pc.greater_equal(run.records["arrived_s"], from_s))
    end_s = float(pc.max(counted["arrived_s"]).as_py())
    hours = (end_s - from_s) / 3600.0
    changes = changes_of(run.replicas)
    held = (held_s(changes, end_s) - held_s([one for one in changes if one[0] < from_s], from_s)) / (
        end_s - from_s
    )
    decided = run.decisions.filter(pc.equal(run.decisions["decision"], "Scale"))
    asked = zip(decided["time_s"].to_pylist(), decided["value"].to_pylist(), strict=True)
    return {
        "attained": (pc.sum(counted["slo_met"]).as_py() or 0) / len(counted),
        "held": held,
        "cost": 1000.0 * held * hours * (run.manifest.spec.get("cost_per_hour") or 0.0) / len(counted),
        "p99_s": float(np.percentile(counted["e2e_s"].to_numpy(), 99.0)),
        "starts": sum(state == "provisioning" and from_s <= at_s < end_s for at_s, _, state in changes)
        / hours,
        "changes": _changes([(at_s, value) for at_s, value in asked if at_s < end_s], from_s) / hours,
    }


def _changes(asked: list[tuple[float, float]], from_s: float) -> int:
    """How often another number of replicas was asked for; the first one is no change."""
    return sum(one != other and at_s >= from_s for (_, one), (at_s, other) in pairwise(asked))
