"""``fleet study canary_gate``: how soon is a bad version caught, and how often a good one rejected?

A part of the requests goes to a new version of a model, for a minute. It is as good as the old one, of which one
request in a hundred fails; or it fails more often, or it is slower. The gates look whenever `min_requests` more were
sent to it, and each look is held to a level such that all of them together reject a good one with a probability of at
most `alpha` for each gate. A version that was looked at and passed is promoted.

Question: Beyer et al., "The Site Reliability Workbook", 2018, chapter 16 (canary population and duration against
exposure); Johari et al., "Peeking at A/B Tests", KDD 2017 (what looking often does to false alarms).
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow.compute as pc
from msgspec import Struct

from experiments.serving import stages_of
from experiments.studies.charts import Panel, lines
from experiments.studies.failing import FailingEngine
from experiments.studies.jobs import figures_by, run_all
from experiments.studies.result import Measure, StudyResult
from experiments.studies.study import Options, Study
from experiments.studies.workloads import arrivals
from fleet import AffineLatency, FleetSpec, ModelPolicies, PoolSpec, Run, simulate
from policies import Canary, Gates, NoBatching, NoRetry
from traces import Trace

RATE_PER_S = 20.0
SERVICE_S, SERVICE_CV, REPLICAS = 0.05, 0.5, 4
"""Of each version: a quarter busy with all the traffic, so that nothing waits for long."""
FAILING = 0.01
"""Share of requests that fail, of the old version and of one that is as good."""
MODEL, OLD, NEW = "m", "1", "2"


def _version(*, failing: float = FAILING, slowness: float = 1.0) -> FailingEngine:
    latency = AffineLatency(base_s=SERVICE_S * slowness, per_item_s=0.0, jitter_cv=SERVICE_CV)
    return FailingEngine(latency=latency, failing=failing)


GOOD = "as good"
VERSIONS: Mapping[str, FailingEngine] = {
    GOOD: _version(),
    "5 % fail": _version(failing=0.05),
    "20 % fail": _version(failing=0.2),
    "all fail": _version(failing=1.0),
    "1.3x slower": _version(slowness=1.3),
    "2x slower": _version(slowness=2.0),
}
BAD = tuple(name for name in VERSIONS if name != GOOD)
CANDIDATES: Mapping[str, tuple[float, float]] = {
    "5 % of requests": (0.05, 0.01),
    "20 %": (0.2, 0.01),
    "20 %, alpha 0.2": (0.2, 0.2),
    "50 %": (0.5, 0.01),
}
"""Share and alpha, 0.01 where none is named."""
BASELINE = "5 % of requests"
_SUBTLE = ("5 % fail", "1.3x slower")
MEASURES = (
    Measure(name="rejected", label="good: back (%)", better="lower", scale=100.0),
    Measure(name="undecided", label="good: open (%)", better="lower", scale=100.0),
    Measure(name="let_through", label="bad: kept (%)", better="lower", scale=100.0),
    *(
        Measure(name=f"caught, {bad}", label=f"{bad}: back (%)", better="higher", scale=100.0, shown=bad in _SUBTLE)
        for bad in BAD
    ),
    *(
        Measure(name=f"exposed, {bad}", label=f"{bad}: seen by", better="lower", shown=bad != "1.3x slower")
        for bad in BAD
    ),
)  # fmt: skip
"""`back`: rolled back; `open`: left undecided; `kept`: promoted, of all the bad versions together; `seen by`: so many
requests up to the decision, or to the end where there was none."""


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    min_requests: tuple[int, ...]
    seeds: int
    bake_s: float = 60.0
    """From the first request to a promotion."""
    candidates: tuple[str, ...] = tuple(CANDIDATES)


def spec_of(candidate: str, min_requests: int, bake_s: float, version: str) -> FleetSpec:
    """The fleet of a candidate, in which that is the new version."""
    share, alpha = CANDIDATES[candidate]
    gates = Gates(min_requests=min_requests, alpha=alpha)
    rollout = Canary(stable=OLD, version=NEW, share=share, bake_s=bake_s, gates=gates)
    return FleetSpec(
        replicas=REPLICAS,
        batching=NoBatching(),
        retry=NoRetry(),
        pools={
            "old": PoolSpec(model=MODEL, version=OLD, engine=_version()),
            "new": PoolSpec(model=MODEL, version=NEW, engine=VERSIONS[version]),
        },
        models={MODEL: ModelPolicies(rollout=rollout)},
    )


class Verdict(Struct, frozen=True, kw_only=True):
    """What became of one rollout."""

    rolled_back: bool
    promoted: bool
    exposed: int
    """Requests to the new version up to then, or to the end where there was no decision."""


def verdict_of(run: Run) -> Verdict:
    """By the last stage that its policy reported."""
    last = stages_of(run, MODEL)[-1]
    rolled_back, promoted = last.stage.startswith("rolled back"), last.stage.startswith("promoted")
    exposed = pc.equal(run.records["version"], NEW)
    if promoted:
        exposed = pc.and_(exposed, pc.less(run.records["arrived_s"], last.time_s))
    return Verdict(rolled_back=rolled_back, promoted=promoted, exposed=pc.sum(exposed).as_py() or 0)


class Job(Struct, frozen=True, kw_only=True):
    """A rollout of each version."""

    trace: Trace
    specs: Mapping[str, FleetSpec]
    seed: int

    def run(self) -> dict[str, float]:
        """The measures."""
        found = {
            version: verdict_of(simulate(self.trace, spec, seed=self.seed, check=False))
            for version, spec in self.specs.items()
        }
        good = found[GOOD]
        return {
            "rejected": float(good.rolled_back),
            "undecided": float(not good.rolled_back and not good.promoted),
            "let_through": sum(found[bad].promoted for bad in BAD) / len(BAD),
            **{f"caught, {bad}": float(found[bad].rolled_back) for bad in BAD},
            **{f"exposed, {bad}": float(found[bad].exposed) for bad in BAD},
        }


def run(plan: Plan, options: Options) -> StudyResult:
    """A rollout of each version, for each candidate, look size and seed."""
    seeds = range(plan.seeds)
    traces = [arrivals(RATE_PER_S, plan.bake_s + 2.0, seed, options.trace) for seed in seeds]
    jobs: dict[tuple[float, str, int], Job] = {}
    for least in plan.min_requests:
        for name in plan.candidates:
            specs = {version: spec_of(name, least, plan.bake_s, version) for version in VERSIONS}
            for seed, trace in zip(seeds, traces, strict=True):
                jobs[float(least), name, seed] = Job(trace=trace, specs=specs, seed=seed)
    first = plan.min_requests[0]
    return StudyResult(
        study="canary_gate",
        setting="min_requests",
        baseline=BASELINE,
        seeds=tuple(seeds),
        measures=MEASURES,
        figures=figures_by(run_all("rollouts of six versions", jobs, options), MEASURES, BASELINE),
        workload=f"{RATE_PER_S:g} requests/s of {options.trace or 'a Poisson process'}, promoted after "
        f"{plan.bake_s:g} s; {100.0 * FAILING:g} % of requests fail at the old version",
        traces={"all": [trace.sha256 for trace in traces]},
        specs={name: spec_of(name, first, plan.bake_s, GOOD).to_dict() for name in plan.candidates},
    )


def draw(result: StudyResult) -> str:
    """Wrong decisions, what is caught late or never, and what catching costs, against the size of a look."""
    panels = (
        Panel(measure="rejected", label="good: rolled back (%)", band=False),
        Panel(measure="let_through", label="bad: promoted (%)", band=False),
        Panel(measure="caught, 5 % fail", label="5 % fail: rolled back (%)", band=False),
        Panel(measure="caught, 1.3x slower", label="1.3x slower: rolled back (%)", band=False),
        Panel(measure="exposed, 20 % fail", label="20 % fail: requests exposed", log=True, band=False),
        Panel(measure="exposed, all fail", label="all fail: requests exposed", log=True, band=False),
    )
    label = "requests between looks (min_requests)"
    return lines(result, panels, label, x_log=True, x_ticks=result.settings)


STUDY = Study(
    name="canary_gate",
    title="Canary gates: bad versions caught and good ones rejected, by share and by requests between looks",
    plans={
        "small": Plan(min_requests=(10, 30), seeds=3, bake_s=40.0),
        "full": Plan(min_requests=(10, 30, 100), seeds=24),
    },
    run=run,
    draw=draw,
)
