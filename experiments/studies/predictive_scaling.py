"""``fleet study predictive_scaling``: what does a forecast add to a scaler that reacts?

The predictive scaler against reactive ones on stretches of two recorded traces, one pair for each stretch: Azure's hour
of conversations, cut into parts that are as slow as makes each last an hour, and two days each of a web service, played
eight times as fast. A season is the first day, of which nothing counts but what was learnt; of Azure's hour nobody
knows one, and ten minutes are as good as any. To see what a forecast can do at best there are phases that come by the
clock, every twenty minutes.

Predictive scaling reacts, too. So it stands beside itself without a forecast, and without one but with more replicas
for the same load; and beside the other use of a season, its schedule as a floor under a reactive scaler.

Question: "Predictive scaling for Amazon EC2 Auto Scaling" (AWS documentation: for demand that repeats itself, and for
applications that take long to start); Gandhi et al., "AutoScale", ACM TOCS 30(4), 2012 (prediction fails at bursts
that do not repeat, and what is left is how slowly capacity is given back).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from msgspec import Struct

from experiments.studies.charts import forest
from experiments.studies.jobs import figures_by, run_all
from experiments.studies.result import Figure, StudyResult
from experiments.studies.scaling import (
    AZURE,
    COLD_START_S,
    MEASURES,
    OBJECTIVE_S,
    RATE_PER_S,
    SERVICE_S,
    WEB,
    Job,
    aws,
    azure_part,
    fleet,
    given_part,
    hpa,
    is_there,
    knative,
    on_requests,
    predictive,
    ray_serve,
    schedule_of,
    web,
)
from experiments.studies.study import Options, Study
from policies import LatencyTarget, ScalingPolicy
from policies.scaling.scheduled import Scheduled
from policies.scaling.square_root_staffing import SquareRootStaffing
from traces import RateSeries, Trace, from_rates

BASELINE, BLIND, MORE = "predictive", "no forecast", "no forecast, 15 % more"
_MORE = 0.15
_DAY_S = 86_400.0
NO_SEASON_S = 600.0
"""What the predictive scaler is told of a trace that has no season that anybody knows."""
CLOCK_S, CLOCK_ON_S = 1200.0, 300.0
"""Period of the phases that come by the clock, and how long each lasts."""
_CLOCK_LOW, _CLOCK_HIGH = 0.5, 2.5
"""Rates between and in them, times the mean."""

Candidates = Mapping[str, Callable[[Trace, float], ScalingPolicy]]
CANDIDATES: Candidates = {
    BASELINE: lambda _, season_s: predictive(season_s=season_s),
    BLIND: lambda _, season_s: predictive(),
    MORE: lambda _, season_s: predictive(more=_MORE),
    "last season's schedule, HPA": lambda trace, season_s: Scheduled(
        schedule=schedule_of(trace.first(seconds=season_s)), period_s=season_s, scaler=hpa()
    ),
    "Kubernetes HPA": lambda _, season_s: hpa(),
    "HPA on requests": lambda _, season_s: on_requests(),
    "Knative": lambda _, season_s: knative(),
    "Ray Serve": lambda _, season_s: ray_serve(),
    "AWS target tracking": lambda _, season_s: aws(),
    "latency target": lambda _, season_s: LatencyTarget(target_s=OBJECTIVE_S),
    "square root": lambda _, season_s: SquareRootStaffing(),
}
"""Each for a trace and its season; of the trace none is told but its first season."""


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    stretches: int
    faster: float
    """Times that the web service's days are played as fast."""
    clock_periods: int
    hour_s: float = 3600.0
    """How much of each part of Azure's hour."""
    recorded: bool = True
    """Take recorded traces where they are at hand; otherwise draw some like them."""
    candidates: tuple[str, ...] = tuple(CANDIDATES)


class Traffic(Struct, frozen=True, kw_only=True):
    """One setting."""

    name: str
    traces: tuple[Trace, ...]
    season_s: float


def by_the_clock(periods: int, seed: int) -> Trace:
    """Phases of requests that begin at the same time of each period."""
    steps = np.arange(round(periods * CLOCK_S))
    per_s = np.where(steps % CLOCK_S >= CLOCK_S - CLOCK_ON_S, _CLOCK_HIGH, _CLOCK_LOW) * RATE_PER_S
    return from_rates(RateSeries(per_s, 1.0, "by the clock"), seed)


def traffic(plan: Plan, options: Options) -> dict[float, Traffic]:
    """The settings."""
    stretches = range(plan.stretches)
    clock = Traffic(
        name="by the clock",
        traces=tuple(by_the_clock(plan.clock_periods, seed) for seed in stretches),
        season_s=CLOCK_S,
    )
    if options.trace is not None:
        given = tuple(given_part(options.trace, part, plan.stretches) for part in stretches)
        return {1.0: Traffic(name=options.trace, traces=given, season_s=NO_SEASON_S), 3.0: clock}
    parts = tuple(
        azure_part(part, plan.stretches, recorded=plan.recorded).first(seconds=plan.hour_s)
        for part in stretches
    )
    service = tuple(
        web(2.0 * part * _DAY_S, 2.0 * _DAY_S, part, faster=plan.faster, recorded=plan.recorded)
        for part in stretches
    )
    return {
        1.0: Traffic(
            name="Azure" if is_there(AZURE, recorded=plan.recorded) else "drawn bursts",
            traces=parts,
            season_s=NO_SEASON_S,
        ),
        2.0: Traffic(
            name="web service" if is_there(WEB, recorded=plan.recorded) else "drawn waves",
            traces=service,
            season_s=_DAY_S / plan.faster,
        ),
        3.0: clock,
    }


def run(plan: Plan, options: Options) -> StudyResult:
    """All candidates on each stretch, of which what follows the first season counts."""
    settings = traffic(plan, options)
    candidates = {name: CANDIDATES[name] for name in plan.candidates}
    jobs = {
        (at, name, part): Job(
            trace=trace, spec=fleet(make(trace, of.season_s)), seed=part, from_s=of.season_s
        )
        for at, of in settings.items()
        for name, make in candidates.items()
        for part, trace in enumerate(of.traces)
    }
    first = next(iter(settings.values()))
    return StudyResult(
        study="predictive_scaling",
        setting="traffic",
        baseline=BASELINE,
        seeds=tuple(range(plan.stretches)),
        measures=MEASURES,
        figures=figures_by(run_all("runs", jobs, options), MEASURES, BASELINE),
        workload=f"{plan.stretches} stretches, {RATE_PER_S:g} request/s of {SERVICE_S:g} s on average, in time within "
        f"{OBJECTIVE_S:g} s; a new replica takes {COLD_START_S:g} s; two days of the web service last "
        f"{2.0 * _DAY_S / plan.faster / 3600.0:g} h",
        traces={f"{at:g}": [trace.sha256 for trace in of.traces] for at, of in settings.items()},
        specs={
            name: fleet(make(first.traces[0], first.season_s)).to_dict() for name, make in candidates.items()
        },
        setting_names={f"{at:g}": of.name for at, of in settings.items()},
    )


def finding(result: StudyResult) -> tuple[str, ...]:
    """What the forecast adds at each setting, and how the predictive scaler stands against all others."""
    return (
        *(_forecast_in_words(result, at) for at in result.settings),
        *(_others_in_words(result, at) for at in result.settings),
    )


def _forecast_in_words(result: StudyResult, at: float) -> str:
    """The baseline is the one with a forecast, so the differences turn round."""
    attained, held = (result.figure(at, BLIND, name) for name in ("attained", "held"))
    return (
        f"{result.named(at)}: the forecast adds {_turned(attained, 100.0, 'points in time')} "
        f"for {_turned(held, 1.0, 'devices')}."
    )


def _turned(figure: Figure, scale: float, unit: str) -> str:
    """With the forecast less without it."""
    difference = figure.difference
    if difference is None or difference.low is None or difference.high is None:
        return f"nothing that differs between stretches ({unit})"
    shown = "" if figure.verdict in ("better", "worse") else ", not shown"
    low, high = -difference.high * scale, -difference.low * scale
    return f"{-difference.mean * scale:+.2f} {unit} ({low:+.2f} to {high:+.2f}{shown})"


def _others_in_words(result: StudyResult, at: float) -> str:
    others = [name for name in result.candidates if name not in (BASELINE, BLIND)]
    shown = {
        (way, verdict): [name for name in others if result.figure(at, name, way).verdict == verdict]
        for way in ("attained", "held")
        for verdict in ("better", "worse")
    }
    both = {
        verdict: [name for name in shown["attained", verdict] if name in shown["held", verdict]]
        for verdict in ("better", "worse")
    }
    return (
        f"{result.named(at)}: of {len(others)} others {len(shown['attained', 'better'])} are shown to keep more in "
        f"time than the predictive scaler and {len(shown['attained', 'worse'])} less; {len(shown['held', 'better'])} "
        f"hold fewer devices and {len(shown['held', 'worse'])} more. Better in both: "
        f"{', '.join(both['better']) or 'none'}; worse in both: {', '.join(both['worse']) or 'none'}."
    )


def draw(result: StudyResult) -> str:
    """Differences to the predictive scaler with their intervals."""
    return forest(result, {"attained": "in time (points)", "held": "devices held"})


STUDY = Study(
    name="predictive_scaling",
    title="Predictive against reactive scaling, on stretches of recorded traces and by the clock",
    plans={
        "small": Plan(stretches=2, faster=48.0, clock_periods=2, hour_s=1800.0),
        "full": Plan(stretches=8, faster=8.0, clock_periods=4),
    },
    run=run,
    draw=draw,
    finding=finding,
)
