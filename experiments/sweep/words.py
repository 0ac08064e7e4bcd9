"""Tables of a sweep: its front, who is not on it and why, and what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from experiments.lacks import Lack, in_words
from experiments.metrics import Metric
from experiments.sweep.index import is_one_figure
from experiments.sweep.judging import KNEE, STANDINGS, Candidate, Constraint, Judging, Objective
from experiments.text import plain_number

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

MOST_ROWS = 40
MOST_LINES = 8


def failures_in_words(failed: Sequence[str], runs: int) -> list[Text]:
    """A line for each of the first of the runs that failed, and how many of all runs did."""
    from rich.text import Text

    first = [f"{len(failed):,} of {runs:,} runs failed:"] if failed else []
    return [Text(line, style="bold red") for line in first + _some(failed)]


def front_table(
    candidates: Sequence[Candidate],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    knee: str | None,
) -> Table:
    """The candidates of a front with the figures that all are judged by."""
    from rich.text import Text

    judging: list[Judging] = [*objectives, *constraints]
    figures = list({one.key: one.metric for one in judging}.values())
    best = {one.key: one.best for one in objectives}
    headings = [f"{one.label}{f', {best[one.key]}' if one.key in best else ''}" for one in figures]
    table = _table("candidate", *headings, "")
    shown = [one for one in candidates if one.standing == "front"]
    for one in shown[:MOST_ROWS]:
        cells = [_cell(one.means.get(figure.key), figure.scale) for figure in figures]
        table.add_row(Text(one.name), *cells, "knee" if one.name == knee else "")
    if len(shown) > MOST_ROWS:
        table.add_row(f"and {len(shown) - MOST_ROWS:,} more")
    return table


def front_lines(
    candidates: Sequence[Candidate],
    constraints: Sequence[Constraint],
    knee: str | None,
    lacks: Sequence[Lack],
) -> list[Text]:
    """How many stand where, the knee and the rule that it was found by, and who is not judged."""
    from rich.text import Text

    where = f" with {', '.join(map(str, constraints))}" if constraints else ""
    counts = Counter(one.standing for one in candidates)
    said = ", ".join(f"{counts[one]:,} {one}" for one in STANDINGS if counts[one] or one == "front")
    lines = [f"{len(candidates):,} candidates{where}: {said}."]
    if not counts["front"]:
        broken = counts["infeasible"]
        lines.append("No candidate keeps all constraints." if broken else "No candidate can be judged.")
    if knee is not None:
        lines.append(f"Knee: {knee} ({KNEE}).")
    left_out = [one for one in candidates if one.standing == "left out"]
    lines += _some([f"· {one.name} is not judged: {one.why}." for one in left_out])
    return [Text(line) for line in lines + _some([f"· {said}" for said in in_words(lacks)])]


def points_in_words(points: pa.Table, metrics: Sequence[Metric]) -> Table:
    """The points of a sweep, each with its means."""
    from rich.text import Text

    figures = [one for one in metrics if is_one_figure(one)]
    table = _table("candidate", *(one.label for one in figures))
    rows = points.slice(0, MOST_ROWS).to_pylist()
    for row in rows:
        table.add_row(Text(row["candidate"]), *(_cell(row.get(one.key), one.scale) for one in figures))
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
