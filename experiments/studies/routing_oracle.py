"""``fleet study routing_oracle``: how far is the best router from what no router can beat?

Requests of known size come to four replicas that take them one at a time, in the order in which they come. Each
policy's mean response time is reported as a multiple of a bound that holds for every routing, whatever it knows
(`experiments.studies.response_bound`), at sizes that vary little and much. Beside routers stand two fleets in which
nobody routes: one queue for all replicas in the order of arrival, which is what the least work left comes to, and one
in the order of size, to tell what better order is worth from what better routing is.

Question: Harchol-Balter, Crovella and Murta, "On Choosing a Task Assignment Policy for a Distributed Server System",
Journal of Parallel and Distributed Computing 59, 1999 (least work left is best while sizes vary little, size intervals
of equal load, SITA-E, when they vary much); Harchol-Balter, Scheller-Wolf and Young, "Surprising Results on Task
Assignment in Server Farms with High-Variability Workloads", SIGMETRICS 2009 (that it may also be the other way round).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np
from msgspec import Struct

from experiments.studies.charts import Panel, lines
from experiments.studies.jobs import figures_by, run_all
from experiments.studies.response_bound import ResponseBound, response_bound
from experiments.studies.result import Measure, StudyResult
from experiments.studies.study import Options, Study
from experiments.studies.workloads import arrivals, lognormal_work, with_work
from fleet import AffineLatency, EmulatedEngine, FleetSpec, simulate
from policies import (
    Fifo,
    LeastOutstanding,
    LeastWorkOracle,
    NoBatching,
    PowerOfTwoChoices,
    QueueingPolicy,
    Random,
    ReplicaView,
    Request,
    RoundRobin,
    Route,
    RoutingPolicy,
    ShortestExpectedDelay,
)
from policies.queueing.keyed import KeyedQueue
from traces import Trace

SERVICE_S = 0.05
"""Of a request of mean size."""
INTERVALS, LEAST_WORK = "size intervals", "least work oracle"
ONE_QUEUE, SHORTEST_FIRST = "one queue for all", "one queue, shortest first"
BASELINE, SED = "least outstanding", "shortest expected delay"


class SizeIntervals(RoutingPolicy):
    """Each replica takes the requests of one interval of sizes: small ones never wait for large ones. O(log n).

    Sizes are the requests' `work`, absent counting as 1. With fewer replicas than intervals the last takes the rest.

    Source: Harchol-Balter, Crovella, Murta, "On Choosing a Task Assignment Policy for a Distributed Server System",
    Journal of Parallel and Distributed Computing 59, 1999 (SITA-E, where each interval has the same load).
    """

    cutoffs: tuple[float, ...] = ()
    """Where the second interval begins, and each after it."""

    def route(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        work = 1.0 if request.work is None else request.work
        return Route(replicas[min(bisect_right(self.cutoffs, work), len(replicas) - 1)].id)


class SmallestWork(KeyedQueue):
    """The request with the least work goes first. O(log n).

    Source: Smith, "Various Optimizers for Single-Stage Production", Naval Research Logistics Quarterly 3, 1956.
    """

    def key(self, request: Request, now_s: float) -> float:
        return 1.0 if request.work is None else request.work


def equal_load_cutoffs(cv: float, intervals: int) -> tuple[float, ...]:
    """The sizes between which lognormal work of mean 1 is the same in total.

    The share of all work in requests below x is Φ((ln x - μ - σ²) / σ), where μ = -σ²/2: it is weighted by size.
    """
    variance = math.log1p(cv * cv)
    normal = NormalDist(variance / 2.0, math.sqrt(variance))
    return tuple(math.exp(normal.inv_cdf(part / intervals)) for part in range(1, intervals))


_ROUTING: Mapping[str, RoutingPolicy] = {
    "random": Random(),
    "round robin": RoundRobin(),
    "two choices": PowerOfTwoChoices(),
    BASELINE: LeastOutstanding(),
    SED: ShortestExpectedDelay(),
    LEAST_WORK: LeastWorkOracle(),
}
_QUEUES: Mapping[str, QueueingPolicy] = {ONE_QUEUE: Fifo(), SHORTEST_FIRST: SmallestWork()}
CANDIDATES = (*_ROUTING, INTERVALS, *_QUEUES)
ROUTERS = (*_ROUTING, INTERVALS)


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    cvs: tuple[float, ...]
    """Standard deviations of sizes over their mean."""
    loads: tuple[float, ...]
    replicas: int
    requests: int
    seeds: int


def over_bound(load: float) -> str:
    """The measure of this load: mean response time over the bound."""
    return f"over_bound, {load:g}"


def bound_of(load: float) -> str:
    """The bound itself, in seconds."""
    return f"bound_s, {load:g}"


def measures_of(loads: Sequence[float]) -> tuple[Measure, ...]:
    """Of each load."""
    return (
        *(Measure(name=over_bound(load), label=f"mean/bound at {load:g}", better="lower") for load in loads),
        *(
            Measure(
                name=f"p99_s, {load:g}", label=f"p99 (services) at {load:g}", better="neither", scale=1.0 / SERVICE_S
            )
            for load in loads
        ),
        *(
            Measure(name=bound_of(load), label=f"bound at {load:g} (ms)", better="neither", scale=1000.0, shown=False)
            for load in loads
        ),
    )  # fmt: skip


def spec_of(candidate: str, replicas: int, cv: float) -> FleetSpec:
    """The fleet of a candidate for sizes that vary so much."""
    spec = FleetSpec(
        engine=EmulatedEngine(latency=AffineLatency(base_s=0.0, per_item_s=SERVICE_S)),
        replicas=replicas,
        batching=NoBatching(),
        max_inflight_batches=1,
    )
    if candidate in _QUEUES:
        return spec.replace(binding="late", queueing=_QUEUES[candidate])
    if candidate == INTERVALS:
        return spec.replace(routing=SizeIntervals(cutoffs=equal_load_cutoffs(cv, replicas)))
    return spec.replace(routing=_ROUTING[candidate])


def traffic(cv: float, load: float, plan: Plan, seed: int, name: str | None = None) -> Trace:
    """Requests whose sizes vary so much, offering so much load; `name` as in `arrivals`."""
    rate_per_s = load * plan.replicas / SERVICE_S
    trace = arrivals(rate_per_s, plan.requests / rate_per_s, seed, name)
    return with_work(trace, lognormal_work(len(trace), cv, seed), f"lognormal(mean=1, cv={cv:g})")


def bound(trace: Trace, replicas: int) -> ResponseBound:
    """What no routing of this trace is below."""
    sizes_s = SERVICE_S * trace.column("work").to_numpy()
    return response_bound(trace.column("arrived_s").to_numpy().tolist(), sizes_s.tolist(), replicas)


class Job(Struct, frozen=True, kw_only=True):
    """One candidate at each load."""

    traces: Mapping[float, Trace]
    bounds: Mapping[float, float]
    spec: FleetSpec
    seed: int

    def run(self) -> dict[str, float]:
        """Its measures. Every request counts, as in the bound."""
        found = {}
        for load, trace in self.traces.items():
            run = simulate(trace, self.spec, seed=self.seed, check=False)
            e2e_s = run.records["e2e_s"].to_numpy()
            found[over_bound(load)] = float(e2e_s.mean()) / self.bounds[load]
            found[f"p99_s, {load:g}"] = float(np.percentile(e2e_s, 99.0))
            found[bound_of(load)] = self.bounds[load]
        return found


def run(plan: Plan, options: Options) -> StudyResult:
    """All candidates at each variability, with the same requests."""
    seeds = range(plan.seeds)
    jobs: dict[tuple[float, str, int], Job] = {}
    used: dict[str, list[str]] = {}
    for cv in plan.cvs:
        for seed in seeds:
            traces = {load: traffic(cv, load, plan, seed, options.trace) for load in plan.loads}
            bounds = {load: bound(trace, plan.replicas).mean_s for load, trace in traces.items()}
            used.setdefault(f"{cv:g}", []).extend(trace.sha256 for trace in traces.values())
            for name in CANDIDATES:
                spec = spec_of(name, plan.replicas, cv)
                jobs[cv, name, seed] = Job(traces=traces, bounds=bounds, spec=spec, seed=seed)
    measures = measures_of(plan.loads)
    return StudyResult(
        study="routing_oracle",
        setting="CV of sizes",
        baseline=BASELINE,
        seeds=tuple(seeds),
        measures=measures,
        # Multiples that vary in proportion to their size: where sizes vary much, one seed has three times another's.
        figures=figures_by(run_all("fleets at each load", jobs, options), measures, BASELINE, scale="ratio"),
        workload=f"{plan.replicas} replicas, {plan.requests:,} requests of {options.trace or 'a Poisson process'}, "
        f"lognormal sizes of mean {1000.0 * SERVICE_S:g} ms",
        traces=used,
        specs={name: spec_of(name, plan.replicas, plan.cvs[0]).to_dict() for name in CANDIDATES},
    )


def finding(result: StudyResult) -> tuple[str, ...]:
    """What is left to gain, who has the least, and what order alone is worth."""
    loads = [one.name for one in result.measures if one.name.startswith("over_bound")]
    name = loads[-1]
    load = name.split(", ")[1]
    least, most = result.settings[0], result.settings[-1]
    sentences = []
    for cv in (least, most):
        means = {router: result.mean(cv, router, name) for router in ROUTERS}
        best, worst = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        least_s = result.mean(cv, best, bound_of(float(load)))
        sentences.append(
            f"At load {load} and a CV of {cv:g} the best router ({best}) is at {means[best]:.2f} times what no routing "
            f"can beat ({least_s / SERVICE_S:.2f} mean services), {BASELINE} at {means[BASELINE]:.2f}, the worst "
            f"({worst}) at {means[worst]:.3g}."
        )
    gaps = {
        (one, cv): result.mean(cv, LEAST_WORK, one) / result.mean(cv, ONE_QUEUE, one) - 1.0
        for one in loads
        for cv in result.settings
    }
    far = max(gaps, key=lambda key: abs(gaps[key]))
    near = abs(gaps[far]) <= 0.01
    why = "" if near else "; it counts the whole of a request that is nearly done"
    sentences.append(
        f"The {LEAST_WORK} {'is within 1 % of' if near else 'does not come to'} one queue for all: its mean is "
        f"{100.0 * gaps[far]:+.0f} % at load {far[0].split(', ')[1]} and a CV of {far[1]:g}, where they differ "
        f"most{why}."
    )
    wins = {
        cv: result.mean(cv, INTERVALS, name) < result.mean(cv, LEAST_WORK, name) for cv in result.settings
    }
    better = [f"{cv:g}" for cv, won in wins.items() if won]
    where = f"at a CV of {', '.join(better)} and at no other" if better else "at no CV that was tried"
    sentences.append(
        f"Size intervals have a lower mean than the {LEAST_WORK} {where} (load {load}): at a CV of {most:g} "
        f"{result.mean(most, INTERVALS, name):.2f} against {result.mean(most, LEAST_WORK, name):.2f} times the bound."
    )
    by_size, by_arrival = result.mean(most, SHORTEST_FIRST, name), result.mean(most, ONE_QUEUE, name)
    share = 100.0 * (by_arrival - by_size) / max(by_arrival - 1.0, 1e-9)
    sentences.append(
        f"One queue for all is at {by_arrival:.2f} times the bound there in the order of arrival and at {by_size:.2f} "
        f"in the order of size: {share:.0f} % of its distance to the bound is the order's."
    )
    return tuple(sentences)


def draw(result: StudyResult) -> str:
    """Mean response over the bound, and the tail, against variability."""
    loads = [one.name.split(", ")[1] for one in result.measures if one.name.startswith("over_bound")]
    shown = {f"over_bound, {load}": f"mean over bound, load {load}" for load in loads}
    shown |= {f"p99_s, {load}": f"p99 (mean services), load {load}" for load in loads}
    panels = [Panel(measure=name, label=text, log=True, band=False) for name, text in shown.items()]
    label = "coefficient of variation of sizes"
    return lines(result, panels, label, x_log=True, x_ticks=result.settings, columns=len(loads))


STUDY = Study(
    name="routing_oracle",
    title="Routing against what no routing can beat, by how much sizes vary",
    plans={
        "small": Plan(cvs=(0.5, 2.0, 5.0), loads=(0.5, 0.9), replicas=4, requests=2_000, seeds=3),
        "full": Plan(cvs=(0.5, 1.0, 2.0, 5.0, 10.0), loads=(0.5, 0.9), replicas=4, requests=5_000, seeds=8),
    },
    run=run,
    draw=draw,
    finding=finding,
)
