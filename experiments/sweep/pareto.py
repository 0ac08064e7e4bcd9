"""Which of many candidates are worth choosing from: the Pareto front of several objectives, within constraints.

The one thing to know: all is judged on means over a candidate's seeds, and who cannot be judged is left out by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from experiments.findings import LITTLE
from experiments.lacks import Lack, lack
from experiments.measured import Measured
from experiments.sweep.judging import Candidate, Constraint, Judging, Objective, Standing
from experiments.sweep.space import SweepError
from experiments.sweep.words import front_lines, front_table
from experiments.text import as_text

if TYPE_CHECKING:
    from rich.console import RenderableType


class Pareto(Struct, frozen=True, kw_only=True):
    """All candidates by their standing, and the one of the front to begin with."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    candidates: tuple[Candidate, ...]
    knee: str | None
    """See `KNEE`; None where the front is empty."""
    lacks: tuple[Lack, ...] = ()
    """Figures of candidates that were judged which had no value in some of their seeds: those count in no mean."""

    def names(self, standing: Standing) -> list[str]:
        """The candidates that stand so, those of a front from the best in the first objective on."""
        return [one.name for one in self.candidates if one.standing == standing]

    @property
    def front(self) -> list[str]:
        """Those that keep the constraints and that no other such is at least as good as in all, and better in one."""
        return self.names("front")

    @property
    def left_out(self) -> dict[str, str]:
        """Why each candidate was not judged."""
        return {one.name: one.why for one in self.candidates if one.standing == "left out"}

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        table = front_table(self.candidates, self.objectives, self.constraints, self.knee)
        lines = front_lines(self.candidates, self.constraints, self.knee, self.lacks)
        return Group(*([table] if self.front else []), *lines)

    def __str__(self) -> str:
        return as_text(self.__rich__())


def pareto(
    measured: Mapping[str, Sequence[Measured]],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint] = (),
) -> Pareto:
    """Where each candidate stands by the runs that were measured of it.

    Left out, with the reason, are those that lack one of the figures in every seed, those of which a run failed, and
    those that completed less than half of what was asked of them where a figure is of completed requests.
    """
    if not objectives:
        raise SweepError("a front needs an objective, such as throughput_per_s:max")
    found = [judged(name, runs, objectives, constraints) for name, runs in measured.items()]
    costs = {
        one.name: tuple(item.cost(one.means[item.key]) for item in objectives)
        for one in found
        if one.standing == "front"
    }
    front = sorted(nondominated(costs), key=lambda name: costs[name])
    figures: list[Judging] = [*objectives, *constraints]
    in_question = [one.name for one in found if one.standing != "left out"]
    return Pareto(
        objectives=tuple(objectives),
        constraints=tuple(constraints),
        candidates=tuple(_placed(found, front, behind=costs.keys() - set(front))),
        knee=knee_of({name: costs[name] for name in front}),
        lacks=tuple(_lacks(in_question, figures, measured)),
    )


def _placed(found: Sequence[Candidate], front: Sequence[str], behind: Set[str]) -> list[Candidate]:
    """Those on the front first, in its order; the others as they came."""
    placed = [replace(one, standing="dominated") if one.name in behind else one for one in found]
    order = {name: rank for rank, name in enumerate(front)}
    return sorted(placed, key=lambda one: order.get(one.name, len(order)))


def _lacks(
    names: Sequence[str], figures: Sequence[Judging], measured: Mapping[str, Sequence[Measured]]
) -> Iterator[Lack]:
    for name, figure in product(names, figures):
        if (missing := lack(figure.metric, name, measured[name])) is not None:
            yield missing


def judged(
    name: str, runs: Sequence[Measured], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> Candidate:
    """On the front until another one dominates it, unless it cannot be there."""
    figures: list[Judging] = [*objectives, *constraints]
    means = means_of(runs, [one.key for one in figures])
    if why := _not_judged(runs, figures, means):
        return Candidate(name=name, standing="left out", means=means, why=why)
    broken = [str(one) for one in constraints if not one.kept(means[one.key])]
    standing: Standing = "infeasible" if broken else "front"
    return Candidate(name=name, standing=standing, means=means, why=", ".join(broken))


def means_of(runs: Sequence[Measured], keys: Sequence[str]) -> dict[str, float]:
    """The mean of each figure over the runs that have it; without those that none has."""
    values = {key: [value for run in runs if (value := run.values.get(key)) is not None] for key in keys}
    return {key: fmean(found) for key, found in values.items() if found}


def _not_judged(runs: Sequence[Measured], figures: Sequence[Judging], means: Mapping[str, float]) -> str:
    failed = [run for run in runs if run.error is not None]
    if failed or not runs:
        return f"{len(failed)} of {len(runs)} runs failed: {failed[0].error}" if failed else "it has no runs"
    submitted, completed = (sum(getattr(run, name) for run in runs) for name in ("submitted", "completed"))
    if submitted and completed < LITTLE * submitted and not all(one.metric.of_all for one in figures):
        return f"it completed {completed / submitted:.1%} of its requests"
    lacks = [lack(one.metric, runs[0].candidate, runs) for one in figures if one.key not in means]
    return ", ".join(f"no value of {one.label}{f' ({one.why})' if one.why else ''}" for one in lacks if one)


Costs = tuple[float, ...]


def nondominated(costs: Mapping[str, Costs]) -> list[str]:
    """The names that no other dominates, in the order given.

    Sorted by cost, only what comes before a candidate can dominate it, and of that only what is on the front itself.
    """
    front: list[Costs] = []
    for cost in sorted(set(costs.values())):
        if not any(all(a <= b for a, b in zip(other, cost, strict=True)) for other in front):
            front.append(cost)
    best = set(front)
    return [name for name, cost in costs.items() if cost in best]


def knee_of(costs: Mapping[str, Costs]) -> str | None:
    """The member of a front that `KNEE` says; of several equally near, the first."""
    if not costs:
        return None
    lows, highs = (tuple(map(end, zip(*costs.values(), strict=True))) for end in (min, max))

    def distance(cost: Costs) -> float:
        scaled = [
            (c - low) / (high - low) for c, low, high in zip(cost, lows, highs, strict=True) if high > low
        ]
        return sum((share * share for share in scaled), 0.0)

    return min(costs, key=lambda name: distance(costs[name]))
