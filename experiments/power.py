"""How many seeds a study needs: from a pilot, what effect so many of them would show.

The test is the one of `compare`: Student's t over paired differences, at the level that Holm's correction leaves to the
least of the verdicts. Source: Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988, chapter 2 (paired
samples); the noncentral t of Johnson, Kotz, Balakrishnan, "Continuous Univariate Distributions", vol. 2, chapter 31.
"""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from msgspec import Struct

from experiments.findings import LEVEL, Findings, Row
from experiments.text import as_text, plain_number
from traces.values import BadValue

if TYPE_CHECKING:
    from rich.table import Table

MOST_SEEDS = 10_000
"""More than anybody runs: what needs more is answered with None."""


class Power(Struct, frozen=True, kw_only=True):
    """What is needed to show one candidate's effect on one metric."""

    metric: str
    label: str
    candidate: str
    effect: float
    """Relative to the baseline's mean: 0.05 is five per cent of it."""
    pilot_seeds: int
    deviation: float
    """Standard deviation of the paired differences in the pilot, relative to the baseline's mean; of the logarithms of
    the ratios, where the pilot is judged on their scale."""
    level: float
    """Of the test, after the correction for as many verdicts as the pilot's family has."""
    power: float
    """The chance of a verdict, if the effect is there."""
    seeds: int | None
    """The fewest that have that chance; None: not with `MOST_SEEDS`."""


class PowerReport(list[Power]):
    """One `Power` for each candidate and metric; `print` is the table."""

    def table(self) -> Table:
        """The rich table."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        first = self[0] if self else None
        title = "Nothing to plan by: the pilot has no differences with a spread" if first is None else (
            f"Seeds for a {first.power:.0%} chance to show {first.effect:.1%}, from {first.pilot_seeds} seeds"
        )  # fmt: skip
        table = Table(title=Text(title, style="table.title"), title_justify="left", box=SIMPLE_HEAD)
        table.add_column("metric")
        table.add_column("candidate")
        for heading in ("deviation", "level", "seeds"):
            table.add_column(heading, justify="right")
        for one in self:
            seeds = f"{one.seeds:,}" if one.seeds is not None else f"more than {MOST_SEEDS:,}"
            table.add_row(
                Text(one.label), Text(one.candidate), f"{one.deviation:.2%}", plain_number(one.level), seeds
            )
        return table

    def __str__(self) -> str:
        return as_text(self.table())


def power(pilot: Findings, effect: float, *, metric: str | None = None, chance: float = 0.8) -> PowerReport:
    """How many seeds show a difference of `effect` (0.05: five per cent of the baseline's mean) with this `chance`.

    Of each candidate's figures that the pilot judges: those of its primary metric, or of `metric` (a key), or else all.
    A pilot of five seeds knows the deviation to within a factor of two or so: plan with a margin. Figures without a
    spread, and those whose baseline is 0, are left out.

    Raises `ValueError` for an effect that is not above 0, a chance outside (0, 1), or a metric that the pilot does not
    have.
    """
    if not 0.0 < effect < math.inf or not 0.0 < chance < 1.0:
        raise BadValue(
            "", f"an effect above 0 and a chance between 0 and 1 are wanted; got {effect:g}, {chance:g}"
        )
    keys = dict.fromkeys(row.metric for row in pilot.rows)
    if metric is not None and metric not in keys:
        raise BadValue("", f"the pilot has no {metric!r}; it has {', '.join(keys)}")
    found = PowerReport()
    for row in pilot.rows:
        asked = row.metric == metric if metric is not None else row.family != "secondary"
        judgeable = row.better != "neither" and row.verdict != "too little completed"
        deviation = _deviation(pilot, row) if asked and judgeable else None
        if deviation is None:
            continue
        shift = math.log1p(effect) if _of_ratios(row) else effect
        judged = sum(one.family == row.family and one.p_adjusted is not None for one in pilot.rows)
        level = LEVEL / max(1, judged)
        needed = seeds_needed(shift / deviation, level=level, chance=chance)
        found.append(
            Power(
                metric=row.metric,
                label=row.label,
                candidate=row.candidate,
                effect=effect,
                pilot_seeds=len(pilot.seeds),
                deviation=deviation,
                level=level,
                power=chance,
                seeds=needed,
            )
        )
    return found


def _of_ratios(row: Row) -> bool:
    return row.difference is not None and row.difference.scale == "ratio"


def _deviation(pilot: Findings, row: Row) -> float | None:
    """Of what the test is on, as `Power.deviation` has it; None where there is none to speak of."""
    if row.candidate == pilot.baseline:
        return None
    pairs = [
        (mine, its)
        for one, other in zip(pilot.measured[row.candidate], pilot.measured[pilot.baseline], strict=True)
        if (mine := one.values.get(row.metric)) is not None
        and (its := other.values.get(row.metric)) is not None
    ]
    if len(pairs) < 2:
        return None
    if _of_ratios(row):
        return stdev(math.log(mine / its) for mine, its in pairs) or None
    base = fmean(its for _, its in pairs)
    return stdev(mine - its for mine, its in pairs) / abs(base) or None if base else None


def seeds_needed(standardised: float, *, level: float, chance: float) -> int | None:
    """The fewest pairs with this chance to show an effect of so many standard deviations of the paired differences."""
    if chance_of(standardised, MOST_SEEDS, level=level) < chance:
        return None
    low, high = 1, MOST_SEEDS  # low is too few, high is enough
    while high - low > 1:
        middle = (low + high) // 2
        if chance_of(standardised, middle, level=level) < chance:
            low = middle
        else:
            high = middle
    return high


def chance_of(standardised: float, seeds: int, *, level: float) -> float:
    """The chance that a two-sided t test over so many pairs is significant at `level`."""
    from scipy import stats

    if seeds < 2:
        return 0.0
    edge = float(stats.t.ppf(1.0 - level / 2.0, seeds - 1))
    shift = standardised * math.sqrt(seeds)
    if shift - edge > 40.0:  # where the noncentral t has no digits left
        return 1.0
    return float(stats.nct.sf(edge, seeds - 1, shift) + stats.nct.cdf(-edge, seeds - 1, shift))
