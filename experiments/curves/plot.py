"""The figure of a load curve: a panel for each figure, a line for each candidate, log axes for latencies.

What is no steady state is drawn hollow. A latency of the few that completed is a cross, and no line leads to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.curves.result import Axis, LoadCurve, Row
from experiments.curves.words import hidden
from experiments.plots import WIDTH, legend_above, legend_label, line_style, log_ticks, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BANDS = 6
"""Candidates whose intervals are shaded; of more they are bars, which hide less."""
FAR_APART = 20.0
"""Between the first rate and the last: then the axis of rates is logarithmic too."""


def figure_of(curve: LoadCurve) -> Figure:
    """The whole figure."""
    columns = 2 if len(curve.axes) > 1 else 1
    rows = max(1, -(-len(curve.axes) // columns))
    figure, panels = new_figure(WIDTH, 0.8 + 2.9 * rows, rows=rows, columns=columns)
    for axis, axes in zip(curve.axes, panels, strict=False):
        _panel(axes, curve, axis)
    for spare in panels[len(curve.axes) :]:
        spare.set_visible(False)
    legend_above(figure, panels[0])
    return figure


def _panel(axes: Axes, curve: LoadCurve, axis: Axis) -> None:
    log = _is_latency(axis)
    for index, name in enumerate(curve.candidates):
        rows = [row for row in curve.curve(name, axis.name) if row.band is not None]
        _line(axes, rows, axis, index, name, bands=len(curve.candidates) <= MOST_BANDS)
        if log:
            _knee(axes, curve, name, [row for row in rows if not hidden(row, axis)], axis, index)
    if axis.bound is not None:
        axes.axhline(axis.bound * axis.scale, color="#444444", linewidth=1.0, linestyle=(0, (4, 2)))
        axes.annotate(
            "objective", (0.01, axis.bound * axis.scale), xycoords=("axes fraction", "data"), fontsize=8,
            color="#444444", va="bottom",
        )  # fmt: skip
    if log:
        log_ticks(axes, "y")
        axes.yaxis.set_tick_params(which="minor", left=False)
    else:
        axes.set_ylim(bottom=0.0)
    if curve.rates_per_s[-1] >= FAR_APART * curve.rates_per_s[0]:
        log_ticks(axes)
    axes.set_ylabel(axis.label)
    axes.set_xlabel("offered load (requests/s)")
    axes.xaxis.set_tick_params(labelbottom=True)


def _is_latency(axis: Axis) -> bool:
    return "_s." in axis.name and axis.better == "lower"


def _line(axes: Axes, rows: Sequence[Row], axis: Axis, index: int, name: str, *, bands: bool) -> None:
    style = line_style(index)
    shown = [row for row in rows if not hidden(row, axis)]
    rates, means, low, high = _columns(shown, axis)
    if bands:
        axes.fill_between(rates, low, high, color=style["color"], alpha=0.15, linewidth=0.0)
    else:
        axes.vlines(rates, low, high, color=style["color"], linewidth=0.8)
    axes.plot(rates, means, **style, label=legend_label(name))
    for steady in (True, False):
        _markers(
            axes, [row for row in shown if (row.state == "steady") == steady], axis, style, steady=steady
        )
    crosses = [row for row in rows if hidden(row, axis)]
    crossed, values, _, _ = _columns(crosses, axis)
    axes.plot(crossed, values, "x", color=style["color"], markersize=6)


def _markers(
    axes: Axes, rows: Sequence[Row], axis: Axis, style: dict[str, Any], *, steady: bool
) -> None:  # Any: see `line_style`
    rates, means, _, _ = _columns(rows, axis)
    face = style["color"] if steady else "white"
    axes.plot(
        rates,
        means,
        "o",
        color=style["color"],
        markerfacecolor=face,
        markersize=4.0 if steady else 5.0,
        zorder=3,
    )


Numbers = list[float]


def _columns(rows: Sequence[Row], axis: Axis) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Rates, means, and the ends of the intervals as they are drawn: those of a latency stay above zero."""
    rates, means, low, high = [], [], [], []
    for row in rows:
        if row.band is None:
            continue
        rates.append(row.rate_per_s)
        means.append(row.band.mean * axis.scale)
        least = row.band.mean if row.band.low is None else row.band.low
        low.append(max(least, row.band.least if _is_latency(axis) else 0.0) * axis.scale)
        high.append((row.band.mean if row.band.high is None else row.band.high) * axis.scale)
    return rates, means, low, high


def _knee(axes: Axes, curve: LoadCurve, name: str, rows: Sequence[Row], axis: Axis, index: int) -> None:
    """A diamond on the line."""
    knee = curve.knee(name)
    if knee is None or not rows:
        return
    rates, means, _, _ = _columns(rows, axis)
    at = float(np.exp(np.interp(knee.mean, rates, np.log(means))))
    colour = line_style(index)["color"]
    axes.plot([knee.mean], [at], "D", color=colour, markeredgecolor="black", markersize=7, zorder=4)
