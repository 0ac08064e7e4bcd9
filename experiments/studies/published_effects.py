"""``fleet study published_effects``: does each policy do here what its source says of it?

For each policy of the library that no other study is about there is a claim of its source, and the smallest pair of
fleets in which that should show: one with the policy, one with what it is to be better than, and the same in everything
else. The same requests, faults and seeds come to both. All differences are judged together. A claim that does not
appear is a finding: `note` says why, where that is known.

Question: that of each policy's source, which `fleet policies NAME` names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from experiments.effects.effect import Effect, Shown, difference_of
from experiments.effects.found import all_effects
from experiments.paired import Difference, holm
from experiments.plots.style import WIDTH, log_ticks, named_rows, new_figure
from experiments.studies.charts import compact_svg
from experiments.studies.jobs import run_all
from experiments.studies.result import StudyResult
from experiments.studies.study import Options, Study
from experiments.text import plain_number, signed_number

if TYPE_CHECKING:
    from rich.table import Table

MOST_RATIO = 100.0
"""What is further apart is drawn as if it were this far."""
_COLOURS: dict[Shown, tuple[str, str]] = {
    "as published": ("#00664a", "D"),
    "not shown": ("#555555", "o"),
    "the other way": ("#c04a00", "s"),
}


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    seeds: int | None
    """None: as many as each effect says."""
    policies: tuple[str, ...] | None = None
    """None: all."""
    first_seed: int = 100
    """Effects were tried out with the seeds from 0 on, and changed after a look. These nobody had looked at."""


class EffectFound(Struct, frozen=True, kw_only=True):
    """What came of one claim."""

    policy: str
    claim: str
    against: str
    figure: str
    better: Literal["lower", "higher"]
    candidate: tuple[float, ...]
    """The figure with the policy, by seed, and..."""
    baseline: tuple[float, ...]
    """...without."""
    difference: Difference
    p_adjusted: float | None
    shown: Shown
    note: str | None = None


class EffectsFound(StudyResult, frozen=True, kw_only=True, omit_defaults=True):
    """Every claim, and what came of it. Corrected by Holm over all of them."""

    effects: tuple[EffectFound, ...] = ()

    def table(self, title: str) -> Table:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        counts = {shown: sum(one.shown == shown for one in self.effects) for shown in _COLOURS}
        said = ", ".join(f"{count} {shown}" for shown, count in counts.items())
        caption = f"{said}; {self.workload} (paired, 95 %, corrected by Holm)"
        table = Table(
            title=title, title_justify="left", box=SIMPLE_HEAD, caption=caption, caption_justify="left"
        )
        headings, rows = self.cells()
        for index, heading in enumerate(headings):
            table.add_column(heading, justify="right" if index in (3, 4, 5) else "left")
        for row in rows:
            table.add_row(*row)
        return table

    def cells(self) -> tuple[list[str], list[list[str]]]:
        headings = ["policy", "claim", "figure", "with", "against", "difference", "shown"]
        return headings, [
            [
                f"{one.policy}, against {one.against}",
                one.claim if one.note is None else f"{one.claim}; {one.note}",
                one.figure,
                plain_number(_mean(one.candidate)),
                plain_number(_mean(one.baseline)),
                _with_interval(one.difference),
                one.shown,
            ]
            for one in self.effects
        ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _with_interval(difference: Difference) -> str:
    if difference.low is None or difference.high is None:
        return signed_number(difference.mean)
    ends = f"{signed_number(difference.low)} to {signed_number(difference.high)}"
    return f"{signed_number(difference.mean)} ({ends})"


class Job(Struct, frozen=True, kw_only=True):
    """One pair of runs, whose traffic is made where it is run."""

    effect: Effect
    seed: int

    def run(self) -> tuple[float, float]:
        """The figure with the policy, and without."""
        return self.effect.job(self.seed).run()


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def run(plan: Plan, options: Options) -> EffectsFound:
    """Every effect, each under its own traffic. Raises `ValueError` where some other is named."""
    if options.trace is not None:
        raise ValueError("every effect has traffic of its own; leave --trace out")
    effects = [one for one in all_effects() if plan.policies is None or one.policy in plan.policies]
    seeds = [range(one.seeds if plan.seeds is None else min(plan.seeds, one.seeds)) for one in effects]
    jobs = {
        (index, seed): Job(effect=effect, seed=plan.first_seed + seed)
        for index, effect in enumerate(effects)
        for seed in seeds[index]
    }
    pairs = run_all("pairs of runs", jobs, options)
    found = [[pairs[index, seed] for seed in of_one] for index, of_one in enumerate(seeds)]
    return EffectsFound(
        study="published_effects",
        setting="effect",
        baseline="what each is held against",
        seeds=tuple(plan.first_seed + seed for seed in range(max(map(len, seeds), default=0))),
        measures=(),
        figures=(),
        workload=f"each claim's own traffic, {_span([len(of_one) for of_one in seeds])} seeds",
        traces={},
        specs={},
        effects=judged(effects, found),
    )


def judged(effects: Sequence[Effect], pairs: Sequence[list[tuple[float, float]]]) -> tuple[EffectFound, ...]:
    """What the pairs of each effect say, corrected over all that there are."""
    differences = [difference_of(of_one) for of_one in pairs]
    tested = [index for index, one in enumerate(differences) if one.p_value is not None]
    adjusted = dict(zip(tested, holm([differences[index].p_value or 0.0 for index in tested]), strict=True))
    return tuple(
        EffectFound(
            policy=effect.policy, claim=effect.claim, against=effect.against, figure=effect.figure,
            better=effect.better, candidate=tuple(one for one, _ in pairs[index]),
            baseline=tuple(other for _, other in pairs[index]), difference=differences[index],
            p_adjusted=adjusted.get(index), shown=effect.shown(differences[index], adjusted.get(index)),
            note=effect.note,
        )
        for index, effect in enumerate(effects)
    )  # fmt: skip


def ratios(one: EffectFound) -> list[float]:
    """With over without, by seed, turned so that below 1 is as claimed, and held to `MOST_RATIO`."""
    found = []
    for candidate, baseline in zip(one.candidate, one.baseline, strict=True):
        over, under = (candidate, baseline) if one.better == "lower" else (baseline, candidate)
        if over == under == 0.0:
            found.append(1.0)
        elif math.isfinite(over) and math.isfinite(under) and over >= 0.0 and under >= 0.0:
            ratio = over / under if under > 0.0 else MOST_RATIO
            found.append(min(max(ratio, 1.0 / MOST_RATIO), MOST_RATIO))
    return found


def draw(result: StudyResult) -> str:
    """A line for each claim: the ratio of every seed, left of 1 as claimed."""
    effects = result.effects if isinstance(result, EffectsFound) else ()
    figure, axes = new_figure(WIDTH, 0.8 + 0.17 * max(len(effects), 3))
    axes.axvline(1.0, color="#1a1a1a", linewidth=1.0)
    for shown, (colour, shape) in _COLOURS.items():
        places = [place for place, one in enumerate(effects) if one.shown == shown]
        drawn = [(place, found) for place in places if (found := ratios(effects[place]))]
        axes.hlines(
            [place for place, _ in drawn], [min(found) for _, found in drawn], [max(found) for _, found in drawn],
            color=colour, linewidth=1.4,
        )  # fmt: skip
        middle = [math.exp(_mean([math.log(one) for one in found])) for _, found in drawn]
        axes.plot(
            middle, [place for place, _ in drawn], color=colour, marker=shape, markersize=4, linestyle="none",
            label=shown,
        )  # fmt: skip
    axes.set_ylim(len(effects) - 0.4, -0.6)
    axes.set_xlabel(
        "with the policy over against (where higher is claimed, the inverse): left of 1 as claimed"
    )
    named_rows(axes, [f"{one.policy}: {one.figure}" for one in effects])
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False, fontsize=9)
    log_ticks(axes)
    return compact_svg(figure, result.study)


def finding(result: StudyResult) -> tuple[str, ...]:
    """How many claims appeared, and which did not."""
    effects = result.effects if isinstance(result, EffectsFound) else ()
    said = [
        f"{sum(one.shown == 'as published' for one in effects)} of {len(effects)} claims appear as published."
    ]
    for shown in ("not shown", "the other way"):
        names = [
            f"{one.policy} ({one.figure}, against {one.against})" for one in effects if one.shown == shown
        ]
        if names:
            said.append(f"{shown.capitalize()}: {', '.join(names)}.")
    return tuple(said)


_ONE_OF_EACH_SLOT = (
    "QueueLimit", "JoinIdleQueue", "FreshFilter", "InFlightScorer", "SoftmaxPicker", "CoDel", "TritonDynamic",
    "FairTokens", "KnativeConcurrency", "SurgeSlope", "PhiAccrual", "RetryBudget", "CircuitBreaker", "BlueGreen",
    "ByCapability",
)  # fmt: skip

STUDY = Study(
    name="published_effects",
    title="What its source says of each policy, and what came of it",
    plans={"small": Plan(seeds=3, policies=_ONE_OF_EACH_SLOT), "full": Plan(seeds=None)},
    run=run,
    draw=draw,
    finding=finding,
)
