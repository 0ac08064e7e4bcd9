"""The plots of the studies: a line for each candidate over the setting, in a band that spans its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from experiments.plots import WIDTH, legend_above, line_style, log_ticks, new_figure, svg_text
from experiments.studies.result import StudyResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Panel(Struct, frozen=True, kw_only=True):
    """One panel: a measure against the setting."""

    measure: str
    label: str
    """Of the y axis, with its unit."""
    log: bool = False
    scale: float | None = None
    """Shown over measured value; None: the measure's own."""
    candidates: tuple[str, ...] | None = None
    """None: all."""


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
    figure, axes = new_figure(WIDTH, 0.7 + 2.8 * rows, rows=rows, columns=columns)
    for panel, one in zip(panels, axes, strict=False):
        _draw(one, result, panel)
        if x_log:
            log_ticks(one)
        if x_ticks:
            one.set_xticks(list(x_ticks), [f"{tick:g}" for tick in x_ticks])
            one.minorticks_off()
        one.set_xlabel(x_label)
        one.xaxis.set_tick_params(labelbottom=True)
    for spare in axes[len(panels) :]:
        spare.set_visible(False)
    legend_above(figure, axes[0])
    return svg_text(figure, result.study)


def _draw(axes: Axes, result: StudyResult, panel: Panel) -> None:
    scale = result.measure(panel.measure).scale if panel.scale is None else panel.scale
    for index, candidate in enumerate(result.candidates):
        if panel.candidates is not None and candidate not in panel.candidates:
            continue
        at, figures = result.curve(candidate, panel.measure)
        known = [[value for value in one.by_seed if value is not None] for one in figures]
        low = [min(values, default=one.mean) * scale for values, one in zip(known, figures, strict=True)]
        high = [max(values, default=one.mean) * scale for values, one in zip(known, figures, strict=True)]
        style = line_style(index)
        axes.fill_between(at, low, high, color=style["color"], alpha=0.12, linewidth=0.0)
        axes.plot(
            at, [one.mean * scale for one in figures], **style, marker="o", markersize=3.5, label=candidate
        )
    if panel.log:
        log_ticks(axes, "y")
    else:
        axes.set_ylim(bottom=0.0)
    axes.set_ylabel(panel.label)
