"""The figure of a load curve: a panel for each figure, a line for each candidate, log axes for latencies.

What is no steady state is drawn hollow. A latency of the few that completed is a cross, and no line leads to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.bands import Band
from experiments.curves.result import Axis, Curve, Row
from experiments.curves.words import hidden
from experiments.plots import WIDTH, legend_above, legend_label, line_style, log_ticks, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SPANS = 6
"""Candidates of which what the seeds span is shaded; of more it would hide the lines."""
FAR_APART = 20.0
"""Between the first rate and the last: then the axis of rates is logarithmic too."""


def figure_of(curve: Curve) -> Figure:
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


def _panel(axes: Axes, curve: Curve, axis: Axis) -> None:
    for index, name in enumerate(curve.candidates):
        line = _Line(axes, axis, curve.curve(name, axis.name), line_style(index))
        line.draw(name, span=len(curve.candidates) <= MOST_SPANS)
        if _is_latency(axis):
            line.mark(curve.knee(name))
    if axis.bound is not None:
        _objective(axes, axis.bound * axis.scale)
    _scales(axes, curve, axis)
    axes.set_ylabel(axis.label)
    axes.set_xlabel("offered load (requests/s)")
    axes.xaxis.set_tick_params(labelbottom=True)


def _is_latency(axis: Axis) -> bool:
    return "_s." in axis.name and axis.better == "lower"


def _objective(axes: Axes, bound: float) -> None:
    colour = "#444444"
    axes.axhline(bound, color=colour, linewidth=1.0, linestyle=(0, (4, 2)))
    axes.annotate(
        "objective",
        (0.99, bound),
        xycoords=("axes fraction", "data"),
        fontsize=8,
        color=colour,
        va="bottom",
        ha="right",
    )


def _scales(axes: Axes, curve: Curve, axis: Axis) -> None:
    if _is_latency(axis):
        log_ticks(axes, "y")
        axes.yaxis.set_tick_params(which="minor", left=False)
    else:
        most = max((row.band.most for row in curve.rows if row.metric == axis.name and row.band), default=0.0)
        axes.set_ylim(0.0, 1.05 * most * axis.scale or 1.0)
    if curve.rates_per_s[-1] >= FAR_APART * curve.rates_per_s[0]:
        log_ticks(axes)
    else:
        axes.set_xlim(left=0.0)


class _Line:
    """One candidate in one panel."""

    def __init__(
        self, axes: Axes, axis: Axis, rows: Sequence[Row], style: dict[str, Any]
    ) -> None:  # Any: see `line_style`
        self._axes, self._style, self._scale = axes, style, axis.scale
        self._bands = [(row, row.band) for row in rows if row.band is not None]
        self._shown = [(row, of) for row, of in self._bands if not hidden(row, axis)]
        self._crosses = [(row, of) for row, of in self._bands if hidden(row, axis)]

    def draw(self, name: str, *, span: bool) -> None:
        """The line with its markers, an interval at each rate, and what the seeds span."""
        axes, colour = self._axes, self._style["color"]
        rates = [row.rate_per_s for row, _ in self._shown]
        if span:
            least, most = (
                [getattr(of, end) * self._scale for _, of in self._shown] for end in ("least", "most")
            )
            axes.fill_between(rates, least, most, color=colour, alpha=0.12, linewidth=0.0)
        axes.plot(rates, self._means(self._shown), **self._style, label=legend_label(name))
        for row, of in self._shown:
            if of.low is not None and of.high is not None:
                # Student's interval of a few runs may reach below what there can be, such as no time at all.
                low = max(of.low, of.least / 2.0)
                axes.vlines(
                    row.rate_per_s, low * self._scale, of.high * self._scale, color=colour, linewidth=0.9
                )
        self._markers([item for item in self._shown if item[0].state == "steady"], "o", face=colour)
        self._markers([item for item in self._shown if item[0].state != "steady"], "o", face="white")
        self._markers(self._crosses, "x", face=colour)

    def mark(self, knee: Band | None) -> None:
        """The knee, as a diamond on the line."""
        if knee is None or not self._shown:
            return
        rates = [row.rate_per_s for row, _ in self._shown]
        at = float(np.exp(np.interp(knee.mean, rates, np.log(self._means(self._shown)))))
        colour = self._style["color"]
        self._axes.plot([knee.mean], [at], "D", color=colour, markeredgecolor="black", markersize=7, zorder=4)

    def _means(self, items: Sequence[tuple[Row, Band]]) -> list[float]:
        return [of.mean * self._scale for _, of in items]

    def _markers(self, items: Sequence[tuple[Row, Band]], marker: str, *, face: str) -> None:
        rates, colour = [row.rate_per_s for row, _ in items], self._style["color"]
        self._axes.plot(
            rates, self._means(items), marker, color=colour, markerfacecolor=face, markersize=4.5, zorder=3
        )
