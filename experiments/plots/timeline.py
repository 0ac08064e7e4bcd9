"""What a fleet was over time: arrivals, what waited, what was in flight, replicas. Bands span all seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.plots.plot import Plot, Runs, figure_of
from experiments.plots.states import others_than_ready
from experiments.plots.style import (
    FEW,
    GREY,
    WIDTH,
    colour_scale,
    counts,
    heat,
    legend_above,
    legend_label,
    line_style,
    named_rows,
    new_figure,
)
from experiments.totals import fleet_series
from fleet import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]

POINTS = 400
"""Of a line: what a plot of this width can show."""
BINS = 100
"""In which arrivals are counted."""
OFFERED = "all candidates"
"""Whose arrivals they are where all were sent the same."""


class Measure(NamedTuple):
    """What is drawn over time, and what its axis is called."""

    column: str
    label: str
    fraction: bool = False


ARRIVALS = Measure("arrivals_per_s", "arrivals (1/s)")
"""Counted from the records: a control loop may look seldom."""
WAITING = Measure("queue_depth", "waiting requests")
CACHE = Measure("kv_utilization", "used cache blocks", fraction=True)
SEEN = (
    WAITING,
    Measure("in_flight", "requests in flight"),
    Measure("ready", "ready replicas"),
    Measure("busy_fraction", "busy fraction", fraction=True),
    CACHE,
)
CAPTION = """What the control loop saw at each of its intervals, and the arrivals, which are the same for all where
one line is drawn."""
BANDS = "Lines are medians over the seeds, bands span the least and the most of them."
STEADY = "The replicas were ready throughout, the same number of them."
HEAT = "Rows are candidates, colours medians over the seeds."


def plot_timeline(runs: Runs) -> Figure:
    """Arrivals, waiting, in flight, replicas and how busy they were over time: medians, with bands over all runs.

    Raises `ValueError` where no run has a series.
    """
    return figure_of(timeline(runs), "no control loop looked at these runs")


def timeline(runs: Runs) -> Plot | None:
    """What the runs were over time, of several pools all together; None where no control loop looked."""
    series = {name: [fleet_series(run.series) for run in of_one] for name, of_one in runs.items()}
    tables = [table for of_one in series.values() for table in of_one]
    looks_s = [pc.max(table["time_s"]).as_py() for table in tables if len(table)]
    if not looks_s:
        return None
    arrived_s = [
        pc.max(run.records["arrived_s"]).as_py() or 0.0 for of_one in runs.values() for run in of_one
    ]
    ends_s = max(*looks_s, *arrived_s, 1e-9)
    seen = list(_seen(series, ends_s))
    data = pa.concat_tables([*_arrivals(runs, ends_s), *seen])
    many = len(runs) > FEW and bool(seen)
    several = max(len(of_one) for of_one in runs.values()) > 1
    said = [CAPTION.replace("\n", " "), HEAT if many else BANDS if several else ""]
    if not replicas_change(tables) and not others_than_ready(tables):
        said.append(STEADY)
    draw = _heat if many else partial(_bands, names=list(runs))
    return Plot("timeline", " ".join(filter(None, said)), data, draw)


def _seen(series: Mapping[str, Sequence[pa.Table]], ends_s: float) -> Iterator[pa.Table]:
    """What the loops saw, on one grid of times; a measure that was 0 in all runs is left out."""
    grid_s = np.linspace(0.0, ends_s, POINTS)
    changes = replicas_change([table for of_one in series.values() for table in of_one])
    for measure in SEEN:
        if measure.column == "ready" and not changes:
            continue
        bands = [
            _band(name, measure.column, grid_s, np.array(held))
            for name, of_one in series.items()
            if (held := [_held(one, measure.column, grid_s) for one in of_one if _has(one, measure.column)])
        ]
        if any(pc.max(band["most"]).as_py() for band in bands):
            yield from bands


def _has(table: pa.Table, column: str) -> bool:
    return column in table.column_names and table[column].null_count < len(table)


def _held(table: pa.Table, column: str, grid_s: Floats) -> Floats:
    """What was last seen at each time: nothing before the first look and after the last."""
    looks_s, values = table["time_s"].to_numpy(), table[column].to_numpy().astype(float)
    last = np.searchsorted(looks_s, grid_s, side="right") - 1
    known: Floats = np.where((last >= 0) & (grid_s <= looks_s[-1]), values[np.maximum(last, 0)], np.nan)
    return known


def _arrivals(runs: Runs, ends_s: float) -> Iterator[pa.Table]:
    """Arrivals a second, once where they are the same for all."""
    edges_s = np.linspace(0.0, ends_s, BINS + 1)
    width_s = edges_s[1]
    rates = {name: np.array([_rates(run, edges_s) for run in of_one]) for name, of_one in runs.items()}
    first = next(iter(rates.values()))
    if all(np.array_equal(one, first) for one in rates.values()):
        rates = {OFFERED: first}
    for name, of_one in rates.items():
        yield _band(name, ARRIVALS.column, edges_s[:-1] + width_s / 2.0, of_one / width_s)


def _rates(run: Run, edges_s: Floats) -> Floats:
    counted, _ = np.histogram(run.records["arrived_s"].to_numpy(), edges_s)
    return counted.astype(float)


def _band(
    name: str, column: str, at_s: Floats, values: np.ndarray[tuple[int, int], np.dtype[np.float64]]
) -> pa.Table:
    """Median, least and most of the runs at each time; a time that no run has is left out."""
    there = np.isfinite(values).any(axis=0)
    known = values[:, there]
    return pa.table(
        {
            "candidate": [name] * known.shape[1],
            "measure": [column] * known.shape[1],
            "time_s": at_s[there],
            "median": np.nanmedian(known, axis=0),
            "least": np.nanmin(known, axis=0),
            "most": np.nanmax(known, axis=0),
        }
    )


def _panels(data: pa.Table) -> list[tuple[Measure, pa.Table]]:
    """The measures that are there, with their rows."""
    found = [(one, data.filter(pc.equal(data["measure"], one.column))) for one in (ARRIVALS, *SEEN)]
    there = {measure: table for measure, table in found if len(table)}
    if CACHE in there:  # then replicas have queues of their own, in their sequences that wait
        there = {
            one._replace(label="waiting at the head") if one == WAITING else one: of
            for one, of in there.items()
        }
    return list(there.items())


def _bands(data: pa.Table, names: Sequence[str]) -> Figure:
    """A panel for each measure, a line for each candidate."""
    shown = _panels(data)
    styles: dict[str, dict[str, Any]] = {OFFERED: {"color": GREY, "linewidth": 1.5}} | {
        name: line_style(index) for index, name in enumerate(names)
    }
    figure, panels = new_figure(WIDTH, 0.8 + 1.6 * len(shown), rows=len(shown))
    for axes, (measure, table) in zip(panels, shown, strict=True):
        for name in table["candidate"].unique().to_pylist():
            own = table.filter(pc.equal(table["candidate"], name))
            _line(axes, own, legend_label(name), styles[name])
        axes.set_ylabel(measure.label, fontsize=9)
        if measure.fraction:
            axes.set_ylim(0.0, 1.05)
        elif measure is ARRIVALS:
            axes.set_ylim(bottom=0.0)
        else:
            counts(axes)
    panels[-1].set_xlabel("time (s)")
    figure.align_ylabels(panels)
    legend_above(figure, max(panels, key=lambda axes: len(axes.get_lines())))
    return figure


def _line(axes: Axes, own: pa.Table, label: str, style: Mapping[str, Any]) -> None:  # Any: matplotlib's
    at_s, middle, least, most = (own[name].to_numpy() for name in ("time_s", "median", "least", "most"))
    if not np.array_equal(least, most):
        axes.fill_between(at_s, least, most, color=style["color"], alpha=0.15, linewidth=0.0)
    axes.plot(at_s, middle, **style, label=label)


def _heat(data: pa.Table) -> Figure:
    """A panel for each measure, a row of colours for each candidate."""
    shown = _panels(data.filter(pc.not_equal(data["candidate"], OFFERED)))
    names = [name for name in data["candidate"].unique().to_pylist() if name != OFFERED]
    columns = 2 if len(shown) in (2, 4) else 3
    rows = -(-len(shown) // columns)
    figure, panels = new_figure(WIDTH, (1.3 + 0.17 * len(names)) * rows, rows=rows, columns=columns)
    for place, (axes, (measure, table)) in enumerate(zip(panels, shown, strict=False)):
        times_s = np.unique(table["time_s"].to_numpy())
        values = np.full((len(names), len(times_s)), np.nan)
        row = pc.index_in(table["candidate"], pa.array(names)).to_numpy()
        values[row, np.searchsorted(times_s, table["time_s"].to_numpy())] = table["median"].to_numpy()
        image = heat(axes, values, extent=(0.0, times_s[-1], len(names) - 0.5, -0.5))
        colour_scale(figure, axes, image, measure.label)
        named_rows(axes, names if place % columns == 0 else [""] * len(names))
        axes.xaxis.set_tick_params(labelbottom=True, labelsize=8)
        axes.set_xlabel("time (s)", fontsize=8)
    for spare in panels[len(shown) :]:
        spare.set_visible(False)
    return figure


def replicas_change(series: Sequence[pa.Table]) -> bool:
    """Whether the number of ready replicas is another at any time, or for any candidate."""
    return len({count for table in series for count in table["ready"].unique().to_pylist()}) > 1
