"""The plots of a report, as SVG text. Imports matplotlib, and nothing else here does."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from experiments.totals import fleet_series
from fleet import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which keeps its differences under the common colour vision deficiencies; the yellow is left
# out (too pale for a line on white), and line styles repeat the distinction.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
STATES = ("ready", "warm", "starting", "draining")
STATE_COLOURS = ("#009E73", "#56B4E9", "#E69F00", "#999999")
CURVE_POINTS = 1000
WIDTH = 9.0
"""Of a figure, in inches: about that of the page's text."""
PERCENTILES = (
    (0.0, "0"), (0.5, "50 %"), (0.75, "75 %"), (0.9, "90 %"), (0.95, "95 %"), (0.99, "99 %"), (0.999, "99.9 %"),
    (0.9999, "99.99 %"), (0.99999, "99.999 %"),
)  # fmt: skip

Runs = Mapping[str, Sequence[Run]]
Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def latency_cdf(runs: Runs, column: str = "e2e_s", label: str = "end-to-end latency") -> str:
    """Share of completed requests with at most that much of a latency; all seeds of a candidate together.

    `column` is one of the records, in seconds. The share's axis is by nines, as latency is talked of: p90, p99 and
    p99.9 are equally far apart.
    """
    figure, axes = new_figure(WIDTH, 4.4)
    most = 1
    for index, (name, of_one) in enumerate(runs.items()):
        values_s = np.concatenate([run.records[column].drop_null().to_numpy() for run in of_one])
        if len(values_s) == 0:
            continue
        most = max(most, len(values_s))
        nines = np.linspace(0.0, np.log10(len(values_s)), CURVE_POINTS)
        latency_s = np.quantile(values_s, 1.0 - 10.0**-nines)
        axes.plot(np.maximum(latency_s * 1000.0, 1e-3), nines, **line_style(index), label=legend_label(name))
    log_ticks(axes)
    shown = [(share, label) for share, label in PERCENTILES if 1.0 - share >= 1.0 / most] or [PERCENTILES[0]]
    axes.set_yticks([-np.log10(1.0 - share) for share, _ in shown], [label for _, label in shown])
    axes.set_xlabel(f"{label} (ms, logarithmic)")
    axes.set_ylabel("completed requests")
    axes.set_ylim(bottom=0.0)
    legend_above(figure, axes)
    return svg_text(figure, f"cdf-{column}")


def timelines(runs: Runs, seed: int) -> str:
    """Queue depth, requests in flight and utilization over time, one line a candidate, in the first seed's run.

    Of a fleet of several pools they are of all of them together. Where there is a key-value cache, how full it is
    stands below them.
    """
    series = {name: fleet_series(of_one[0].series) for name, of_one in runs.items()}
    cache = any(_is_there(table, "kv_utilization") for table in series.values())
    measures = [
        ("queue_depth", "waiting at the head" if cache else "waiting requests"),
        ("in_flight", "requests in flight"),
        ("busy_fraction", "replicas' busy fraction"),
    ]
    if cache:
        measures.append(("kv_utilization", "used cache blocks"))
    figure, panels = new_figure(WIDTH, 2.2 * len(measures), rows=len(measures))
    for axes, (column, label) in zip(panels, measures, strict=True):
        for index, (name, table) in enumerate(series.items()):
            if column not in table.column_names:
                continue
            time_s, values = _series(table, column)
            axes.plot(time_s, values, **line_style(index), label=legend_label(name))
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0.0)
    for axes in panels[:2]:
        axes.set_ylim(top=max(1.0, axes.get_ylim()[1]))
        axes.yaxis.get_major_locator().set_params(integer=True)
    for axes in panels[2:]:
        axes.set_ylim(0.0, 1.05)
    panels[-1].set_xlabel(f"time (s), run with seed {seed}")
    legend_above(figure, panels[0])
    return svg_text(figure, "timelines")


def replicas_change(runs: Runs) -> bool:
    """Whether there is anything to see in `replica_states`: a number that changes, or a state but ready."""
    tables = [fleet_series(of_one[0].series) for of_one in runs.values()]
    ready = {count for table in tables for count in table["ready"].to_pylist()}
    others = {count for table in tables for state in STATES[1:] for count in table[state].to_pylist()}
    return len(ready) > 1 or bool(others - {0})


def replica_states(runs: Runs, seed: int) -> str:
    """Replicas by state over time, one panel a candidate, in the first seed's run."""
    figure, panels = new_figure(WIDTH, 0.9 + 1.3 * len(runs), rows=len(runs))
    for axes, (name, of_one) in zip(panels, runs.items(), strict=True):
        table = fleet_series(of_one[0].series)
        time_s = table["time_s"].to_numpy()
        stacked = np.cumsum([table[state].to_numpy() for state in STATES], axis=0)
        below = np.zeros(len(time_s))
        for state, colour, top in zip(STATES, STATE_COLOURS, stacked, strict=True):
            axes.fill_between(time_s, below, top, step="post", color=colour, label=state, linewidth=0.0)
            below = top
        axes.set_ylim(0.0, max(1.0, float(stacked[-1].max(initial=0.0))) * 1.1)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel("replicas")
        axes.set_title(name, loc="left", fontsize=9)
    panels[-1].set_xlabel(f"time (s), run with seed {seed}")
    panels[0].legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, fontsize=8)
    return svg_text(figure, "replicas")


def _is_there(table: pa.Table, column: str) -> bool:
    """Whether the column has any value."""
    return column in table.column_names and table[column].null_count < len(table)


def _series(table: pa.Table, column: str) -> tuple[Floats, Floats]:
    """Time and values, missing ones as gaps; long runs are thinned to what a plot can show."""
    values = table[column].to_numpy().astype(float)
    step = max(1, len(values) // CURVE_POINTS)
    return table["time_s"].to_numpy()[::step], values[::step]


def line_style(index: int) -> dict[str, Any]:  # Any: matplotlib's keyword arguments
    """Colour and dashes of the line with this number."""
    return {
        "color": PALETTE[index % len(PALETTE)],
        "linestyle": STYLES[index % len(STYLES)],
        "linewidth": 1.5,
    }


def new_figure(
    width: float, height: float, rows: int = 0, columns: int = 1
) -> tuple[Figure, Any]:  # Any: one Axes, or a list of them where `rows` are given
    """An empty figure: one panel, or `rows` by `columns` of them, row by row; those of a column share their x."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(rows or 1, columns, sharex="col")).flat)
    for axes in panels:
        axes.grid(visible=True, color="#e5e5e5", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure, panels if rows else panels[0]


def legend_label(name: str) -> str:
    """`name`, for a legend: matplotlib leaves out what begins with an underscore."""
    return f" {name}" if name.startswith("_") else name


def legend_above(figure: Figure, axes: Axes) -> None:
    """Over the panels, where it hides no line."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        widest = max(len(label) for label in labels)
        figure.legend(
            handles, labels, loc="outside upper left", ncols=max(1, 100 // (widest + 8)), frameon=False
        )


def log_ticks(axes: Axes, which: Literal["x", "y"] = "x") -> None:
    """A logarithmic axis with 1, 2, 5, 10, … as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def svg_text(figure: Figure, name: str) -> str:
    """The figure as SVG to put into a page: real text, nothing to fetch, the same bytes each time."""
    import matplotlib as mpl
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names are literal: what is between two `$` is no formula
    sink = io.StringIO()
    # Several SVGs share a page and so one name space of ids: the salt keeps them apart.
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(
            sink, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    svg = sink.getvalue()
    return svg[svg.index("<svg") :]
