"""``fleet study slo_frontier``: how much throughput does a millisecond of allowed tail latency buy?

The four knobs that serving frameworks expose (the largest batch, how long it may be waited for, the queue depth at
which a replica is added, the loaded spares) are swept on the reference scenario: a surge to sixteen times the load, and
a replica that fails in it. Every setting is tried at several loads, with arrivals drawn anew for each seed, so that
throughput is what a setting bears and not what happens to be asked of it. The settings that bear most within 200 and
within 120 ms at p99 are then run again with seeds that had no part in choosing them: the best of many is lucky, too.

Question: the exercise of a textbook's chapter on serving frameworks, whose loop `experiments.seed_fleet` counts again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from experiments.compare import compare
from experiments.measured import Measured
from experiments.plots import PALETTE, WIDTH, legend_above, log_ticks, new_figure
from experiments.seed_fleet.scenario import FAULTS, SPEC
from experiments.studies.charts import compact_svg
from experiments.studies.result import Spot, StudyResult, measured, result_of
from experiments.studies.study import Options, Study
from experiments.sweep import sweep
from experiments.sweep.pareto import means_of, nondominated
from fleet import FleetSpec
from policies import FixedSize
from traces import Trace
from traces.synthesis import bernoulli_surge

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OBJECTIVES_MS = (200.0, 120.0)
PRINTED = "as printed"
P99, THROUGHPUT = "e2e_s.p99", "throughput_per_s"
METRICS = measured(P99, "gpu_seconds", described=(THROUGHPUT, "utilization", "replicas.max"))
BASE = SPEC.replace(warm_pool=FixedSize(size=0))
TICK_S = 0.001
"""Of the scenario's arrivals at load 1: at most one arrives in each."""


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    max_batch: tuple[int, ...]
    window_s: tuple[float, ...]
    up_at: tuple[int, ...]
    spares: tuple[int, ...]
    loads: tuple[float, ...]
    """Times the scenario's arrivals."""
    seeds: int
    """To choose by; as many others to say what was chosen comes to."""


def arrivals(load: float, seed: int) -> Trace:
    """The scenario's surge with `load` times as many arrivals, drawn anew."""
    return bernoulli_surge(40.0 * load, 640.0 * load, seed=seed, tick_s=TICK_S / load)


def run(plan: Plan, options: Options) -> StudyResult:
    """Sweep the knobs at each load, choose, and run the chosen with other seeds."""
    if options.trace is not None:
        raise ValueError("slo_frontier: the scenario is its own surge; --trace has no place in it")
    axes = {
        "batching.max_batch": plan.max_batch,
        "batching.window_s": plan.window_s,
        "scaling.up_at": plan.up_at,
        "warm_pool.size": plan.spares,
    }
    tried: dict[tuple[str, float], list[Measured]] = {}
    specs: dict[str, FleetSpec] = {}
    for load in plan.loads:
        made = sweep(
            partial(arrivals, load), BASE, axes, seeds=range(plan.seeds), faults=FAULTS,
            metrics=[P99, THROUGHPUT, "gpu_seconds"], workers=options.workers, progress=options.progress,
        )  # fmt: skip
        tried |= {(name, load): runs for name, runs in made.measured.items()}
        specs = specs or {name: made.spec(name) for name in made.measured}
    chosen = {objective_ms: best_within(objective_ms / 1000.0, tried) for objective_ms in OBJECTIVES_MS}
    best = {f"best at {ms:g} ms": specs[name] for ms, name in chosen.items() if name is not None}
    candidates = {PRINTED: BASE, **best}
    reports = {
        load: compare(
            partial(arrivals, load), candidates, faults=FAULTS, metrics=METRICS,
            seeds=range(1000, 1000 + plan.seeds), workers=options.workers, progress=options.progress,
        )
        for load in plan.loads
    }  # fmt: skip
    result = result_of(
        "slo_frontier", "load", reports, METRICS,
        workload=f"the reference surge and its failure, 30 s, {len(specs)} settings at {len(plan.loads)} loads; "
        + "; ".join(f"best at {ms:g} ms: {name or 'none'}" for ms, name in chosen.items()),
    )  # fmt: skip
    return replace(result, spots=spots_of(tried))


def best_within(objective_s: float, tried: Mapping[tuple[str, float], list[Measured]]) -> str | None:
    """The setting with the most throughput at a load at which its p99 keeps the objective; of equals the cheapest.

    A setting bears no load that it bears only because a lower one broke it: the loads below must keep it too.
    """
    best: tuple[float, float, str] | None = None
    broken: set[str] = set()
    for (name, _), runs in sorted(tried.items(), key=lambda item: item[0][1]):
        means = means_of(runs, [P99, THROUGHPUT, "gpu_seconds"])
        kept = all(one.error is None and one.completed == one.submitted for one in runs)
        if name in broken or not kept or means.get(P99, float("inf")) > objective_s:
            broken.add(name)
            continue
        found = (-means[THROUGHPUT], means["gpu_seconds"], name)
        best = found if best is None else min(best, found)
    return None if best is None else best[2]


def spots_of(tried: Mapping[tuple[str, float], list[Measured]]) -> tuple[Spot, ...]:
    """Where each setting stood at each load, and who is on the front of throughput against p99."""
    means = {key: means_of(runs, [P99, THROUGHPUT]) for key, runs in tried.items()}
    costs = {
        f"{load:g} {name}": (of[P99], -of[THROUGHPUT]) for (name, load), of in means.items() if len(of) == 2
    }
    front = set(nondominated(costs))
    return tuple(
        Spot(name=name, at=load, x=of[P99], y=of[THROUGHPUT], chosen=f"{load:g} {name}" in front)
        for (name, load), of in means.items()
        if len(of) == 2
    )


def draw(result: StudyResult) -> str:
    """Throughput against p99: every setting at every load, the front, the objectives; and what the chosen came to."""
    figure, axes = new_figure(WIDTH, 4.2, rows=1, columns=2)
    _frontier(axes[0], result)
    _chosen(axes[1], result)
    legend_above(figure, axes[1])
    return compact_svg(figure, result.study)


def _frontier(axes: Axes, result: StudyResult) -> None:
    for index, load in enumerate(dict.fromkeys(spot.at for spot in result.spots)):
        of_load = [spot for spot in result.spots if spot.at == load]
        colour = PALETTE[index % len(PALETTE)]
        axes.scatter([1000 * s.x for s in of_load], [s.y for s in of_load], s=10, color=colour, alpha=0.5)
        slowest = max(of_load, key=lambda spot: spot.x)
        axes.annotate(
            f"load {load:g}", (1000 * slowest.x, slowest.y), (4, 0), textcoords="offset points", fontsize=8
        )
    front = sorted((spot for spot in result.spots if spot.chosen), key=lambda spot: spot.x)
    axes.step([1000 * s.x for s in front], [s.y for s in front], where="post", color="#1a1a1a", linewidth=1.2)
    _objectives(axes.axvline)
    axes.set(xlabel="E2E p99 (ms)", ylabel="completed/s", xscale="log")
    log_ticks(axes)


def _chosen(axes: Axes, result: StudyResult) -> None:
    for index, name in enumerate(result.candidates):
        at, figures = result.curve(name, P99)
        axes.plot(
            at,
            [1000 * one.mean for one in figures],
            color=PALETTE[index],
            marker="o",
            markersize=3.5,
            label=name,
        )
    _objectives(axes.axhline)
    axes.set(xlabel="load (times the scenario's)", ylabel="E2E p99 (ms), other seeds", yscale="log")
    log_ticks(axes, "y")


def _objectives(line: Callable[..., object]) -> None:
    for objective_ms in OBJECTIVES_MS:
        line(objective_ms, color="#888888", linewidth=0.8, linestyle="--")


STUDY = Study(
    name="slo_frontier",
    title="SLO frontier: throughput that each millisecond of p99 buys, over four knobs",
    plans={
        "small": Plan(
            max_batch=(8, 32), window_s=(0.002, 0.010), up_at=(5, 10), spares=(0, 1), loads=(0.75, 1.0, 1.5), seeds=3
        ),
        "full": Plan(
            max_batch=(8, 16, 32), window_s=(0.002, 0.005, 0.010), up_at=(3, 5, 10), spares=(0, 1, 2),
            loads=(0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5), seeds=5,
        ),
    },
    run=run,
    draw=draw,
)  # fmt: skip
