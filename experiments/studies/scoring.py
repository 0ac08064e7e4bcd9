"""A fleet that scores texts on devices of two speeds and prices, and what the time that its answers took is worth.

A score takes one pass of a model over its text. A pass over a few hundred tokens keeps a device's arithmetic busy, so
that a batch gains little, and replicas take one request after the other, as queueing theory has it. Speeds are
rooflines at the efficiencies of `workloads`; prices are list prices; other numbers are round guesses, and say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from experiments.compare import compare
from experiments.load import at_rate
from experiments.metrics import Metric
from experiments.report import Report
from experiments.studies.result import Figure, Measure, StudyResult, judged, paired_figures, result_of
from experiments.studies.study import Options
from experiments.studies.workloads import STEPS, recorded
from fleet import EmulatedEngine, FleetSpec, Run
from fleet.engines import RooflineLatency
from fleet.engines.devices.specs import model_spec
from traces import Lengths, Trace, TraceError, Transform, poisson

PRICES: Mapping[str, float] = {"a100": 3.67, "l4": 0.70}
"""Dollars an hour, on demand: an A100 with 80 GB at Azure (NC24ads A100 v4), an L4 at Google Cloud (g2-standard-4),
both as Griggs et al. took them ("Mélange", 2024, table 1)."""
TEXT = Lengths.lognormal(512, 1.0)
"""Round guesses. The mean is what a fleet takes for an ordinary request."""
WORK_COST = Measure(name="work_cost_per_request", label="work cost (×10⁻³ $)", better="lower", scale=1000.0)
"""See `work_cost`."""


def engine(model: str, device: str) -> EmulatedEngine:
    """One replica's engine: a pass of `model` over each text, on `device`."""
    spec = model_spec(model)
    latency = RooflineLatency(
        device=device, parameters_count=spec.parameters, flops_per_token=spec.flops_per_token,
        bytes_per_parameter=spec.bytes_per_parameter, overhead_s=STEPS.overhead_s,
        flops_efficiency=STEPS.flops_efficiency, bytes_efficiency=STEPS.bytes_efficiency,
    )  # fmt: skip
    return EmulatedEngine(latency=latency)


def texts(requests: int, seed: int, name: str | None = None) -> Trace:
    """Texts to score, at random times or as the trace `name` has them; any rate: scale it.

    Of a recorded trace only times and lengths are taken. Raises `TraceError` when it has no lengths.
    """
    if name is None:
        return poisson(1.0, requests * 1.5 + 50.0, seed, prompt_tokens=TEXT).first(requests=requests)
    part = recorded(name, requests, seed)
    if "prompt_tokens" not in part.table.column_names:
        raise TraceError("has no prompt_tokens", remedy="give the length of each text")
    columns = ["id", "arrived_s", "prompt_tokens"]
    return part.derived(part.table.select(columns), Transform("columns", {"columns": ", ".join(columns)}))


def most_per_s(trace: Trace, made: EmulatedEngine, replicas: int) -> float:
    """Requests like those of `trace` that so many replicas can serve a second when never idle."""
    latency = made.latency
    if not isinstance(latency, RooflineLatency):
        raise TypeError(f"expected an engine of this module, not one with {latency!r}")
    tokens = trace.column("prompt_tokens").to_pylist()
    return replicas / float(np.mean([latency.pass_s(1.0 if one is None else one) for one in tokens]))


def work_cost(run: Run) -> float:
    """What a completed request took of devices, at their price: service seconds of all attempts × price of the pool.

    Escalations and failures count. Idle time does not, which `cost_per_request` has in it: of a fleet that stays as
    it is that is the same whatever policies choose, and this is the part that they can save, once devices that they
    leave idle are given back or serve somebody else. NaN where nothing completed.
    """
    prices = dict(zip(run.pools["pool"].to_pylist(), run.pools["cost_per_hour"].to_pylist(), strict=True))
    attempts = run.every_attempt()
    spent = zip(attempts["pool"].to_pylist(), attempts["service_s"].to_pylist(), strict=True)
    cost = sum(seconds * prices[pool] for pool, seconds in spent if seconds is not None) / 3600.0
    return cost / run.summary.completed if run.summary.completed else float("nan")


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    loads: tuple[float, ...]
    """Offered, over `most_per_s` of what the study says."""
    requests: int
    seeds: int


def compared(
    study: str,
    plan: Plan,
    options: Options,
    candidates: Mapping[str, FleetSpec],
    *,
    metrics: tuple[Metric, ...],
    setting: str,
    capacity_per_s: Callable[[Trace], float],
    fleet: str,
) -> StudyResult:
    """One comparison at each load; the loads differ in nothing but the clock of the same requests.

    A load of 1 offers `capacity_per_s` of the trace. The work cost is a measure beside `metrics`, judged with them.
    """
    drawn = {seed: texts(plan.requests, seed, options.trace) for seed in range(plan.seeds)}
    reports: dict[float, Report] = {}
    for load in plan.loads:
        scaled = {seed: at_rate(trace, load * capacity_per_s(trace)) for seed, trace in drawn.items()}
        reports[load] = compare(
            scaled.__getitem__, candidates, seeds=range(plan.seeds), metrics=metrics,
            workers=options.workers, progress=options.progress,
        )  # fmt: skip
    workload = f"{fleet}, {plan.requests:,} {options.trace or 'synthetic texts'}"
    result = result_of(study, setting, reports, metrics, workload=workload)
    costs: list[Figure] = []
    for at, report in reports.items():
        by_candidate = {name: [work_cost(run) for run in runs] for name, runs in report.runs.items()}
        costs += paired_figures(at, WORK_COST.name, by_candidate, report.baseline)
    measures = (*result.measures, WORK_COST)
    figures = judged([*result.figures, *costs], {measure.name: measure.better for measure in measures})
    return replace(result, measures=measures, figures=figures)
