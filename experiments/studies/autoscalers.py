"""``fleet study autoscalers``: what does each way of scaling keep in time, and for how many devices?

Every scaler of the library, with the windows and delays that it has where nobody says otherwise, serves the same
kinds of traffic: Azure's hour of conversations, two hours of a web service's at a time, with its bursts to four times
the rate, and phases of requests with nothing between them, where a fleet may go to none. All are set to the same load
of a replica. A new one takes 40 s, twice the objective. Beside them stand a fixed number, for the mean and for the peak
minute, and the schedule of somebody who knew the trace: the M/M/c queue's answer for every minute. A fourth kind is a
language model that serves Azure's hour token by token, for those scalers that go by what such a replica has.

Question: Gandhi et al., "AutoScale: Dynamic, Robust Capacity Management for Multi-Tier Data Centers", ACM TOCS 30(4),
2012 (reactive scaling with long set-up times breaks objectives or wastes servers); Shahrad et al., "Serverless in the
Wild", USENIX ATC 2020 (cold starts against idle time, where there may be none).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from experiments.plots import PALETTE, WIDTH, legend_above, new_figure
from experiments.studies.charts import compact_svg
from experiments.studies.jobs import figures_by, run_all
from experiments.studies.result import StudyResult
from experiments.studies.scaling import (
    BUSY,
    COLD_START_S,
    IN_HINDSIGHT,
    LLM_SCALERS,
    MEASURES,
    OBJECTIVE_S,
    ON_S,
    RATE_PER_S,
    SCALERS,
    SERVICE_S,
    Job,
    bursts,
    fleet,
    late_from_none,
    llm_fleet,
    llm_hour,
    on_off,
)
from experiments.studies.study import Options, Study
from experiments.sweep.pareto import nondominated
from fleet import FleetSpec
from policies import ScalingPolicy
from traces import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BASELINE = "Kubernetes HPA"
TO_NONE, TOKENS = 3.0, 4.0
"""The setting in which a fleet may have no replica, and the one in which replicas serve token by token."""
_MARKERS = "osD"


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    seeds: int
    web_s: float
    """Length of each part of the web service's trace."""
    on_off_s: float
    llm_s: float
    """How much of the hour is served token by token."""
    hour_s: float = 3600.0
    """How much of Azure's hour."""
    recorded: bool = True
    """Take recorded traces where they are at hand; otherwise draw some like them."""


def traffic(plan: Plan, options: Options) -> dict[float, tuple[str, list[Trace]]]:
    """The settings: what each is called, and its traces, one for each seed."""
    seeds = range(plan.seeds)
    recorded = bursts(
        plan.seeds, hour_s=plan.hour_s, web_s=plan.web_s, recorded=plan.recorded, given=options.trace
    )
    return {
        **{float(number): named for number, named in enumerate(recorded.items(), start=1)},
        TO_NONE: ("on and off", [on_off(plan.on_off_s, seed) for seed in seeds]),
        TOKENS: (
            "token by token",
            [llm_hour(seed, recorded=plan.recorded).first(seconds=plan.llm_s) for seed in seeds],
        ),
    }


def scalers_of(at: float) -> Mapping[str, Callable[[Trace], ScalingPolicy]]:
    """Whose turn it is in a setting."""
    return LLM_SCALERS if at == TOKENS else SCALERS


def fleet_of(at: float, scaler: ScalingPolicy) -> FleetSpec:
    """The fleet of a setting with this scaler."""
    return llm_fleet(scaler) if at == TOKENS else fleet(scaler, to_none=at == TO_NONE)


def run(plan: Plan, options: Options) -> StudyResult:
    """All scalers, with the same requests."""
    settings = traffic(plan, options)
    jobs = {
        (at, name, seed): Job(trace=trace, spec=fleet_of(at, scaler(trace)), seed=seed)
        for at, (_, of_one) in settings.items()
        for name, scaler in scalers_of(at).items()
        for seed, trace in enumerate(of_one)
    }
    first = settings[1.0][1][0]
    return StudyResult(
        study="autoscalers",
        setting="traffic",
        baseline=BASELINE,
        seeds=tuple(range(plan.seeds)),
        measures=MEASURES,
        figures=figures_by(run_all("runs", jobs, options), MEASURES, BASELINE),
        workload=f"{RATE_PER_S:g} request/s on average, {SERVICE_S:g} s each, in time within {OBJECTIVE_S:g} s; "
        f"a new replica takes {COLD_START_S:g} s; all are set to {100.0 * BUSY:g} % busy",
        traces={f"{at:g}": [trace.sha256 for trace in of_one] for at, (_, of_one) in settings.items()},
        specs={
            name: fleet_of(at, scaler(first)).to_dict()
            for at in (TOKENS, 1.0)
            for name, scaler in scalers_of(at).items()
        },
        setting_names={f"{at:g}": name for at, (name, _) in settings.items()},
    )


def blind(at: float) -> list[str]:
    """Those of a setting that do not know the trace."""
    return [name for name in scalers_of(at) if name not in IN_HINDSIGHT]


def front(result: StudyResult, at: float) -> list[str]:
    """Who is on the front of requests in time against devices held, without those that knew the trace; by devices."""
    costs = {name: (-result.mean(at, name, "attained"), result.mean(at, name, "held")) for name in blind(at)}
    return sorted(nondominated(costs), key=lambda name: costs[name][1])


def finding(result: StudyResult) -> tuple[str, ...]:
    """Who is on the front, what hindsight is worth, what none costs, and who changes most."""
    return (
        *(_front_in_words(result, at) for at in result.settings),
        *(_hindsight_in_words(result, at) for at in result.settings if at != TOKENS),
        _none_in_words(result),
    )


def _front_in_words(result: StudyResult, at: float) -> str:
    said = [
        f"{name} ({100.0 * result.mean(at, name, 'attained'):.1f} % in time, {result.mean(at, name, 'held'):.1f} held)"
        for name in front(result, at)
    ]
    better = {
        way: [name for name in blind(at) if result.figure(at, name, way).verdict == "better"]
        for way in ("attained", "held")
    }
    both = [name for name in better["attained"] if name in better["held"]]
    than = f"than {result.baseline}"
    shown = (
        f"shown to be better {than} in both: {', '.join(both)}"
        if both
        else f"none shown better {than} in both"
    )
    return f"{result.named(at)}: on the front are {', '.join(said)}; {shown}."


def _hindsight_in_words(result: StudyResult, at: float) -> str:
    least = result.mean(at, "schedule in hindsight", "held")
    attained = result.mean(at, "schedule in hindsight", "attained")
    as_good = {
        name: result.mean(at, name, "held")
        for name in blind(at)
        if result.mean(at, name, "attained") >= attained
    }
    head = f"{result.named(at)}: who knows the trace keeps {100.0 * attained:.1f} % in time with {least:.1f} devices"
    if not as_good:
        return f"{head}, and no scaler keeps as much."
    name = min(as_good, key=as_good.__getitem__)
    return f"{head}; the cheapest scaler that keeps as much, {name}, holds {as_good[name] / least:.2f} times as many."


def _none_in_words(result: StudyResult) -> str:
    bound = 100.0 * late_from_none(ON_S)
    cheapest = min(
        blind(TO_NONE),
        key=lambda name: result.mean(TO_NONE, name, "held"),
    )
    held = result.mean(TO_NONE, cheapest, "held")
    late = 100.0 * (1.0 - result.mean(TO_NONE, cheapest, "attained"))
    fixed = result.mean(TO_NONE, "fixed at the peak", "held")
    return (
        f"{result.named(TO_NONE)}: {cheapest} holds fewest, {held:.1f} devices where a fleet for the peak "
        f"holds {fixed:.1f}, and is late for {late:.0f} %; whoever has none when a phase begins is "
        f"late for {bound:.1f} % at least."
    )


def draw(result: StudyResult) -> str:
    """Late requests against devices held: each scaler a point, and the front of those that do not know the trace."""
    figure, axes = new_figure(WIDTH, 9.0, rows=2, columns=2)
    for one, at in zip(axes, result.settings, strict=False):
        _panel(one, result, at)
    for one in axes:  # only now: a limit of one panel would hold for the one below it
        one.set_xlim(left=0.0)
    for spare in axes[len(result.settings) :]:
        spare.set_visible(False)
    legend_above(figure, axes[0])
    return compact_svg(figure, result.study)


def _panel(axes: Axes, result: StudyResult, at: float) -> None:
    there = scalers_of(at)
    late = {name: 100.0 * (1.0 - result.mean(at, name, "attained")) for name in there}
    held = {name: result.mean(at, name, "held") for name in there}
    best = front(result, at)
    axes.step(
        [held[name] for name in best],
        [late[name] for name in best],
        where="post",
        color="#888888",
        linewidth=1.0,
    )
    names = result.candidates if at == result.settings[0] else there
    for name in names:
        index = result.candidates.index(name)
        colour = PALETTE[index % len(PALETTE)]
        axes.plot(
            [held.get(name, math.nan)], [late.get(name, math.nan)], linestyle="", markersize=5.5, label=name,
            color=colour, marker=_MARKERS[index // len(PALETTE)],
            markerfacecolor="none" if name in IN_HINDSIGHT else colour,
        )  # fmt: skip
    axes.set_xlabel(f"devices held on average ({result.named(at)})")
    axes.set_ylabel("late (% of requests)")
    axes.xaxis.set_tick_params(labelbottom=True)
    axes.set_ylim(-0.04 * max(late.values()), 1.08 * max(late.values()))


STUDY = Study(
    name="autoscalers",
    title="Autoscalers: requests in time against devices held, on bursts that were recorded and from none",
    plans={
        "small": Plan(seeds=2, web_s=2400.0, on_off_s=2400.0, llm_s=300.0, hour_s=1800.0),
        "full": Plan(seeds=8, web_s=7200.0, on_off_s=7200.0, llm_s=3600.0),
    },
    run=run,
    draw=draw,
    finding=finding,
)
