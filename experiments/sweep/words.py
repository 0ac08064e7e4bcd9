"""Tables of a sweep: its front, who is not on it and why, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from experiments.lacks import in_words
from experiments.metrics import Metric
from experiments.sweep.index import is_one_figure
from experiments.sweep.pareto import KNEE, Candidate, Judging, Pareto
from experiments.text import plain_number

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

MOST_ROWS = 40
MOST_LINES = 8


def pareto_in_words(found: Pareto) -> Group:
    """The front as a table, and in lines the others, the knee and the rule that it was found by."""
    from rich.console import Group
    from rich.text import Text

    lines = [Text(line) for line in _lines(found)]
    return Group(_front(found), *lines) if found.front else Group(*lines)


def failures_in_words(failed: Sequence[str], runs: int) -> list[Text]:
    """A line for each of the first of the runs that failed, and how many of all runs did."""
    from rich.text import Text

    first = [f"{len(failed):,} of {runs:,} runs failed:"] if failed else []
    return [Text(line, style="bold red") for line in first + _some(failed)]


def _front(found: Pareto) -> Table:
    judging: list[Judging] = [*found.objectives, *found.constraints]
    figures = list({one.key: one.metric for one in judging}.values())
    table = _table("candidate", *(_heading(one, found) for one in figures), "")
    shown = [one for one in found.candidates if one.standing == "front"]
    for one in shown[:MOST_ROWS]:
        table.add_row(one.name, *_cells(one, figures), "knee" if one.name == found.knee else "")
    if len(shown) > MOST_ROWS:
        table.add_row(f"and {len(shown) - MOST_ROWS:,} more")
    return table


def _heading(one: Metric, found: Pareto) -> str:
    best = {objective.key: objective.best for objective in found.objectives}
    return f"{one.label}{f', {best[one.key]}' if one.key in best else ''}"


def _cells(candidate: Candidate, figures: Sequence[Metric]) -> list[str]:
    return [_cell(candidate.means.get(one.key), one.scale) for one in figures]


def _lines(found: Pareto) -> list[str]:
    where = f" with {', '.join(map(str, found.constraints))}" if found.constraints else ""
    counts = {
        standing: len(found.names(standing)) for standing in ("front", "dominated", "infeasible", "left out")
    }
    said = ", ".join(
        f"{count:,} {standing}" for standing, count in counts.items() if count or standing == "front"
    )
    lines = [f"{len(found.candidates):,} candidates{where}: {said}."]
    if not found.front:
        lines.append(
            "No candidate keeps all constraints." if counts["infeasible"] else "No candidate can be judged."
        )
    if found.knee is not None:
        lines.append(f"Knee: {found.knee} ({KNEE}).")
    lines += _some([f"· {name} is not judged: {why}." for name, why in found.left_out.items()])
    return lines + _some([f"· {said}" for said in in_words(found.lacks)])


def points_in_words(points: pa.Table, metrics: Sequence[Metric]) -> Table:
    """The points of a sweep, each with its means."""
    figures = [one for one in metrics if is_one_figure(one)]
    table = _table("candidate", *(one.label for one in figures))
    rows = points.slice(0, MOST_ROWS).to_pylist()
    for row in rows:
        table.add_row(row["candidate"], *(_cell(row.get(one.key), one.scale) for one in figures))
    if len(points) > len(rows):
        table.add_row(f"and {len(points) - len(rows):,} more")
    return table


def _cell(value: float | None, scale: float) -> str:
    return "–" if value is None else plain_number(value * scale)


def _table(first: str, *others: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    table.add_column(first)
    for heading in others:
        table.add_column(Text(heading), justify="right")
    return table


def _some(lines: Sequence[str]) -> list[str]:
    more = len(lines) - MOST_LINES
    return [*lines[:MOST_LINES], *([f"and {more:,} more"] if more > 0 else [])]
