"""``fleet study tail_at_scale``: what do a second attempt and a second queue do for the tail?

Requests whose service times vary much come to ten replicas, of which now and then one is five times as slow as usual.
A hedged request gets a second attempt after the time that 95 % of attempts take; a tied one waits at two replicas and
runs at one. Both are run under a router that knows how much waits where. What ties are worth depends on that, so
they are run under one that knows nothing, too.

Question: Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013 (hedged requests for a few per cent of load, tied
requests); Gardner et al., "Reducing Latency via Redundant Requests: Exact Analysis", SIGMETRICS 2015 (at which load).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import numpy as np
from msgspec import Struct

from experiments.studies.charts import Panel, lines
from experiments.studies.jobs import figures_by, run_all
from experiments.studies.result import Measure, StudyResult
from experiments.studies.study import Options, Study
from experiments.studies.workloads import arrivals
from fleet import AffineLatency, EmulatedEngine, FleetSpec, simulate
from fleet.telemetry.attempts import attempt_figures
from policies import HedgeAfterPercentile, HedgePolicy, NoBatching, NoHedge, Random, TiedRequests
from traces import Fault, FaultTrace, Trace

SERVICE_S, SERVICE_CV = 0.05, 1.5
"""Of one request alone, lognormal."""
SLOW_EVERY_S, SLOW_FOR_S, SLOW_FACTOR = 10.0, 5.0, 5.0
"""Mean gap between two replicas that become slow, how long that lasts on average, and how slow."""
_HEDGE = HedgeAfterPercentile(percentile=0.95, budget_ratio=0.1)
_HEDGES: Mapping[str, HedgePolicy] = {
    "no hedge": NoHedge(),
    "hedge after p95": _HEDGE,
    "hedge after p95, loser stopped": _HEDGE,
    "tied": TiedRequests(),
}
BASELINE, STOPPED = "no hedge", "hedge after p95, loser stopped"
_BLIND = "random router, "
CANDIDATES = (*_HEDGES, f"{_BLIND}no hedge", f"{_BLIND}tied")
"""`loser stopped`: by an engine that can end what runs, where otherwise it runs on for nobody."""
MEASURES = (
    Measure(name="p50_s", label="e2e p50 (ms)", better="lower", scale=1000.0),
    Measure(name="p99_s", label="e2e p99 (ms)", better="lower", scale=1000.0),
    Measure(name="p999_s", label="e2e p99.9 (ms)", better="lower", scale=1000.0),
    Measure(name="added", label="attempts added (%)", better="neither", scale=100.0),
    Measure(name="wasted", label="service for nothing (%)", better="neither", scale=100.0),
    Measure(name="busy", label="busy (%)", better="neither", scale=100.0),
)


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    loads: tuple[float, ...]
    """Of what the replicas can do while none is slow."""
    replicas: int
    requests: int
    seeds: int


def spec_of(candidate: str, replicas: int) -> FleetSpec:
    """The fleet of a candidate."""
    latency = AffineLatency(base_s=SERVICE_S, per_item_s=0.0, jitter_cv=SERVICE_CV)
    spec = FleetSpec(
        engine=EmulatedEngine(latency=latency, interruptible=candidate == STOPPED),
        replicas=replicas,
        batching=NoBatching(),
        max_inflight_batches=1,
        hedge=_HEDGES[candidate.removeprefix(_BLIND)],
    )
    return spec.replace(routing=Random()) if candidate.startswith(_BLIND) else spec


def slow_replicas(replicas: int, duration_s: float, seed: int) -> FaultTrace:
    """Replicas that become slow one by one, at independent times and for independent durations."""
    draw = random.Random(f"slow replicas {seed}")
    faults = []
    at_s = draw.expovariate(1.0 / SLOW_EVERY_S)
    while at_s < duration_s:
        replica, for_s = f"replica/{draw.randrange(replicas)}", draw.expovariate(1.0 / SLOW_FOR_S)
        faults.append(Fault(at_s=at_s, kind="slow", replica=replica, for_s=for_s, factor=SLOW_FACTOR))
        at_s += draw.expovariate(1.0 / SLOW_EVERY_S)
    return FaultTrace(faults=tuple(faults), source="slow replicas", seed=seed)


class Job(Struct, frozen=True, kw_only=True):
    """One run."""

    trace: Trace
    faults: FaultTrace
    spec: FleetSpec
    seed: int

    def run(self) -> dict[str, float]:
        """Its measures."""
        run = simulate(self.trace, self.spec, seed=self.seed, faults=self.faults, check=False)
        e2e_s = run.records["e2e_s"].drop_null().to_numpy()
        p50_s, p99_s, p999_s = (float(value) for value in np.percentile(e2e_s, (50.0, 99.0, 99.9)))
        attempts = attempt_figures(run.attempts, run.records)
        return {
            "p50_s": p50_s,
            "p99_s": p99_s,
            "p999_s": p999_s,
            "added": attempts.hedges / len(self.trace),
            "wasted": attempts.wasted_fraction or 0.0,
            "busy": run.summary.utilization or 0.0,
        }


def run(plan: Plan, options: Options) -> StudyResult:
    """All candidates at each load, with the same requests and the same slow replicas."""
    seeds = range(plan.seeds)
    traces: dict[float, list[Trace]] = {}
    jobs: dict[tuple[float, str, int], Job] = {}
    for load in plan.loads:
        rate_per_s = load * plan.replicas / SERVICE_S
        duration_s = plan.requests / rate_per_s
        traces[load] = [arrivals(rate_per_s, duration_s, seed, options.trace) for seed in seeds]
        for name in CANDIDATES:
            for seed, trace in zip(seeds, traces[load], strict=True):
                faults = slow_replicas(plan.replicas, math.ceil(duration_s), seed)
                spec = spec_of(name, plan.replicas)
                jobs[load, name, seed] = Job(trace=trace, faults=faults, spec=spec, seed=seed)
    return StudyResult(
        study="tail_at_scale",
        setting="load",
        baseline=BASELINE,
        seeds=tuple(seeds),
        measures=MEASURES,
        figures=figures_by(run_all("runs", jobs, options), MEASURES, BASELINE),
        workload=f"{plan.replicas} replicas, {plan.requests:,} requests of {options.trace or 'a Poisson process'}, "
        f"{1000.0 * SERVICE_S:g} ms each with a coefficient of variation of {SERVICE_CV:g}",
        traces={f"{load:g}": [trace.sha256 for trace in of_one] for load, of_one in traces.items()},
        specs={name: spec_of(name, plan.replicas).to_dict() for name in CANDIDATES},
    )


def draw(result: StudyResult) -> str:
    """Median, tail, and what it costs, against load."""
    panels = (
        Panel(measure="p50_s", label="e2e p50 (ms)", log=True),
        Panel(measure="p99_s", label="e2e p99 (ms)", log=True),
        Panel(measure="p999_s", label="e2e p99.9 (ms)", log=True),
        Panel(measure="added", label="attempts added (% of requests)"),
    )
    return lines(result, panels, "load (of capacity)", x_ticks=result.settings)


STUDY = Study(
    name="tail_at_scale",
    title="The tail at scale: hedged and tied requests by load, with replicas that become slow",
    plans={
        "small": Plan(loads=(0.3, 0.6, 0.9), replicas=10, requests=2_000, seeds=3),
        "full": Plan(loads=(0.3, 0.6, 0.9), replicas=10, requests=10_000, seeds=6),
    },
    run=run,
    draw=draw,
)
