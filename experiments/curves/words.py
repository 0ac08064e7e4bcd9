"""A load curve in words: the verdict first, then what a reader must know, and a table of all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.bands import Band
from experiments.curves.result import Axis, Capacity, Curve, Row
from experiments.steady import State
from experiments.text import decimals, plain_number

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

LITTLE = 0.5
"""A candidate that completed less at a rate has no latency to show there."""
WORTH_SAYING = 0.99
"""Where less was completed, it is said."""
LATE = (
    "Where a candidate falls behind, its rates count answers that came long after, and may be above what it does in a "
    "second."
)
STATES: dict[State, str] = {
    "growing": "falls behind",
    "falling": "still works off what came before",
    "unclear": "too short, or too uneven, to tell",
}


def verdict_of(curve: Curve) -> str:
    """What the curve comes to, in a sentence: what each candidate bears, or where each has its knee."""
    if curve.objective is None:
        return f"Most power, which is throughput over latency, in requests/s: {_knees(curve)}."
    ranked = sorted(curve.capacities, key=lambda one: -one.band.mean)
    known = {one.candidate for one in ranked}
    failing = [f"{name} not known, as it failed" for name in curve.candidates if name not in known]
    said = ", ".join([*(_capacity(one, curve.capacities[0]) for one in ranked), *failing])
    return f"At most, in requests/s within {curve.objective}: {said}."


def _capacity(one: Capacity, first: Capacity) -> str:
    if not one.band.most:
        return f"{one.candidate} at no rate"
    judged = {"better": "more", "worse": "less"}.get(str(one.verdict), "")
    if judged and first.band.mean:
        judged = f" (×{one.band.mean / first.band.mean:.2f}, {judged})"
    return f"{one.candidate} {with_interval(one.band)}{judged}"


def _knees(curve: Curve) -> str:
    return ", ".join(f"{name} {_knee(curve, name)}" for name in curve.candidates)


def _knee(curve: Curve, candidate: str) -> str:
    found = curve.knee(candidate)
    if found is None:
        return "not between the rates that were run"
    others = "" if found.runs == len(curve.seeds) else f" (in {found.runs} of {len(curve.seeds)} seeds)"
    return f"{with_interval(found)}{others}"


def failed(curve: Curve) -> list[str]:
    """A sentence for each candidate that failed somewhere: to be read first."""
    return [
        f"{name} failed in {len(of_one)} of {len(curve.rates_per_s) * len(curve.seeds)} runs: {of_one[0]}"
        for name in curve.candidates
        if (of_one := [one.measured.error for one in curve.failures if one.measured.candidate == name])
    ]


def notes_of(curve: Curve) -> list[str]:
    """What a reader must know to read the curve rightly."""
    notes = [*_undone(curve), *_unsteady(curve), *_late(curve)]
    if curve.objective is not None:
        notes.append(f"Most power (the knee), in requests/s: {_knees(curve)}.")
        if len(curve.capacities) > 1:
            notes.append(
                f"More and less are than {curve.capacities[0].candidate}, seed by seed: zero is outside the interval "
                "of the difference, and the test holds at 0.05 after Holm's correction over the candidates."
            )
    if curve.sustained_per_s:
        rates = ", ".join(
            f"{name} {plain_number(rate, digits=3)}" for name, rate in curve.sustained_per_s.items()
        )
        notes.append(
            f"Highest rate without falling behind, to about 10 %, with the first seed, in requests/s: {rates}."
        )
    notes.append(_method(curve))
    return notes


def _undone(curve: Curve) -> list[str]:
    found: dict[str, list[str]] = {}
    for row in _one_axis(curve):
        if row.completed_share < WORTH_SAYING:
            found.setdefault(row.candidate, []).append(
                f"{row.completed_share:.1%} at {_rate(row.rate_per_s)}"
            )
    return [f"{name} completed only {', '.join(shares)} requests/s." for name, shares in found.items()]


def _unsteady(curve: Curve) -> list[str]:
    found: dict[tuple[str, State], list[str]] = {}
    for row in _one_axis(curve):
        if row.state != "steady":
            found.setdefault((row.candidate, row.state), []).append(_rate(row.rate_per_s))
    said = "; ".join(
        f"{name} at {', '.join(rates)} requests/s ({STATES[state]})" for (name, state), rates in found.items()
    )
    return [f"No steady state, so that figures depend on the length of the run: {said}."] if said else []


def _late(curve: Curve) -> list[str]:
    """That rates at an overload are not what the fleet does in a second."""
    rates = any(axis.name.partition("@")[0].endswith("_per_s") for axis in curve.axes)
    behind = any(row.state == "growing" for row in _one_axis(curve))
    return [LATE] if rates and behind else []


def _one_axis(curve: Curve) -> list[Row]:
    """One row for each candidate and rate."""
    return (
        [row for name in curve.candidates for row in curve.curve(name, curve.axes[0].name)]
        if curve.axes
        else []
    )


def _method(curve: Curve) -> str:
    shares = sorted(
        one.measured.submitted / (one.measured.submitted + one.cut.warm_up + one.cut.cool_down)
        for one in curve.points
        if one.cut is not None
    )
    of = f"{shares[0]:.0%} to {shares[-1]:.0%}" if shares else "none"
    seeds = f"{len(curve.seeds)} seeds" if len(curve.seeds) > 1 else "one seed, so no intervals"
    return (
        f"Open loop, {seeds}; {of} of the requests of a run are kept, between warm-up (MSER-5) and cool-down, the same "
        "of all candidates. Intervals: Student's t over the seeds, 95 %."
    )


def as_renderable(curve: Curve) -> Group:
    """For the eye: failures, verdict, table, notes."""
    from rich.console import Group
    from rich.text import Text

    return Group(
        *(Text(line, style="bold red") for line in failed(curve)),
        Text(verdict_of(curve), style="bold"),
        _table(curve),
        *(Text(f"· {note}") for note in notes_of(curve)),
    )


def _table(curve: Curve) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    title = Text(title_of(curve), style="table.title")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("candidate", no_wrap=True)
    for heading in headings_of(curve)[:-1]:
        table.add_column(Text(heading), justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in curve.candidates:
        for number, cells in enumerate(rows_of(curve, name)):
            table.add_row(Text("" if number else name), *cells)
        table.add_section()
    return table


def title_of(curve: Curve) -> str:
    """What was run, in a line."""
    count = len(curve.candidates)
    return f"{count} candidate{'s' if count != 1 else ''} on {curve.source}"


def headings_of(curve: Curve) -> tuple[str, ...]:
    """Those of `rows_of`."""
    return ("requests/s", *(axis.label for axis in curve.axes), "state")


def rows_of(curve: Curve, candidate: str) -> list[list[str]]:
    """The rows of a candidate as text: rate, a cell for each figure, state."""
    curves = [curve.curve(candidate, axis.name) for axis in curve.axes]
    return [
        [
            _rate(of_rate[0].rate_per_s),
            *(cell(row, axis) for row, axis in zip(of_rate, curve.axes, strict=True)),
            state_of(of_rate[0], len(curve.seeds)),
        ]
        for of_rate in zip(*curves, strict=True)
    ]


def cell(row: Row, axis: Axis) -> str:
    """Mean and half the interval; nothing for a latency of the few that completed."""
    if row.band is None or hidden(row, axis):
        return "–"
    mean = plain_number(row.band.mean * axis.scale)
    if row.band.low is None:
        return mean
    half = (row.band.mean - row.band.low) * axis.scale
    shown = f"{half:,.{min(decimals(half, 2), decimals(row.band.mean * axis.scale, 4))}f}"
    return f"{mean} ± {shown}" if float(shown.replace(",", "")) else mean


def hidden(row: Row, axis: Axis) -> bool:
    """Whether too little completed for the figure to say anything."""
    return row.completed_share < LITTLE and not axis.of_all


def state_of(row: Row, seeds: int) -> str:
    """`steady`, or what most seeds are and how many, and what was completed where that is not all."""
    done = "" if row.completed_share >= WORTH_SAYING else f", {row.completed_share:.0%} completed"
    count = "" if row.in_state == seeds else f" {row.in_state}/{seeds}"
    return f"{row.state}{count}{done}"


def with_interval(band: Band) -> str:
    """A rate to read: ``41.2 [40.1, 42.3]``."""
    mean = plain_number(band.mean, digits=3)
    if band.low is None or band.high is None:
        return mean
    places = min(decimals(band.mean, 3), decimals((band.high - band.low) / 2.0, 2))
    return f"{band.mean:,.{places}f} [{band.low:,.{places}f}, {band.high:,.{places}f}]"


def _rate(rate_per_s: float) -> str:
    return plain_number(rate_per_s)
