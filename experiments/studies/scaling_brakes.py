"""``fleet study scaling_brakes``: what are windows, delays and panic for?

Three systems that scale on requests in flight each have something against bursts: Kubernetes does not go down before
300 s of lower recommendations are over, Ray Serve not before 600 s, and Knative goes by its last 6 s once they ask for
twice of what there is. Each is run as it comes and without that, on the same bursts.

Question: Kubernetes documentation, "Horizontal Pod Autoscaling" (the stabilization window, against flapping); Ray
Serve, "Advanced Ray Serve Autoscaling" (`downscale_delay_s`); Knative Serving, "Additional autoscaling configuration
for Knative Pod Autoscaler" (panic mode, for bursts).
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from experiments.studies.charts import forest
from experiments.studies.jobs import figures_by, run_all
from experiments.studies.result import StudyResult
from experiments.studies.scaling import (
    COLD_START_S,
    MEASURES,
    OBJECTIVE_S,
    RATE_PER_S,
    SERVICE_S,
    Job,
    bursts,
    fleet,
    knative,
    on_requests,
    ray_serve,
)
from experiments.studies.study import Options, Study
from policies import ScalingPolicy

BASELINE, WITHOUT = "as it comes", "without"
MEASURED = tuple(
    replace(measure, better="lower") if measure.name == "changes" else measure for measure in MEASURES
)
"""The number of changes is part of the question here."""
BRAKES: Mapping[str, Mapping[str, ScalingPolicy]] = {
    "HPA, 300 s window": {BASELINE: on_requests(), WITHOUT: on_requests(down_stabilization_s=0.0)},
    "Ray Serve, 600 s delay": {BASELINE: ray_serve(), WITHOUT: ray_serve(downscale_delay_s=0.0)},
    "Knative, panic": {BASELINE: knative(), WITHOUT: knative(panic=False)},
}


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    seeds: int
    web_s: float
    """Length of each part of the web service's trace."""
    hour_s: float = 3600.0
    """How much of Azure's hour."""
    recorded: bool = True
    """Take recorded traces where they are at hand; otherwise draw some like them."""


def run(plan: Plan, options: Options) -> StudyResult:
    """Each system with and without its brake, on each kind of traffic."""
    traces = bursts(
        plan.seeds, hour_s=plan.hour_s, web_s=plan.web_s, recorded=plan.recorded, given=options.trace
    )
    jobs: dict[tuple[float, str, int], Job] = {}
    names: dict[str, str] = {}
    for brake, scalers in BRAKES.items():
        for traffic_name, of_one in traces.items():
            at = float(len(names) + 1)
            names[f"{at:g}"] = f"{brake}; {traffic_name}"
            for name, scaler in scalers.items():
                for seed, trace in enumerate(of_one):
                    jobs[at, name, seed] = Job(trace=trace, spec=fleet(scaler), seed=seed)
    return StudyResult(
        study="scaling_brakes",
        setting="brake",
        baseline=BASELINE,
        seeds=tuple(range(plan.seeds)),
        measures=MEASURED,
        figures=figures_by(run_all("runs", jobs, options), MEASURED, BASELINE),
        workload=f"{RATE_PER_S:g} request/s on average, {SERVICE_S:g} s each, in time within {OBJECTIVE_S:g} s; "
        f"a new replica takes {COLD_START_S:g} s",
        traces={name: [trace.sha256 for trace in of_one] for name, of_one in traces.items()},
        specs={
            f"{brake}, {name}": fleet(scaler).to_dict()
            for brake, scalers in BRAKES.items()
            for name, scaler in scalers.items()
        },
        setting_names=names,
    )


def finding(result: StudyResult) -> tuple[str, ...]:
    """What each brake does to changes, requests in time and devices."""
    return tuple(_in_words(result, at) for at in result.settings)


def _in_words(result: StudyResult, at: float) -> str:
    said = []
    for measure in result.measures:
        if measure.better == "neither":
            continue
        with_it, without = (result.mean(at, name, measure.name) for name in (BASELINE, WITHOUT))
        verdict = result.figure(at, WITHOUT, measure.name).verdict
        shown = "shown" if verdict in ("better", "worse") else "not shown"
        said.append(
            f"{measure.label} {measure.scale * without:.3g} without, {measure.scale * with_it:.3g} with ({shown})"
        )
    return f"{result.named(at)}: {'; '.join(said)}."


def draw(result: StudyResult) -> str:
    """Differences that it makes to go without, with their intervals."""
    labels = {"changes": "changes/h", "attained": "in time (points)", "held": "devices held"}
    return forest(result, labels)


STUDY = Study(
    name="scaling_brakes",
    title="Windows, delays and panic: three systems with and without what they have against bursts",
    plans={
        "small": Plan(seeds=3, web_s=3600.0),
        "full": Plan(seeds=8, web_s=7200.0),
    },
    run=run,
    draw=draw,
    finding=finding,
)
