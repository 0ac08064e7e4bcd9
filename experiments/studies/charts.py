"""The plots of the studies: a line for each candidate over the setting, in a band that spans its seeds.

Where settings are kinds of things: differences to the baseline, one under the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from experiments.plots import PALETTE, WIDTH, legend_above, line_style, log_ticks, new_figure, svg_text
from experiments.studies.result import Figure as Found
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


def forest(result: StudyResult, measures: Mapping[str, str]) -> str:
    """A panel for each measure, which has this label: differences to the baseline with their 95 % intervals, as SVG.

    What is shown after correction is filled, what is not is open.
    """
    rows = [(at, name) for at in result.settings for name in result.candidates if _has(result, at, name)]
    figure, axes = new_figure(
        WIDTH, 1.2 + 0.2 * (len(rows) + len(result.settings)), rows=1, columns=len(measures)
    )
    places, labels = [], []
    place = 0.0
    for row, (at, name) in enumerate(rows):
        place -= 2.0 if row and rows[row - 1][0] != at else 1.0
        places.append(place)
        labels.append(name)
    for index, (one, (measure, label)) in enumerate(zip(axes, measures.items(), strict=True)):
        scale = result.measure(measure).scale
        for at_place, (at, name) in zip(places, rows, strict=True):
            _difference(one, result.figure(at, name, measure), at_place, scale)
        one.axvline(0.0, color="#888888", linewidth=0.8)
        one.set_yticks(places, labels if index == 0 else [""] * len(labels))
        one.tick_params(axis="y", length=0.0)
        one.set_ylim(place - 0.8, 0.6)
        one.set_xlabel(f"{label}\nless {result.baseline}")
    for at_place, (at, name) in zip(places, rows, strict=True):
        if name == result.candidates[0]:
            axes[0].text(
                -0.02, at_place + 0.8, result.named(at), transform=axes[0].get_yaxis_transform(), ha="right",
                va="center", fontsize=9, fontweight="bold",
            )  # fmt: skip
    return compact_svg(figure, result.study)


def _has(result: StudyResult, at: float, name: str) -> bool:
    return any((one.at, one.candidate) == (at, name) for one in result.figures)


def _difference(axes: Axes, figure: Found, place: float, scale: float) -> None:
    difference = figure.difference
    shown = difference is None or figure.verdict in ("better", "worse")
    colour = PALETTE[0] if shown else "#888888"
    mean = 0.0 if difference is None else difference.mean * scale
    axes.plot(
        [mean], [place], marker="o", markersize=4.5, color=colour, markerfacecolor=colour if shown else "none"
    )
    if difference is not None and difference.low is not None and difference.high is not None:
        axes.plot(
            [difference.low * scale, difference.high * scale], [place, place], color=colour, linewidth=1.2
        )


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
