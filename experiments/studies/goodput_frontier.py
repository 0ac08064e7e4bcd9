"""``fleet study goodput_frontier``: how much load does a fleet bear within its objectives?

Goodput as the field defines it: the highest rate at which nine of ten requests meet both objectives, the time to first
token and the mean time per token, a replica. Found by bisection over the rate for each iteration policy under one
router, for each router under one iteration policy, and for several fleet sizes. All of them get the same requests, at
every rate: only the clock changes.

Question: Zhong et al., "DistServe", OSDI 2024, sections 2 and 6 (goodput per device at 90 % attainment); Agrawal et
al., "Sarathi-Serve", OSDI 2024, section 5.1 (capacity under objectives).
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from experiments.load import at_rate, highest_rate
from experiments.studies.charts import Panel, lines
from experiments.studies.jobs import run_all
from experiments.studies.result import Figure, Measure, StudyResult, judged, paired_figures
from experiments.studies.study import Options, Study
from experiments.studies.workloads import conversations, engine, recorded
from fleet import FleetSpec, simulate
from policies import (
    IterationPolicy,
    KvCost,
    LeastOutstanding,
    LeastTokens,
    Orca,
    PrefixAffinity,
    Random,
    RoutingPolicy,
    Sarathi,
    SessionAffinity,
    StaticBatch,
    VllmPrefillFirst,
    VllmTokenBudget,
)
from traces import Slo, Trace

SLO = Slo(ttft_s=1.0, tpot_s=0.05)
ATTAINMENT = 0.9
MEASURE = Measure(name="goodput_per_replica_s", label="requests/s a replica", better="higher")
BASELINE = "vllm token budget, least tokens"
_ITERATION: Mapping[str, IterationPolicy] = {
    "vllm token budget": VllmTokenBudget(max_sequences=128),
    "vllm prefill first": VllmPrefillFirst(max_sequences=128),
    "sarathi": Sarathi(max_sequences=128),
    "orca": Orca(max_sequences=128),
    "static batch": StaticBatch(max_sequences=128),
}
_ROUTING: Mapping[str, RoutingPolicy] = {
    "least tokens": LeastTokens(),
    "random": Random(),
    "least outstanding": LeastOutstanding(),
    "session affinity": SessionAffinity(),
    "prefix affinity": PrefixAffinity(),
    "kv cost": KvCost(),
}
BY_ITERATION = {f"{name}, least tokens": name for name in _ITERATION}
BY_ROUTING = {f"vllm token budget, {name}": name for name in _ROUTING}
"""What their panels call them."""
CANDIDATES = tuple(dict.fromkeys((*BY_ITERATION, *BY_ROUTING)))
FEW = tuple(
    name for name in CANDIDATES if name not in ("orca, least tokens", "vllm token budget, least outstanding")
)


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    replicas: tuple[int, ...]
    requests_per_replica: int
    seeds: int
    tolerance: float
    """Of the rate found."""
    candidates: tuple[str, ...] = CANDIDATES


def spec_of(candidate: str, replicas: int) -> FleetSpec:
    """The fleet of a candidate."""
    iteration, routing = candidate.split(", ")
    return FleetSpec(
        engine=engine(),
        replicas=replicas,
        iteration=_ITERATION[iteration],
        routing=_ROUTING[routing],
        slo=SLO,
    )


class Job(Struct, frozen=True, kw_only=True):
    """One bisection."""

    trace: Trace
    spec: FleetSpec
    seed: int
    tolerance: float

    def run(self) -> float:
        """The highest rate for each replica."""

        def attains(rate_per_replica_s: float) -> bool:
            trace = at_rate(self.trace, rate_per_replica_s * self.spec.all_replicas)
            attainment = simulate(trace, self.spec, seed=self.seed, check=False).summary.slo_attainment
            return attainment is not None and attainment >= ATTAINMENT

        return highest_rate(attains, 8.0, self.tolerance)


def run(plan: Plan, options: Options) -> StudyResult:
    """One bisection for each candidate, fleet size and seed."""
    seeds = range(plan.seeds)
    traces: dict[tuple[int, int], Trace] = {}
    jobs: dict[tuple[int, str, int], Job] = {}
    for replicas in plan.replicas:
        for seed in seeds:
            requests = plan.requests_per_replica * replicas
            trace = (
                conversations(requests, seed)
                if options.trace is None
                else recorded(options.trace, requests, seed)
            )
            traces[replicas, seed] = trace
            for name in plan.candidates:
                if replicas == 1 and name not in BY_ITERATION:
                    continue  # a router has no choice
                jobs[replicas, name, seed] = Job(
                    trace=trace, spec=spec_of(name, replicas), seed=seed, tolerance=plan.tolerance
                )
    rates = run_all("bisections", jobs, options)
    figures: list[Figure] = []
    for replicas in plan.replicas:
        values = {
            name: [rates[replicas, name, seed] for seed in seeds]
            for name in plan.candidates
            if (replicas, name, 0) in rates
        }
        figures += paired_figures(float(replicas), MEASURE.name, values, BASELINE)
    return StudyResult(
        study="goodput_frontier",
        setting="replicas",
        baseline=BASELINE,
        seeds=tuple(seeds),
        measures=(MEASURE,),
        figures=judged(figures, {MEASURE.name: MEASURE.better}),
        workload=f"A100s, {plan.requests_per_replica} requests a replica of "
        f"{options.trace or 'synthetic conversations'}, {100 * ATTAINMENT:g} % within TTFT {SLO.ttft_s:g} s and TPOT "
        f"{1000 * (SLO.tpot_s or 0.0):g} ms",
        traces={
            f"{replicas:g}": [traces[replicas, seed].sha256 for seed in seeds] for replicas in plan.replicas
        },
        specs={name: spec_of(name, plan.replicas[0]).to_dict() for name in plan.candidates},
    )


def draw(result: StudyResult) -> str:
    """Goodput a replica against fleet size: by iteration policy, and by router."""
    label = "goodput (requests/s a replica)"
    panels = (
        Panel(measure=MEASURE.name, label=label, names=BY_ITERATION),
        Panel(measure=MEASURE.name, label=label, names=BY_ROUTING),
    )
    return lines(result, panels, "replicas", x_log=True, x_ticks=result.settings)


STUDY = Study(
    name="goodput_frontier",
    title="Goodput frontier: the highest rate at which 90 % of requests meet TTFT and TPOT objectives",
    plans={
        "small": Plan(replicas=(1, 3), requests_per_replica=200, seeds=3, tolerance=0.1, candidates=FEW),
        "full": Plan(replicas=(1, 2, 4), requests_per_replica=300, seeds=8, tolerance=0.05),
    },
    run=run,
    draw=draw,
)
