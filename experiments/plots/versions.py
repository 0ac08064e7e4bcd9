"""Which version of a model served its traffic over time, and what its rollout decided meanwhile, as a plot."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.plots.plot import Plot
from experiments.plots.style import PALETTE, WIDTH, legend_above, new_figure, short
from experiments.serving import Stage, stages_of
from fleet import Run
from fleet.telemetry.groups import models_of
from fleet.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BINS = 80
LEAST_IN_BIN = 20
"""Requests in a bin, on average: a share of fewer says little."""
UNKNOWN = "no version"
UNKNOWN_COLOUR = "#bbbbbb"
BLACK = "#1a1a1a"
MOST_LEVELS = 5
"""Lines of text above the plot; a stage that finds no room there has its number alone."""
MOST_CHARACTERS = 46
"""Of a stage's text on the plot; all of it is in the table below."""
CHARACTER = 0.0078
"""Width of one, of the width of the panel."""
LINE_PT = 13.0
"""Height of a line of text, in points."""


def versions_of(run: Run) -> dict[str, list[str]]:
    """The versions of each model that has several, in the order in which they were declared or deployed."""
    versions: dict[str, list[str]] = {}
    for pool in run.pools.to_pylist():
        versions.setdefault(pool["model"], []).append(pool["version"])
    several = {model: list(dict.fromkeys(of_one)) for model, of_one in versions.items()}
    return {model: of_one for model, of_one in several.items() if len(of_one) > 1}


def versions(run: Run, model: str, name: str) -> Plot:
    """Shares of the model's requests by version, by their intended arrivals, with the rollout's stages marked."""
    requests, stages = _requests(run, model), stages_of(run, model)
    ends_s = max([pc.max(requests["arrived_s"]).as_py() or 0.0, *(stage.time_s for stage in stages), 1e-9])
    caption = "Requests by the version that served them."
    if stages:
        caption += " Numbered: what the rollout decided, as the table below has it."
    data = _shares(requests, versions_of(run)[model], ends_s)
    return Plot(name, caption, data, partial(_draw, stages=stages, ends_s=ends_s))


def _requests(run: Run, model: str) -> pa.Table:
    """The requests for a model: all of them, where there is no other."""
    if len(run.pools["model"].unique()) == 1:
        return run.records
    return run.records.filter(pc.fill_null(pc.equal(models_of(run.records, run.pools), model), False))


def _shares(requests: pa.Table, versions: list[str], ends_s: float) -> pa.Table:
    """The share of each version in each bin: NaN where nothing arrived."""
    bins = int(np.clip(len(requests) // LEAST_IN_BIN, 1, MOST_BINS))
    edges_s = np.linspace(0.0, ends_s, bins + 1)
    arrived_s = requests["arrived_s"].to_numpy()
    total, _ = np.histogram(arrived_s, edges_s)
    named = pc.fill_null(requests["version"], UNKNOWN).to_numpy(zero_copy_only=False)
    tables = []
    for version in (*versions, UNKNOWN):
        count, _ = np.histogram(arrived_s[named == version], edges_s)
        if version == UNKNOWN and not count.any():
            continue
        share = np.divide(count, total, out=np.full(bins, np.nan), where=total > 0)
        of_one = {"version": [version] * bins, "from_s": edges_s[:-1], "to_s": edges_s[1:], "share": share}
        tables.append(pa.table(of_one))
    return pa.concat_tables(tables)


def _draw(data: pa.Table, stages: list[Stage], ends_s: float) -> Figure:
    levels = _levels(stages, ends_s)
    lines = 1 + max((level for level in levels if level is not None), default=-1)
    figure, axes = new_figure(WIDTH, 2.9 + lines * LINE_PT / 72.0)
    _stack(axes, data)
    _mark(axes, stages, levels, ends_s)
    axes.set(xlim=(0.0, ends_s), ylim=(0.0, 1.0), xlabel="intended arrival (s)", ylabel="share of requests")
    legend_above(figure, axes)
    return figure


def _stack(axes: Axes, data: pa.Table) -> None:
    """Shares on one another; a time in which nothing arrived is left white."""
    below = 0.0
    for place, version in enumerate(data["version"].unique().to_pylist()):
        own = data.filter(pc.equal(data["version"], version))
        edges_s = [*own["from_s"].to_pylist(), own["to_s"][-1].as_py()]
        top = below + own["share"].to_numpy()
        unknown = version == UNKNOWN
        axes.stairs(
            top, edges_s, baseline=below, fill=True, color=UNKNOWN_COLOUR if unknown else PALETTE[place % len(PALETTE)],
            label=version if unknown else f"version {short(version)}", linewidth=0.0, alpha=0.85,
        )  # fmt: skip
        below = top


def _levels(stages: list[Stage], ends_s: float) -> list[int | None]:
    """On which line above the panel each stage's text stands; None: there is no room for it.

    From right to left: whatever a text would cover of those after it, theirs and their marks' upper ends, is below it.
    """
    levels: list[int | None] = []
    placed: list[tuple[float, int]] = []
    for number in range(len(stages), 0, -1):
        left, right = _extent(stages[number - 1], number, ends_s)
        level = 1 + max((below for begins, below in placed if begins < right), default=-1)
        levels.insert(0, level if level < MOST_LEVELS else None)
        if level < MOST_LEVELS:
            placed.append((left, level))
    return levels


def _extent(stage: Stage, number: int, ends_s: float) -> tuple[float, float]:
    """Where its text begins and ends, in widths of the panel: to the right of its time, or to the left near the end."""
    at, width = stage.time_s / ends_s, CHARACTER * (len(_label(stage, number)) + 2)
    return (at, at + width) if at + width <= 1.0 else (at - width, at)


def _label(stage: Stage, number: int) -> str:
    text = one_line(stage.stage)
    return f"{number}: {text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + '…'}"


def _mark(axes: Axes, stages: list[Stage], levels: list[int | None], ends_s: float) -> None:
    """A line at each stage's time, up to its text above the panel; a number within it where there is no room."""
    upright = axes.get_xaxis_transform()
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    for number, (stage, level) in enumerate(zip(stages, levels, strict=True), 1):
        axes.axvline(stage.time_s, color=BLACK, linewidth=0.8)
        height_pt = -LINE_PT if level is None else LINE_PT * (level + 0.6)
        axes.annotate(
            "", (stage.time_s, 1.0), (0.0, height_pt), xycoords=upright, textcoords="offset points",
            arrowprops={"arrowstyle": "-", "shrinkA": 0.0, "shrinkB": 0.0, "color": BLACK, "linewidth": 0.8},
        )  # fmt: skip
        left, _ = _extent(stage, number, ends_s)
        aside_pt, side = (4.0, "left") if left >= stage.time_s / ends_s else (-4.0, "right")
        axes.annotate(
            str(number) if level is None else _label(stage, number), (stage.time_s, 1.0), (aside_pt, height_pt),
            xycoords=upright, textcoords="offset points", fontsize=8, va="center", ha=side, bbox=white,
        )  # fmt: skip
