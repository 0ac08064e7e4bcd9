"""The plots of the studies: a line for each candidate over the setting, in a band that spans its seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from experiments.plots import WIDTH, legend_above, line_style, log_ticks, new_figure, svg_text
from experiments.studies.result import StudyResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHORTER = (
    (re.compile(r"(\d\d\.\d)\d+"), r"\1"),  # of what is 10 or more: positions, not widths
    (re.compile(r"font-family: [^;\"]*"), "font-family: sans-serif"),
    (re.compile(r" transform=\"rotate\(-0 [^)]*\)\""), ""),
    (re.compile(r"<g id=\"[^\"]*\">"), "<g>"),  # nothing refers to groups
    (re.compile(r"\s*\n\s*"), "\n"),
)
"""What the eye cannot tell, and half of the bytes."""


class Panel(Struct, frozen=True, kw_only=True):
    """One panel: a measure against the setting."""

    measure: str
    label: str
    """Of the y axis, with its unit."""
    log: bool = False
    scale: float | None = None
    """Shown over measured value; None: the measure's own."""
    names: Mapping[str, str] | None = None
    """What the panel calls the candidates that it shows, in a legend of its own; None: all, in one for the figure."""
    band: bool = True
    """Shade what the seeds span. False: of what is either 0 or 1 in each run, which would be all there is."""


def lines(
    result: StudyResult,
    panels: Sequence[Panel],
    x_label: str,
    *,
    x_log: bool = False,
    x_ticks: Sequence[float] = (),
    columns: int = 2,
) -> str:
    """A figure of such panels, as SVG."""
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(WIDTH, 0.9 + 2.7 * rows, rows=rows, columns=columns)
    for panel, one in zip(panels, axes, strict=False):
        _draw(one, result, panel)
        if x_log:
            log_ticks(one)
        if x_ticks:
            one.set_xticks(list(x_ticks), [f"{tick:,g}" for tick in x_ticks])
            one.minorticks_off()
        one.set_xlabel(x_label)
        one.xaxis.set_tick_params(labelbottom=True)
    for spare in axes[len(panels) :]:
        spare.set_visible(False)
    if panels[0].names is None:
        legend_above(figure, axes[0])
    return compact_svg(figure, result.study)


def compact_svg(figure: Figure, name: str) -> str:
    """As `svg_text`, in half the bytes: these plots are kept beside a page."""
    text = svg_text(figure, name)
    for pattern, shorter in _SHORTER:
        text = pattern.sub(shorter, text)
    return text


def _draw(axes: Axes, result: StudyResult, panel: Panel) -> None:
    scale = result.measure(panel.measure).scale if panel.scale is None else panel.scale
    names = {name: name for name in result.candidates} if panel.names is None else panel.names
    for index, candidate in enumerate(name for name in names if name in result.candidates):
        at, figures = result.curve(candidate, panel.measure)
        known = [[value for value in one.by_seed if value is not None] for one in figures]
        low = [min(values, default=one.mean) * scale for values, one in zip(known, figures, strict=True)]
        high = [max(values, default=one.mean) * scale for values, one in zip(known, figures, strict=True)]
        style = line_style(index)
        if panel.band:
            axes.fill_between(at, low, high, color=style["color"], alpha=0.08, linewidth=0.0)
        shown = [one.mean * scale for one in figures]
        axes.plot(at, shown, **style, marker="o", markersize=3.5, label=names[candidate])
    if panel.log:
        log_ticks(axes, "y")
        axes.yaxis.set_tick_params(which="minor", left=False)
    else:
        axes.set_ylim(bottom=0.0)
    axes.set_ylabel(panel.label)
    if panel.names is not None:
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False, fontsize=9)
