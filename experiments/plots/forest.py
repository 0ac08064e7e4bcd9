"""What was found, at a glance: the paired difference of each candidate to the baseline with its interval.

Colour and shape say the verdict, so that print and every eye can tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import pyarrow as pa

from experiments.findings import Findings, Row
from experiments.plots.plot import Plot, figure_of
from experiments.plots.style import FEW, GREY, WIDTH, log_ticks, named_rows, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 24
"""Metrics that are drawn; of more the table has the rest."""
COLUMNS = 3
LETTERS = 100
"""Of a line above a panel as wide as the figure; panels beside one another have their share."""
LINE = 0.14
"""Inches that one more line above a panel takes."""
WORDS = {"lower": "lower is better", "higher": "higher is better", "neither": "described, not judged"}


class Mark(NamedTuple):
    """How a verdict is drawn."""

    colour: str
    shape: str
    filled: bool = True
    size: float = 6.5


MARKS = {
    "better": Mark("#00664a", "D"),
    "worse": Mark("#c04a00", "s"),
    "no difference shown": Mark("#555555", "o"),
    "exact": Mark("#1a1a1a", "o", size=4.0),
    "too little completed": Mark(GREY, "X", filled=False),
    "not judged": Mark("#555555", "o", filled=False),
}
CAPTION = """Mean paired difference to {baseline}, with its 95 % interval; a verdict holds after Holm's correction. A
dot without an interval is exact: the same in every run. Hollow: not judged."""
RATIOS = "On the scale of ratios, as candidate over baseline."
LEFT_OUT = "The first {most} figures of {all} are drawn; the table has all."

Which = Literal["primary", "secondary"]
Cells: TypeAlias = dict[str, Any]  # Any: cells


def plot_forest(found: Findings, which: Which = "primary") -> Figure:
    """Differences of a report's primary metric, or of the `secondary` ones; of all where no metric is primary.

    Raises `ValueError` where nothing was compared.
    """
    return figure_of(forest(found, which), "there is no difference between candidates")


def forests(found: Findings) -> list[Plot]:
    """The primary metric, larger, then the others; all in one where none is primary."""
    plots = [forest(found, "primary"), forest(found, "secondary") if found.primary is not None else None]
    return [plot for plot in plots if plot is not None]


def forest(found: Findings, which: Which = "primary") -> Plot | None:
    """See `plot_forest`; None where nothing was compared."""
    family = "all" if found.primary is None else which
    rows = [row for row in found.shown if row.family == family and row.difference is not None]
    if not rows:
        return None
    metrics = list(dict.fromkeys(row.metric for row in rows))
    drawn = metrics[:MOST_PANELS]
    caption = CAPTION.format(baseline=found.baseline).replace("\n", " ")
    if found.scale == "ratio":
        caption += f" {RATIOS}"
    if len(metrics) > len(drawn):
        caption += f" {LEFT_OUT.format(most=len(drawn), all=len(metrics))}"
    data = pa.Table.from_pylist(list(_cells(rows, drawn)), SCHEMA)
    candidates = [name for name in found.measured if name != found.baseline]
    large = family == "primary"
    draw = partial(_draw, candidates=candidates, columns=1 if large and len(drawn) <= COLUMNS else COLUMNS)
    name = "forest" if which == "primary" else "forest-secondary"
    return Plot(name, caption, data, draw, detail=not large and len(candidates) > FEW)


SCHEMA = pa.schema([
    ("metric", pa.string()), ("label", pa.string()), ("better", pa.string()), ("candidate", pa.string()),
    ("scale", pa.string()), ("difference", pa.float64()), ("low", pa.float64()), ("high", pa.float64()),
    ("verdict", pa.string()),
])  # fmt: skip


def _cells(rows: Sequence[Row], metrics: Sequence[str]) -> Iterator[Cells]:
    """Rows of `SCHEMA`, in the unit that the label names."""
    for row in rows:
        difference = row.difference
        if difference is None or row.metric not in metrics:
            continue
        times = row.scale if difference.scale == "difference" else 1.0
        low, high = (None if end is None else end * times for end in (difference.low, difference.high))
        yield {
            "metric": row.metric, "label": row.label, "better": row.better, "candidate": row.candidate,
            "scale": difference.scale, "difference": difference.mean * times, "low": low, "high": high,
            "verdict": row.verdict or "not judged",
        }  # fmt: skip


def _draw(data: pa.Table, candidates: Sequence[str], columns: int) -> Figure:
    """A panel for each metric, a row for each candidate."""
    from matplotlib.figure import Figure

    shown = list(_by_panel(data.to_pylist()).values())
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    titles = [_title(of_one[0], LETTERS // columns) for of_one in shown]
    step = 0.3 if len(candidates) <= FEW else 0.19
    more = LINE * max(title.count("\n") for title in titles)
    figure = Figure(
        figsize=(WIDTH, 0.5 + (0.85 + more + step * len(candidates)) * rows), layout="constrained"
    )
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for axes, of_one, title in zip(panels, shown, titles, strict=False):
        axes.set_title(title, loc="left", fontsize=8)
        _panel(axes, of_one, candidates)
    for spare in panels[len(shown) :]:
        spare.set_visible(False)
    _legend(figure, data["verdict"].unique().to_pylist())
    return figure


def _by_panel(rows: Sequence[Cells]) -> dict[tuple[str, str], list[Cells]]:
    """The rows of each metric; where some are ratios and others, of values at 0, differences, apart."""
    panels: dict[tuple[str, str], list[Cells]] = {}
    for row in rows:
        panels.setdefault((row["metric"], row["scale"]), []).append(row)
    return panels


def _title(of: Cells, letters: int) -> str:
    """What a panel shows, in lines that end before the next panel begins."""
    return "\n".join(wrap(f"{of['label']}, {WORDS[of['better']]}", letters))


def _panel(axes: Axes, rows: Sequence[Cells], candidates: Sequence[str]) -> None:
    plain(axes)
    ratio = rows[0]["scale"] == "ratio"
    axes.axvline(1.0 if ratio else 0.0, color="#1a1a1a", linewidth=1.0)
    for row in rows:
        _row(axes, row, candidates.index(row["candidate"]))
    if ratio:
        ends = [row[end] for row in rows for end in ("difference", "low", "high") if row[end] is not None]
        axes.set(xscale="log", xlim=(min(1.0, *ends) / 1.02, max(1.0, *ends) * 1.02))
        log_ticks(axes, most=4)
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("ratio to baseline (logarithmic)" if ratio else "difference to baseline", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.set_ylim(len(candidates) - 0.4, -0.6)
    named_rows(axes, candidates)


def _row(axes: Axes, row: dict[str, Any], place: int) -> None:  # Any: cells
    mark = MARKS[row["verdict"]]
    if row["low"] is not None and row["high"] is not None:
        axes.plot(
            [row["low"], row["high"]], [place, place], color=mark.colour, linewidth=1.6, solid_capstyle="butt"
        )
    axes.plot([row["difference"]], [place], **_marker(mark))


def _marker(mark: Mark) -> dict[str, Any]:  # Any: matplotlib's keyword arguments
    return {
        "marker": mark.shape,
        "markersize": mark.size,
        "color": mark.colour,
        "markerfacecolor": mark.colour if mark.filled else "white",
        "linestyle": "none",
    }


def _legend(figure: Figure, verdicts: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    shown = [verdict for verdict in MARKS if verdict in verdicts]
    handles = [Line2D([], [], **_marker(MARKS[verdict])) for verdict in shown]
    figure.legend(handles, shown, loc="outside upper left", ncols=len(shown), frameon=False, fontsize=9)
