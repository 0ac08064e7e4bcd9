"""How evenly work was spread: the load of each replica, the busiest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.plots.plot import Plot, Runs, figure_of
from experiments.plots.style import (
    FEW,
    WIDTH,
    colour_scale,
    heat,
    legend_above,
    legend_label,
    line_style,
    named_rows,
    new_figure,
)
from experiments.reasons import NoValue
from experiments.spread import loads_of
from fleet import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]

CAPTION = """The mean number of requests that each replica had in service while it was there to serve, the busiest
first: level is even."""
BANDS = "Lines are medians over the seeds, bands span them."
MARKED = 40
"""Replicas that are still told apart by a dot each."""


def plot_replicas(runs: Runs) -> Figure:
    """The load of each replica by rank: medians, with bands over all runs.

    Raises `ValueError` where no run had several replicas that anything ran on.
    """
    return figure_of(replicas(runs), "no run had two replicas that anything ran on")


def replicas(runs: Runs) -> Plot | None:
    """Loads by rank; None where no run had several replicas."""
    tables = [table for name, of_one in runs.items() if (table := _ranked(name, of_one)) is not None]
    if not tables:
        return None
    several = max(len(of_one) for of_one in runs.values()) > 1
    many = len(tables) > FEW
    caption = f"{CAPTION}{f' {BANDS}' if several and not many else ''}".replace("\n", " ")
    return Plot(
        "replica-load",
        caption,
        pa.concat_tables(tables),
        _heat if many else partial(_lines, names=list(runs)),
    )


def _ranked(name: str, runs: Sequence[Run]) -> pa.Table | None:
    """The loads of a candidate's replicas, the busiest first, over those runs that had the rank."""
    ranked = list(_loads(runs))
    if not ranked:
        return None
    ranks = max(map(len, ranked))
    at_rank = [[loads[rank] for loads in ranked if len(loads) > rank] for rank in range(ranks)]
    return pa.table(
        {
            "candidate": [name] * ranks,
            "rank": range(1, ranks + 1),
            "runs": [len(loads) for loads in at_rank],
            "median": [float(np.median(loads)) for loads in at_rank],
            "least": [float(min(loads)) for loads in at_rank],
            "most": [float(max(loads)) for loads in at_rank],
        }
    )


def _loads(runs: Sequence[Run]) -> Iterator[Floats]:
    for run in runs:
        try:
            loads, _ = loads_of(run)
        except NoValue:
            continue
        yield np.sort(loads)[::-1]


def _lines(data: pa.Table, names: Sequence[str]) -> Figure:
    figure, axes = new_figure(WIDTH, 3.2)
    for name in data["candidate"].unique().to_pylist():
        own = data.filter(pc.equal(data["candidate"], name))
        rank, middle, least, most = (own[part].to_numpy() for part in ("rank", "median", "least", "most"))
        style = line_style(names.index(name))
        if not np.array_equal(least, most):
            axes.fill_between(rank, least, most, color=style["color"], alpha=0.15, linewidth=0.0)
        marker = "o" if len(rank) <= MARKED else None
        axes.plot(rank, middle, **style, marker=marker, markersize=4, label=legend_label(name))
    axes.set_ylim(bottom=0.0)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("replicas, the busiest first")
    axes.set_ylabel("requests in service")
    legend_above(figure, axes)
    return figure


def _heat(data: pa.Table) -> Figure:
    """A row of colours for each candidate."""
    names = data["candidate"].unique().to_pylist()
    ranks = pc.max(data["rank"]).as_py()
    values = np.full((len(names), ranks), np.nan)
    rows = pc.index_in(data["candidate"], pa.array(names)).to_numpy()
    values[rows, data["rank"].to_numpy() - 1] = data["median"].to_numpy()
    figure, axes = new_figure(WIDTH, 1.4 + 0.17 * len(names))
    extent = (0.5, ranks + 0.5, len(names) - 0.5, -0.5)
    colour_scale(
        figure, axes, heat(axes, values, extent=extent), "requests in service, median over the seeds"
    )
    named_rows(axes, names)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("replicas, the busiest first", fontsize=8)
    return figure
