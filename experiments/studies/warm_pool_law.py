"""``fleet study warm_pool_law``: how many loaded spares does a ramp of arrivals need?

Demand climbs in a straight line, and a scaler asks at every moment for as many replicas as are needed then. They serve
a cold start later: what serves is what was needed a cold start ago, and the fleet is short by what the climb adds in
that time. So many loaded spares hide it. The law is measured under a scaler that knows the rate, so that it is late by
the cold start alone; beside it run pools that do not know the law, and scalers that do not know the rate.

A replica counts as what it serves within the objective, which is less than it can do. So there is a lower number, too:
the spares with which the fleet is short of its objective and never of its capacity.

Question: an exercise of a textbook's chapter on model serving (derive how many replicas are short when a surge peaks,
and say why losing one in mid-surge is a negative warm pool); `policies.warm_pool.surge_slope` derives it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from experiments.paired import Difference, paired_difference
from experiments.plots import WIDTH, line_style, log_ticks, new_figure
from experiments.studies.charts import compact_svg
from experiments.studies.jobs import figures_by, run_all
from experiments.studies.result import Measure, StudyResult, judged, paired_figures
from experiments.studies.study import Options, Study
from experiments.text import plain_number
from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run, simulate
from policies import (
    FixedSize,
    NoBatching,
    NoWarmPool,
    QueueDepth,
    ScalingPolicy,
    WarmPoolPolicy,
)
from policies.scaling.scheduled import Scheduled
from policies.scaling.square_root_staffing import SquareRootStaffing
from policies.warm_pool.fraction import Fraction
from policies.warm_pool.surge_slope import SurgeSlope
from traces import Fault, FaultTrace, RateSeries, Trace, from_rates

SERVICE_S, SERVICE_CV = 0.1, 0.5
FULL = 0.8
"""How busy a replica may be: what it serves beyond that, it serves late."""
MU_PER_S = FULL / SERVICE_S
"""What a replica counts as."""
OBJECTIVE_S = 0.5
LOOK_S = 0.5
"""Period of the control loop, which is part of a cold start: whoever is needed waits for the next look."""
STEP_S = 0.05
"""In which the rate of arrivals is constant."""


class Ramp(Struct, frozen=True, kw_only=True):
    """Demand over time, in replicas: `low` until `start_s`, then a straight climb of `climb_s` to `high`."""

    low: float
    high: float
    start_s: float
    climb_s: float

    @property
    def peak_s(self) -> float:
        """When the climb ends."""
        return self.start_s + self.climb_s

    def needed(self, at_s: float) -> float:
        """Replicas that arrivals need at that time."""
        return self.low + (self.high - self.low) * min(max((at_s - self.start_s) / self.climb_s, 0.0), 1.0)

    def schedule(self) -> tuple[tuple[float, int], ...]:
        """When which whole number of replicas begins to be needed; both ends of the ramp are whole."""
        low, high = round(self.low), round(self.high)
        step_s = self.climb_s / (high - low)
        return (0.0, low), *((self.start_s + step_s * n, low + n + 1) for n in range(high - low))

    def short(self, at_s: float, cold_s: float, spares: float = 0.0) -> float:
        """Replicas that are short then: of those needed now, what was needed a cold start ago and the spares serve."""
        return max(0.0, self.needed(at_s) - self.needed(at_s - cold_s) - spares)

    def law(self, cold_s: float) -> float:
        """Replicas that are short at the peak without spares: slope · c / mu, and no more than the climb needs."""
        return (self.high - self.low) * min(1.0, cold_s / self.climb_s)

    def keeping_up(self, cold_s: float) -> float:
        """Spares with which the fleet can do at every moment what arrives, though late.

        Replicas are `FULL` busy by plan, so that n of them can do what n / FULL are to serve. With k spares there are
        needed(t - c) + k at t, and they keep up while that is at least FULL · needed(t). That is tightest one cold
        start into the climb (at its end, if that comes first): k = FULL · law - (1 - FULL) · low.
        """
        return max(0.0, FULL * self.law(cold_s) - (1.0 - FULL) * self.low)

    def one_at_a_time(self, cold_s: float) -> float:
        """Short at the peak where none is started while one is starting: at most one comes in each cold start."""
        return max(0.0, self.high - self.low - self.climb_s // cold_s)


LOSSES = 3
BASELINE, SHORTER = "no spares", "no spares, half the cold start"
KEEPING_UP, LAW, TWICE = "spares to keep up", "spares of the law", "twice as many"
FEWER, LOST = "three fewer", "three replicas lost"
SLOPE, FRACTION = "surge slope", "a fifth of what serves"
STAFFING, ONE_BY_ONE = "no spares, square root", "no spares, one at a time"
CANDIDATES = (BASELINE, SHORTER, KEEPING_UP, LAW, TWICE, FEWER, LOST, SLOPE, FRACTION, STAFFING, ONE_BY_ONE)
"""`three fewer`: than the law's. `three replicas lost`: at once, with the law's spares, half a cold start before the
peak or in the middle of the climb, whichever is later. `square root`, `one at a time`: scalers that go by arrivals and
by the queue; all others know the rate."""
SHORT, PREDICTED = "short", "predicted"
MEASURES = (
    Measure(name=SHORT, label="short at the peak", better="neither"),
    Measure(name=PREDICTED, label="as predicted", better="neither"),
    Measure(name="p99_s", label="e2e p99 (s)", better="lower"),
    Measure(name="attained", label=f"within {OBJECTIVE_S:g} s (%)", better="higher", scale=100.0),
    Measure(name="gpu_s", label="replica seconds", better="neither"),
)
"""Latencies are of requests that arrive from the ramp's beginning to a cold start after its peak."""


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    climbs_s: tuple[float, ...]
    cold_s: float
    """From when a replica is needed until it serves, a period of the control loop included."""
    low: int
    high: int
    """Replicas that are needed before and after."""
    seeds: int

    def ramp(self, climb_s: float, seed: int) -> Ramp:
        """Seeds begin it at different moments between two looks of the control loop, evenly."""
        start_s = 2.0 * self.cold_s + LOOK_S * (seed + 0.5) / self.seeds
        return Ramp(low=self.low, high=self.high, start_s=start_s, climb_s=climb_s)


def cold_of(candidate: str, cold_s: float) -> float:
    """The cold start of a candidate's replicas."""
    return 0.5 * cold_s if candidate == SHORTER else cold_s


def spares_of(candidate: str, ramp: Ramp, cold_s: float) -> int | None:
    """How many a candidate keeps; None: it depends."""
    law = math.ceil(ramp.law(cold_s) - 1e-9)
    return {
        BASELINE: 0, SHORTER: 0, KEEPING_UP: math.ceil(ramp.keeping_up(cold_s) - 1e-9), LAW: law, TWICE: 2 * law,
        FEWER: max(0, law - LOSSES), LOST: law, SLOPE: None, FRACTION: None, STAFFING: 0, ONE_BY_ONE: 0,
    }[candidate]  # fmt: skip


def predicted(candidate: str, ramp: Ramp, cold_s: float) -> float | None:
    """Replicas short at the peak, as the law says; None where it says nothing."""
    spares = spares_of(candidate, ramp, cold_s)
    if spares is None or candidate == STAFFING:
        return None
    if candidate == ONE_BY_ONE:
        return ramp.one_at_a_time(cold_s)
    lost = LOSSES if candidate == LOST else 0
    return ramp.short(ramp.peak_s, cold_of(candidate, cold_s), spares - lost)


def spec_of(candidate: str, ramp: Ramp, cold_s: float) -> FleetSpec:
    """The fleet of a candidate."""
    latency = AffineLatency(base_s=SERVICE_S, per_item_s=0.0, jitter_cv=SERVICE_CV)
    spares, low, most = spares_of(candidate, ramp, cold_s), round(ramp.low), 2 * round(ramp.high)
    pools: Mapping[str, WarmPoolPolicy] = {
        SLOPE: SurgeSlope(cold_start_s=cold_s, mu_per_s=MU_PER_S),
        FRACTION: Fraction(fraction=0.2),
    }
    scalers: Mapping[str, ScalingPolicy] = {
        STAFFING: SquareRootStaffing(service_s=SERVICE_S, average_s=5.0),
        ONE_BY_ONE: QueueDepth(up_at=1.0, down_at=0.0),
    }
    return FleetSpec(
        engine=EmulatedEngine(latency=latency, cold_start_s=cold_of(candidate, cold_s) - LOOK_S),
        replicas=low,
        min_replicas=low,
        max_replicas=most,
        binding="late",
        batching=NoBatching(),
        max_inflight_batches=1,
        control_interval_s=LOOK_S,
        scaling=scalers.get(candidate, Scheduled(schedule=ramp.schedule())),
        warm_pool=pools.get(candidate, FixedSize(size=spares) if spares else NoWarmPool()),
    )


def arrivals(ramp: Ramp, until_s: float, seed: int) -> Trace:
    """A Poisson process that needs as many replicas as the ramp says."""
    middles_s = STEP_S * (np.arange(round(until_s / STEP_S)) + 0.5)
    per_s = MU_PER_S * np.array([ramp.needed(at_s) for at_s in middles_s.tolist()])
    return from_rates(RateSeries(per_s, step_s=STEP_S, source="a straight climb"), seed)


def ready_at(run: Run, at_s: float) -> int:
    """How many replicas are ready at that time."""
    states: dict[str, str] = {}
    for row in run.replicas.filter(pc.less_equal(run.replicas["time_s"], at_s)).to_pylist():
        states[row["replica"]] = row["state"]
    return sum(state == "ready" for state in states.values())


class Job(Struct, frozen=True, kw_only=True):
    """One run."""

    trace: Trace
    faults: FaultTrace | None
    spec: FleetSpec
    ramp: Ramp
    seed: int
    until_s: float
    """Requests that arrive from the ramp's beginning until then are looked at."""

    def run(self) -> dict[str, float]:
        """Its measures."""
        run = simulate(self.trace, self.spec, seed=self.seed, faults=self.faults, check=False)
        arrived_s = run.records["arrived_s"]
        within = pc.and_(pc.greater_equal(arrived_s, self.ramp.start_s), pc.less(arrived_s, self.until_s))
        e2e_s = run.records.filter(within)["e2e_s"]
        good = pc.fill_null(pc.less_equal(e2e_s, OBJECTIVE_S), False)
        return {
            SHORT: max(0.0, self.ramp.high - ready_at(run, self.ramp.peak_s)),
            "p99_s": float(np.percentile(e2e_s.drop_null().to_numpy(), 99.0)),
            "attained": float(pc.mean(pc.cast(good, pa.float64())).as_py()),
            "gpu_s": run.summary.gpu_seconds or 0.0,
        }


def run(plan: Plan, options: Options) -> StudyResult:
    """All candidates on each ramp, with the same requests."""
    if options.trace is not None:
        raise ValueError("warm_pool_law: the arrivals are its own ramp; --trace has no place in it")
    seeds, cold_s = range(plan.seeds), plan.cold_s
    traces: dict[float, list[Trace]] = {}
    jobs: dict[tuple[float, str, int], Job] = {}
    for climb_s in plan.climbs_s:
        ramps = [plan.ramp(climb_s, seed) for seed in seeds]
        traces[climb_s] = [
            arrivals(ramp, ramp.peak_s + 1.5 * cold_s, seed) for seed, ramp in enumerate(ramps)
        ]
        for name in CANDIDATES:
            for seed, ramp in enumerate(ramps):
                lost_s = ramp.start_s + max(0.5 * climb_s, climb_s - 0.5 * cold_s)
                crash = FaultTrace(faults=(Fault(at_s=lost_s, kind="crash"),) * LOSSES, source="lost at once")
                jobs[climb_s, name, seed] = Job(
                    trace=traces[climb_s][seed], faults=crash if name == LOST else None,
                    spec=spec_of(name, ramp, cold_s), ramp=ramp, seed=seed, until_s=ramp.peak_s + cold_s,
                )  # fmt: skip
    measured = tuple(measure for measure in MEASURES if measure.name != PREDICTED)
    figures = list(figures_by(run_all("runs", jobs, options), measured, BASELINE))
    for climb_s in plan.climbs_s:
        ramp = plan.ramp(climb_s, 0)
        said = {name: predicted(name, ramp, cold_s) for name in CANDIDATES}
        figures += paired_figures(
            climb_s,
            PREDICTED,
            {name: [value] * plan.seeds for name, value in said.items() if value is not None},
            BASELINE,
        )
    first = plan.ramp(plan.climbs_s[0], 0)
    return StudyResult(
        study="warm_pool_law",
        setting="ramp (s)",
        baseline=BASELINE,
        seeds=tuple(seeds),
        measures=MEASURES,
        figures=judged(figures, {measure.name: measure.better for measure in MEASURES}),
        workload=f"from {plan.low} to {plan.high} replicas' worth of a Poisson process, a cold start of {cold_s:g} s, "
        f"{1000.0 * SERVICE_S:g} ms a request with a coefficient of variation of {SERVICE_CV:g}",
        traces={f"{climb_s:g}": [trace.sha256 for trace in of_one] for climb_s, of_one in traces.items()},
        specs={name: spec_of(name, first, cold_s).to_dict() for name in CANDIDATES},
    )


# --- what came of it ---------------------------------------------------------------------------------------


def against(result: StudyResult, at: float, candidate: str, other: str, measure: str) -> Difference:
    """One candidate less another that is not the baseline, over the same seeds."""
    ones, others = (result.figure(at, name, measure).by_seed for name in (candidate, other))
    pairs = [one - two for one, two in zip(ones, others, strict=True) if one is not None and two is not None]
    return paired_difference(pairs, distinct=len(set(pairs)))


def finding(result: StudyResult) -> tuple[str, ...]:
    """The law beside what was measured, what its spares are worth, and what behaves like one fewer."""
    ramps = result.settings
    fixed = [name for name in CANDIDATES if name not in (SLOPE, FRACTION, STAFFING, ONE_BY_ONE)]
    off = {
        (at, name): result.mean(at, name, SHORT) - result.mean(at, name, PREDICTED)
        for at in ramps
        for name in fixed
    }
    bare = "; ".join(
        f"{plain_number(result.mean(at, BASELINE, SHORT), digits=3)} where {result.mean(at, BASELINE, PREDICTED):.3g} "
        f"are predicted for {at:g} s"
        for at in ramps
    )
    worst = max(off.values(), key=abs)
    return (
        f"Without spares the fleet is short at the peak by {bare} of ramp. Of all pools of a fixed size none is off "
        f"by more than {abs(worst):.2g} replicas ({'below' if worst < 0 else 'above'} the law).",
        _worth(result),
        _lost(result),
        _by_slope(result),
        _one_by_one(result),
    )


def _worth(result: StudyResult) -> str:
    """What the spares of the law do, and what fewer and more of them do."""
    ramps = result.settings
    shown = [at for at in ramps if result.figure(at, LAW, "attained").verdict == "better"]
    parts = [
        f"{at:g} s: {_percent(result, at, BASELINE)}, {_percent(result, at, KEEPING_UP)}, "
        f"{_percent(result, at, LAW)}, {_percent(result, at, TWICE)}"
        for at in ramps
    ]
    return (
        f"Within {OBJECTIVE_S:g} s, in % ({BASELINE}, {KEEPING_UP}, {LAW}, {TWICE}): {'; '.join(parts)}. The law's "
        f"spares are shown to be better than none at {len(shown)} of {len(ramps)} ramps."
    )


def _percent(result: StudyResult, at: float, candidate: str) -> str:
    return f"{100.0 * result.mean(at, candidate, 'attained'):.1f}"


def _lost(result: StudyResult) -> str:
    """Whether a lost replica is a spare fewer."""
    parts = []
    for at in result.settings:
        short, late = (against(result, at, LOST, FEWER, measure) for measure in (SHORT, "p99_s"))
        ends = "" if late.low is None or late.high is None else f" ({late.low:+.2f} to {late.high:+.2f})"
        parts.append(f"{at:g} s: {short.mean:+.1f} replicas, p99 {late.mean:+.2f} s{ends}")
    return (
        f"{LOSSES} replicas lost on the way, less what as many spares fewer come to (intervals of 95 %), at ramps of "
        f"{'; '.join(parts)}."
    )


def _by_slope(result: StudyResult) -> str:
    """Where a pool that learns the slope is in time."""
    parts = []
    for at in result.settings:
        gained = [
            result.mean(at, name, "attained") - result.mean(at, BASELINE, "attained") for name in (SLOPE, LAW)
        ]
        parts.append(f"{at:g} s: {100.0 * gained[0]:+.1f} of {100.0 * gained[1]:+.1f}")
    return (
        f"Spares by the slope that is seen gain, of what the law's gain (points within {OBJECTIVE_S:g} s), at ramps of "
        f"{'; '.join(parts)}."
    )


def _one_by_one(result: StudyResult) -> str:
    """Scaling that adds none while one is starting."""
    parts = [
        f"{at:g} s: {result.mean(at, ONE_BY_ONE, SHORT):.3g} ({result.mean(at, ONE_BY_ONE, PREDICTED):.3g} predicted, "
        f"{result.mean(at, BASELINE, SHORT):.3g} when asked for at once)"
        for at in result.settings
    ]
    return f"One at a time the fleet is short at the peak by, at ramps of {'; '.join(parts)}."


# --- the plot ----------------------------------------------------------------------------------------------

_SIZES = (BASELINE, KEEPING_UP, LAW, TWICE, FEWER, LOST)
_OTHERS = (SHORTER, SLOPE, FRACTION, STAFFING, ONE_BY_ONE)


def draw(result: StudyResult) -> str:
    """Shortfall and attainment against the ramp: pools of a fixed size, and all that is not one."""
    figure, axes = new_figure(WIDTH, 6.8, rows=2, columns=2)
    for column, names in enumerate((_SIZES, _OTHERS)):
        above, below = axes[column], axes[2 + column]
        for index, name in enumerate(names):
            style = line_style(index)
            for panel, measure, scale in ((above, SHORT, 1.0), (below, "attained", 100.0)):
                at, figures = result.curve(name, measure)
                shown = [scale * one.mean for one in figures]
                panel.plot(at, shown, **style, marker="o", markersize=3.5, label=name)
            at, figures = result.curve(name, PREDICTED)
            said = [one.mean for one in figures]
            above.plot(at, said, color=style["color"], linestyle="", marker="_", markersize=11)
        above.set_ylabel("replicas short at the peak (–: predicted)")
        below.set_ylabel(f"within {OBJECTIVE_S:g} s (%)")
        below.set_xlabel("length of the ramp (s)")
        for panel in (above, below):
            log_ticks(panel)
            panel.set_xticks(result.settings, [f"{at:g}" for at in result.settings])
            panel.minorticks_off()
            panel.set_ylim(bottom=0.0)
        above.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False, fontsize=8)
    return compact_svg(figure, result.study)


STUDY = Study(
    name="warm_pool_law",
    title="The law of the warm pool: replicas short at the peak of a ramp, and what spares are worth",
    plans={
        "small": Plan(climbs_s=(10.0, 40.0), cold_s=10.0, low=5, high=25, seeds=2),
        "full": Plan(climbs_s=(5.0, 10.0, 20.0, 40.0, 80.0), cold_s=10.0, low=5, high=25, seeds=6),
    },
    run=run,
    draw=draw,
    finding=finding,
)
