"""``fleet study staleness``: how old may what a router knows be?

A hundred replicas show how many requests they have on a board that is renewed every so often. Least outstanding sends
whatever comes between two ticks to the one replica that showed the least; two choices draw two and compare what they
showed; random does not look. Join-idle-queue counts for itself, and Prequal asks three replicas with each request and
keeps the answers: neither reads the board, so it cannot get old for them, and what they pay instead are messages.

Question: Mitzenmacher, "How Useful Is Old Information?", IEEE TPDS 11(1), 2000 (periodic update); Dahlin, "Interpreting
Stale Load Information", IEEE TPDS 11(10), 2000 (herds); Wydrowski et al., "Load is Not What You Should Balance:
Introducing Prequal", NSDI 2024 (probes in place of reports).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import Struct

from experiments.studies.charts import Panel, lines
from experiments.studies.jobs import figures_by, run_all
from experiments.studies.result import Measure, StudyResult
from experiments.studies.stale_views import StaleViews, random_mean, stale_two_choices_mean
from experiments.studies.study import Options, Study
from experiments.studies.workloads import arrivals, exponential_work, with_work
from fleet import AffineLatency, EmulatedEngine, FleetSpec, NetworkModel, simulate
from policies import LeastOutstanding, NoBatching, PowerOfTwoChoices, Random, RoutingPolicy
from policies.routing.join_idle_queue import JoinIdleQueue
from policies.routing.prequal_hot_cold import PrequalHotCold
from traces import Trace

SERVICE_S = 0.05
"""On average, exponential."""
LOAD = 0.7
"""At which the end of a run is like that of a longer one: routed at random, a queue forgets its past in 40 services."""
DELAY_S = 0.0005
"""Of a message, one way: a hundredth of a service."""
WARM_UP = 0.2
"""Of the requests, the first ones, which meet a fleet that fills up: left out."""
BASELINE, TWO, LEAST, IDLE = "random", "two choices", "least outstanding", "join idle queue"
PREQUAL, LOAD_ALONE = "prequal", "prequal, load alone"
POLICIES: Mapping[str, RoutingPolicy] = {
    BASELINE: Random(),
    TWO: PowerOfTwoChoices(),
    LEAST: LeastOutstanding(),
    IDLE: JoinIdleQueue(),
    PREQUAL: PrequalHotCold(),
    LOAD_ALONE: PrequalHotCold(hot_quantile=0.0),
}
"""`load alone`: of the answers in the pool the least loaded, however fast its replica has been."""
READ_THE_BOARD = (TWO, LEAST)
_SERVICES = 1.0 / SERVICE_S
MEASURES = (
    Measure(name="mean_s", label="mean (services)", better="lower", scale=_SERVICES),
    Measure(name="p99_s", label="p99 (services)", better="lower", scale=_SERVICES),
    Measure(name="probes", label="probes a request", better="neither"),
)


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    ages: tuple[float, ...]
    """From one tick of the board to the next, in mean service times."""
    replicas: int
    requests: int
    seeds: int


def spec_of(candidate: str, replicas: int, age: float) -> FleetSpec:
    """The fleet of a candidate, whose board is renewed every `age` mean service times."""
    return FleetSpec(
        engine=EmulatedEngine(latency=AffineLatency(base_s=0.0, per_item_s=SERVICE_S)),
        replicas=replicas,
        batching=NoBatching(),
        # One runs, the next waits at the door: a replica with work is not idle while messages travel.
        max_inflight_batches=2,
        network=NetworkModel(delay_s=DELAY_S),
        routing=StaleViews(routing=POLICIES[candidate], age_s=age * SERVICE_S),
    )


def traffic(plan: Plan, seed: int, name: str | None = None) -> Trace:
    """Requests with exponential sizes; `name` as in `arrivals`."""
    rate_per_s = LOAD * plan.replicas / SERVICE_S
    trace = arrivals(rate_per_s, plan.requests / rate_per_s, seed, name)
    return with_work(trace, exponential_work(len(trace), seed), "exponential(mean=1)")


class Job(Struct, frozen=True, kw_only=True):
    """One run."""

    trace: Trace
    spec: FleetSpec
    seed: int

    def run(self) -> dict[str, float]:
        """Its measures, without those of the warm-up."""
        run = simulate(self.trace, self.spec, seed=self.seed, check=False)
        e2e_s = run.records["e2e_s"].to_numpy()
        e2e_s = e2e_s[round(WARM_UP * len(e2e_s)) :]
        return {
            "mean_s": float(e2e_s.mean()),
            "p99_s": float(np.percentile(e2e_s, 99.0)),
            "probes": run.manifest.counters.get("load_probes", 0) / len(self.trace),
        }


def run(plan: Plan, options: Options) -> StudyResult:
    """All candidates at each age, with the same requests. Who does not read the board runs once for all ages."""
    seeds = range(plan.seeds)
    traces = [traffic(plan, seed, options.trace) for seed in seeds]
    jobs: dict[tuple[float, str, int], Job] = {}
    for name in POLICIES:
        for age in plan.ages if name in READ_THE_BOARD else plan.ages[:1]:
            for seed, trace in zip(seeds, traces, strict=True):
                jobs[age, name, seed] = Job(trace=trace, spec=spec_of(name, plan.replicas, age), seed=seed)
    done = run_all("runs", jobs, options)
    values = {
        (age, name, seed): done[age if name in READ_THE_BOARD else plan.ages[0], name, seed]
        for age in plan.ages
        for name in POLICIES
        for seed in seeds
    }
    return StudyResult(
        study="staleness",
        setting="age (services)",
        baseline=BASELINE,
        seeds=tuple(seeds),
        measures=MEASURES,
        figures=figures_by(values, MEASURES, BASELINE),
        workload=f"{plan.replicas} replicas at {100.0 * LOAD:g} % load, {plan.requests:,} requests of "
        f"{options.trace or 'a Poisson process'}, exponential services of {1000.0 * SERVICE_S:g} ms, messages of "
        f"{1000.0 * DELAY_S:g} ms",
        traces={"all": [trace.sha256 for trace in traces]},
        specs={name: spec_of(name, plan.replicas, plan.ages[0]).to_dict() for name in POLICIES},
    )


def crossing(result: StudyResult, candidate: str, measure: str) -> float | None:
    """The first age from which on the candidate is above the baseline; None: at no age that was tried."""
    crossed = None
    for age in result.settings:
        if result.mean(age, candidate, measure) <= result.mean(age, BASELINE, measure):
            crossed = None
        elif crossed is None:
            crossed = age
    return crossed


def finding(result: StudyResult) -> tuple[str, ...]:
    """Who degrades when, what theory has to say, and what freshness costs."""
    freshest, oldest = result.settings[0], result.settings[-1]

    def services(age: float, name: str, measure: str = "mean_s") -> float:
        return result.mean(age, name, measure) * _SERVICES

    sentences = []
    for name in READ_THE_BOARD:
        age = crossing(result, name, "mean_s")
        when = "at no age that was tried" if age is None else f"from an age of {age:g} services on"
        sentences.append(
            f"{name.capitalize()} has a higher mean than {BASELINE} {when}: {services(freshest, name):.2f} services at "
            f"an age of {freshest:g}, {services(oldest, name):.3g} at {oldest:g}, where {BASELINE} has "
            f"{services(oldest, BASELINE):.2f} (p99 {services(oldest, name, 'p99_s'):.3g} against "
            f"{services(oldest, BASELINE, 'p99_s'):.3g})."
        )
    messages = 2.0 * DELAY_S * _SERVICES  # to the replica and back
    theory = {age: stale_two_choices_mean(LOAD, age) + messages for age in result.settings}
    pairs = ", ".join(f"{services(age, TWO):.2f} ({theory[age]:.2f}) at {age:g}" for age in result.settings)
    sentences.append(
        f"Two choices beside the limit of many replicas, in brackets: {pairs}; {BASELINE} "
        f"{services(freshest, BASELINE):.2f} ({random_mean(LOAD) + messages:.2f}, M/M/1)."
    )
    beaten = [f"{age:g}" for age in result.settings if services(age, TWO) < services(age, LOAD_ALONE)]
    better = f"lower at ages of {', '.join(beaten)}" if beaten else "lower at no age"
    sentences.append(
        f"What is not read off the board does not get old: {LOAD_ALONE} has a mean of "
        f"{services(oldest, LOAD_ALONE):.2f} services at every age, for "
        f"{result.mean(oldest, LOAD_ALONE, 'probes'):.2g} probes a request, {IDLE} "
        f"{services(oldest, IDLE):.2f} for {result.mean(oldest, IDLE, 'probes'):.2g}; that of two choices is {better}."
    )
    against = "below" if services(oldest, PREQUAL) < services(oldest, BASELINE) else "not below"
    sentences.append(
        f"By its own rule, which prefers replicas that were fast, {PREQUAL} has {services(oldest, PREQUAL):.2f}, "
        f"{against} {BASELINE}'s {services(oldest, BASELINE):.2f} (p99 {services(oldest, PREQUAL, 'p99_s'):.3g} and "
        f"{services(oldest, BASELINE, 'p99_s'):.3g}): replicas are alike here, and what they took lately is chance."
    )
    return tuple(sentences)


def draw(result: StudyResult) -> str:
    """Mean, tail and probes against the board's age."""
    panels = (
        Panel(measure="mean_s", label="mean (services)", log=True),
        Panel(measure="p99_s", label="p99 (services)", log=True),
        Panel(measure="probes", label="probes a request"),
    )
    return lines(result, panels, "age of the board (mean services)", columns=3)


STUDY = Study(
    name="staleness",
    title="Stale views: routing by what replicas showed a while ago",
    plans={
        "small": Plan(ages=(0.0, 0.1, 1.0, 10.0), replicas=50, requests=5_000, seeds=3),
        "full": Plan(ages=(0.0, 0.1, 0.3, 1.0, 3.0, 10.0), replicas=100, requests=15_000, seeds=5),
    },
    run=run,
    draw=draw,
    finding=finding,
)
