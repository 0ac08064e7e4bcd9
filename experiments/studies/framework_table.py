"""``fleet study framework_table``: a textbook's table of serving frameworks, in numbers.

Its axes are how a framework forms batches and on what it scales. Each framework is a preset here, a fleet with its
documented defaults, and all serve the same traffic with one engine: the surge of the reference code, the same surge
fifteen times as slow, then the four workloads of its exercise, of which each names the family that it would take. The
systems that serve token by token are compared on conversations.

What a framework is chosen for besides, its operation and its interfaces, is in no number here.

Question: "Distributed AI", chapter 23, "Serving Frameworks and Practice": table 23.8.1, its first exercise, and its
project "Triton versus Ray Serve, head to head, on one model".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from experiments.plots import PALETTE, WIDTH, log_ticks, new_figure
from experiments.plots.style import plain
from experiments.studies import framework_cases as cases
from experiments.studies.charts import compact_svg
from experiments.studies.framework_cases import Capacity, Chat, Pipeline, Whole
from experiments.studies.jobs import Job, run_all
from experiments.studies.result import Figure, Measure, StudyResult, judged, paired_figures
from experiments.studies.study import Options, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BASELINE = "the text's choice (reference_text; triton, ray_serve, kserve to zero and vertex in a to d; vllm)"
ENOUGH = 0.95
"""Of the requests in time, for a fleet to be ranked by what it costs."""
MEASURES = (
    Measure(name="attainment", label="in time (%)", better="higher", scale=100.0),
    Measure(name="per_device", label="completed per device s", better="higher"),
    Measure(name="p50_s", label="e2e p50 (ms)", better="neither", scale=1000.0),
    Measure(name="p99_s", label="e2e p99 (ms)", better="neither", scale=1000.0),
    Measure(name="lost", label="not completed (%)", better="neither", scale=100.0, shown=False),
    Measure(name="gpu_seconds", label="device s", better="neither"),
    Measure(name="starts", label="cold starts", better="neither"),
    Measure(name="most", label="replicas at most", better="neither"),
    Measure(name="capacity_per_s", label="capacity (1/s a device)", better="higher"),
    Measure(name="ttft_p50_s", label="TTFT p50 (ms)", better="neither", scale=1000.0, shown=False),
    Measure(name="ttft_p99_s", label="TTFT p99 (ms)", better="lower", scale=1000.0),
    Measure(name="tpot_p99_s", label="TPOT p99 (ms)", better="neither", scale=1000.0, shown=False),
    Measure(name="cached", label="prefix hits (%)", better="neither", scale=100.0),
)
By = Literal["gpu_seconds", "capacity_per_s", "ttft_p99_s"]


class Setting(Struct, frozen=True, kw_only=True):
    """One kind of traffic, and who serves it."""

    at: float
    name: str
    candidates: tuple[str, ...]
    """The first, what the text would take, is what the others are judged against."""
    by: By = "gpu_seconds"
    """What the candidates are ranked by: the least, of those with enough in time; of capacity, the most."""
    texts: str | None = None
    """Whom the text would take, where its exercise asks."""
    second: str | None = None
    """The choice that it calls the obvious second one, as far as a preset can be that."""


SURGE, SLOW, CLASSIFIER, PIPELINE, OVERNIGHT, STARTUP, CHAT = SETTINGS = (
    Setting(at=1.0, name="surge", candidates=cases.TABLE),
    Setting(at=2.0, name="slow surge", candidates=cases.TABLE),
    Setting(
        at=3.0, name="a: classifier", candidates=cases.FIXED_FLEET, by="capacity_per_s", texts="triton",
        second="ray_serve",
    ),
    Setting(at=4.0, name="b: pipeline", candidates=cases.PIPELINE, texts="ray_serve", second="triton"),
    Setting(
        at=5.0, name="c: overnight", candidates=cases.OVERNIGHT, texts="kserve to zero", second="ray_serve to zero"
    ),
    Setting(at=6.0, name="d: hosted", candidates=cases.STARTUP, texts="vertex", second="ray_serve"),
    Setting(at=7.0, name="chat", candidates=cases.CHAT, by="ttft_p99_s"),
)  # fmt: skip


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    stretch: float
    """Of the slow surge, in times 30 s."""
    rate_step_per_s: float
    capacity_s: float
    pipeline_stretch: float
    day_s: float
    night_s: float
    startup_stretch: float
    chat_requests: int
    seeds: int
    chat_per_s: float = 24.0
    """At four replicas."""
    surge_s: float = 30.0
    """Of the reference surge, from its beginning."""


def run(plan: Plan, options: Options) -> StudyResult:
    """Every candidate of every setting, with the same traffic for all of one."""
    if options.trace is not None:
        raise ValueError("framework_table: each setting has traffic of its own; --trace has no place in it")
    seeds = range(plan.seeds)
    jobs: dict[tuple[float, str, int], Job[dict[str, float]]] = {}
    for setting in SETTINGS:
        for seed in seeds:
            make = maker(setting, plan, seed)
            jobs |= {(setting.at, name, seed): make(name) for name in setting.candidates}
    found = run_all("runs", jobs, options)
    return StudyResult(
        study="framework_table",
        setting="setting",
        baseline=BASELINE,
        seeds=tuple(seeds),
        measures=MEASURES,
        figures=figures_of(found),
        workload=f"batches of {1000 * cases.BASE_S:g} ms + {1000 * cases.PER_ITEM_S:g} ms each, in time within "
        f"{1000 * cases.OBJECTIVE_S:g} ms; the reference surge; three eighths of it over {30 * plan.stretch:g} s; "
        f"a day of {2 * plan.day_s:g} s with a night of {plan.night_s:g} s; {plan.chat_requests} requests of "
        f"conversations at {plan.chat_per_s:g} a second for 4 A100s",
        traces={},
        specs=specs_of(jobs),
        setting_names={f"{setting.at:g}": setting.name for setting in SETTINGS},
    )


def maker(setting: Setting, plan: Plan, seed: int) -> Callable[[str], Job[dict[str, float]]]:
    """What makes the run of a candidate, with this seed's traffic."""
    if setting is CLASSIFIER:
        steps = range(1, int(320.0 / plan.rate_step_per_s) + 1)
        rates = tuple(step * plan.rate_step_per_s for step in steps)
        return lambda name: Capacity(
            name=name, devices=2, rates_per_s=rates, duration_s=plan.capacity_s, seed=seed
        )
    if setting is PIPELINE:
        arrivals = cases.pipeline_surge(seed, stretch=plan.pipeline_stretch)
        return lambda name: Pipeline(name=name, trace=arrivals, seed=seed)
    if setting is CHAT:
        return lambda name: Chat(
            name=name, requests=plan.chat_requests, rate_per_s=plan.chat_per_s, replicas=4, seed=seed
        )
    if setting is SURGE:
        trace, fleet = cases.reference_surge(seed, seconds=plan.surge_s), cases.base(2, 8)
    elif setting is SLOW:
        trace, fleet = cases.slow_surge(seed, stretch=plan.stretch), cases.base(1, 4)
    elif setting is OVERNIGHT:
        trace = cases.day_and_night(seed, day_s=plan.day_s, night_s=plan.night_s)
        # All containers are Triton's: it is scaling that is compared.
        fleet = cases.under("triton", cases.base(1, 4, start_s=cases.POD_START_S))
    else:
        trace = cases.burst(seed, stretch=plan.startup_stretch)
        fleet = cases.base(1, 4, start_s=cases.INSTANCE_START_S)
    return lambda name: Whole(trace=trace, spec=cases.under(name, fleet), seed=seed)


def figures_of(found: Mapping[tuple[float, str, int], Mapping[str, float]]) -> tuple[Figure, ...]:
    """The figures of all settings, judged together, each against the first candidate of its setting."""
    figures: list[Figure] = []
    for setting in SETTINGS:
        runs = {
            name: [one for (at, candidate, _), one in found.items() if (at, candidate) == (setting.at, name)]
            for name in setting.candidates
        }
        first = setting.candidates[0]
        for measure in MEASURES:
            if measure.name in runs[first][0]:
                values = {name: [one[measure.name] for one in of_one] for name, of_one in runs.items()}
                figures += paired_figures(setting.at, measure.name, values, first)
    return judged(figures, {measure.name: measure.better for measure in MEASURES})


def specs_of(jobs: Mapping[tuple[float, str, int], Job[dict[str, float]]]) -> dict[str, object]:
    """The fleets, where a run is of one, by setting and candidate."""
    names = {setting.at: setting.name for setting in SETTINGS}
    fleets: dict[str, object] = {}
    for (at, name, _), job in jobs.items():
        if isinstance(job, Whole):
            fleets[f"{names[at]}, {name}"] = job.spec.to_dict()
        elif isinstance(job, Capacity | Chat):
            fleets[f"{names[at]}, {name}"] = job.spec().to_dict()
    return fleets


# --- what came of it ---------------------------------------------------------------------------------------


def ranked(result: StudyResult, setting: Setting) -> list[str]:
    """The candidates of a setting, the best first.

    By capacity where that is asked; else those that have enough in time by what they cost (or by their first tokens),
    then the others by how much they have in time.
    """
    names = list(setting.candidates)
    if setting.by == "capacity_per_s":
        return sorted(names, key=lambda name: -result.mean(setting.at, name, setting.by))
    in_time = {name: result.mean(setting.at, name, "attainment") for name in names}
    return sorted(
        names,
        key=lambda name: (
            (0, result.mean(setting.at, name, setting.by)) if in_time[name] >= ENOUGH else (1, -in_time[name])
        ),
    )


def finding(result: StudyResult) -> tuple[str, ...]:
    """Who comes first where, in the figures that it is ranked by."""
    return (
        _of_table(result),
        *(_of_exercise(result, one) for one in SETTINGS if one.texts),
        _of_chat(result),
    )


def _of_table(result: StudyResult) -> str:
    told = []
    for setting in (SURGE, SLOW):
        kept = [
            name for name in ranked(result, setting) if result.mean(setting.at, name, "attainment") >= ENOUGH
        ]
        told.append(
            f"In the {setting.name} {len(kept)} of {len(setting.candidates)} have {100 * ENOUGH:g} % in time"
            + (f", with the fewest device seconds {_with_cost(result, setting, kept[0])}" if kept else "")
        )
    return ". ".join(told) + "."


def _of_exercise(result: StudyResult, setting: Setting) -> str:
    """The text's choice, the obvious second one, and whoever comes first if that is neither."""
    order = ranked(result, setting)
    of_text = [name for name in (setting.texts, setting.second) if name is not None]
    text, second = of_text
    better = order.index(text) < order.index(second)
    told = (
        f"{setting.name}: {_with_cost(result, setting, text)} {'comes before' if better else 'comes after'} "
    )
    told += _with_cost(result, setting, second)
    return told + ("." if order[0] in of_text else f"; first is {_with_cost(result, setting, order[0])}.")


def _of_chat(result: StudyResult) -> str:
    first, *others = (_with_cost(result, CHAT, name) for name in ranked(result, CHAT))
    return f"{CHAT.name}: {first} is first, then {', '.join(others)}."


def _with_cost(result: StudyResult, setting: Setting, name: str) -> str:
    """A candidate with the figures that it is ranked by."""
    value = result.mean(setting.at, name, setting.by)
    if setting.by == "capacity_per_s":
        return f"{name} ({value:.0f}/s a device)"
    in_time = f"{100 * result.mean(setting.at, name, 'attainment'):.1f} % in time"
    if setting.by == "ttft_p99_s":
        return f"{name} ({in_time}, TTFT p99 {1000 * value:.0f} ms)"
    return f"{name} ({in_time}, {value:,.0f} device s)"


# --- the plot ----------------------------------------------------------------------------------------------


def draw(result: StudyResult) -> str:
    """A panel for each setting: what each candidate has in time, its capacity, or its first tokens."""
    figure, _ = new_figure(WIDTH, 11.5)
    figure.clear()  # its panels would share an axis, and these have little in common
    panels = list(figure.subplots(4, 2, height_ratios=(1.6, 1.3, 1.0, 0.8)).flat)
    for setting, one in zip(SETTINGS, panels, strict=False):
        plain(one)
        _bars(one, result, setting)
    panels[len(SETTINGS)].set_visible(False)
    return compact_svg(figure, result.study)


def _bars(axes: Axes, result: StudyResult, setting: Setting) -> None:
    """Bars, the best on top, with the device seconds of each behind its own where fleets differ in them."""
    shown = "attainment" if setting.by == "gpu_seconds" else setting.by
    measure = result.measure(shown)
    names = ranked(result, setting)[::-1]
    values = [measure.scale * result.mean(setting.at, name, shown) for name in names]
    axes.barh(names, values, color=PALETTE[0], height=0.7)
    if setting.by == "gpu_seconds":
        for place, (name, value) in enumerate(zip(names, values, strict=True)):
            cost = f"{result.mean(setting.at, name, 'gpu_seconds'):,.0f} s"
            inside = value > 50.0
            axes.text(
                value - 2.0 if inside else value + 2.0, place, cost, va="center", fontsize=7,
                ha="right" if inside else "left", color="white" if inside else "#1a1a1a",
            )  # fmt: skip
    if setting.by == "ttft_p99_s":
        log_ticks(axes)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(setting.name, fontsize=9, loc="left")
    axes.set_xlabel(measure.label + (", and device seconds" if setting.by == "gpu_seconds" else ""))


STUDY = Study(
    name="framework_table",
    title="Serving frameworks: presets of documented defaults on one surge, four workloads and conversations",
    plans={
        "small": Plan(
            stretch=2.0, rate_step_per_s=20.0, capacity_s=2.0, pipeline_stretch=2.0, day_s=60.0, night_s=600.0,
            startup_stretch=10.0, chat_requests=150, seeds=2,
        ),
        "full": Plan(
            stretch=15.0, rate_step_per_s=2.0, capacity_s=10.0, pipeline_stretch=8.0, day_s=300.0, night_s=7200.0,
            startup_stretch=40.0, chat_requests=1000, seeds=5,
        ),
    },
    run=run,
    draw=draw,
    finding=finding,
)  # fmt: skip
