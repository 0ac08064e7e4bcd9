"""The plot of a front, as SVG text: who is on it, whom it dominates, the knee, and the constraints as lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from experiments.metrics import Metric
from experiments.plots import PALETTE, WIDTH, legend_above, log_ticks, new_figure, svg_text
from experiments.sweep.judging import Candidate, Judging, Standing
from experiments.sweep.pareto import Pareto
from experiments.sweep.space import SweepError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MANY_FOLD = 30.0
"""A figure that spans more than this is shown on a logarithmic axis."""
_LOOKS: dict[Standing, tuple[str, str, str]] = {
    "dominated": ("o", "#bbbbbb", "dominated"),
    "infeasible": ("x", PALETTE[1], "does not keep the constraints"),
    "front": ("o", PALETTE[0], "front"),
}


def plot_pareto(found: Pareto, x: str | None = None, y: str | None = None) -> str:
    """Every candidate by two of the figures that it was judged by: unless said, the first two of them.

    Raises `SweepError` where there are not two, or one that is named is none of them.
    """
    across, up = _axes_of(found, x, y)
    figure, axes = new_figure(WIDTH, 4.8)
    for standing in _LOOKS:
        _points(axes, [one for one in found.candidates if one.standing == standing], standing, across, up)
    front = sorted((_at(one, across), _at(one, up)) for one in found.candidates if one.standing == "front")
    if len(found.objectives) == 2 and {across.key, up.key} == {one.key for one in found.objectives}:
        axes.plot(*zip(*front, strict=True), color=PALETTE[0], linewidth=1.0, zorder=2)
    _mark_knee(axes, found, across, up)
    _mark_constraints(axes, found, across, up)
    _label(axes, found, across, "x")
    _label(axes, found, up, "y")
    legend_above(figure, axes)
    return svg_text(figure, f"pareto-{across.key}-{up.key}")


def _axes_of(found: Pareto, x: str | None, y: str | None) -> tuple[Metric, Metric]:
    judging: list[Judging] = [*found.objectives, *found.constraints]
    figures = {one.key: one.metric for one in judging}
    rest = [key for key in figures if key not in (x, y)]
    chosen = [rest.pop(0) if key is None and rest else key for key in (x, y)]
    metrics = [figures[key] for key in chosen if key in figures]
    if len(metrics) < 2:
        raise SweepError(
            f"a plot of a front needs two figures out of those that were judged: {', '.join(figures)}"
        )
    return metrics[0], metrics[1]


def _at(one: Candidate, metric: Metric) -> float:
    return one.means[metric.key] * metric.scale


def _points(axes: Axes, shown: Sequence[Candidate], standing: Standing, across: Metric, up: Metric) -> None:
    if shown:
        marker, colour, label = _LOOKS[standing]
        places = [_at(one, across) for one in shown], [_at(one, up) for one in shown]
        axes.scatter(*places, marker=marker, color=colour, s=28, label=f"{label} ({len(shown)})", zorder=3)


def _mark_knee(axes: Axes, found: Pareto, across: Metric, up: Metric) -> None:
    for one in found.candidates:
        if one.name == found.knee:
            place = (_at(one, across), _at(one, up))
            axes.scatter(
                [place[0]], [place[1]], label=f"knee: {one.name}", marker="o", s=130, facecolors="none",
                edgecolors=PALETTE[6], zorder=4,
            )  # fmt: skip


def _mark_constraints(axes: Axes, found: Pareto, across: Metric, up: Metric) -> None:
    for one in found.constraints:
        line: dict[str, Any] = {"color": PALETTE[1], "linestyle": "--", "linewidth": 1.0, "label": str(one)}
        if one.key == across.key:
            axes.axvline(one.bound * across.scale, **line)
        elif one.key == up.key:
            axes.axhline(one.bound * up.scale, **line)


def _label(axes: Axes, found: Pareto, metric: Metric, which: Literal["x", "y"]) -> None:
    best = {one.key: one.best for one in found.objectives}
    way = {"max": " (more is better)", "min": " (less is better)"}.get(best.get(metric.key, ""), "")
    axes.set(**{f"{which}label": f"{metric.label}{way}"})
    values = [_at(one, metric) for one in found.candidates if metric.key in one.means]
    if values and min(values) > 0.0 and max(values) > MANY_FOLD * min(values):
        log_ticks(axes, which)
