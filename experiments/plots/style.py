"""What all plots are drawn with: figures, colours, lines, legends, axes. Imports matplotlib within functions only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fleet.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# Okabe and Ito's palette, which keeps its differences under the common colour vision deficiencies; the yellow is left
# out (too pale for a line on white), and line styles repeat the distinction.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
GREY = "#888888"
WIDTH = 9.0
"""Of a figure, in inches: about that of the page's text."""
FEW = 8
"""Candidates that one panel can hold apart; of more each has a panel, or a row, of its own."""
TOP, BOTTOM = 0.55, 0.6
"""Room above and below small multiples, in inches."""
LONGEST = 40
"""Characters of a name in a plot: a longer one keeps its two ends, which is where names differ."""


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
        plain(axes)
    return figure, panels if rows else panels[0]


def small_multiples(count: int, *, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """`count` panels of `height` inches in rows of `columns`, all on the same axes, with room for names and a legend.

    They stand where they stand: to measure the texts of fifty panels takes longer than to draw them.
    """
    from matplotlib.figure import Figure

    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    high = TOP + height * rows + BOTTOM
    figure = Figure(figsize=(WIDTH, high))
    edges = {
        "left": 0.75 / WIDTH,
        "right": 1.0 - 0.1 / WIDTH,
        "bottom": BOTTOM / high,
        "top": 1.0 - TOP / high,
    }
    gaps = {"hspace": 0.28, "wspace": 0.1}
    panels = list(
        np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True, gridspec_kw=edges | gaps)).flat
    )
    for place, axes in enumerate(panels[:count]):
        plain(axes)
        # The last panel of a column that ends early has the labels that are otherwise below it.
        axes.tick_params(labelsize=8, labelbottom=place + columns >= count)
    for spare in panels[count:]:
        figure.delaxes(spare)
    return figure, panels[:count]


def around(figure: Figure, panels: Sequence[Axes], x_label: str, y_label: str) -> None:
    """What the axes of small multiples are called; with minor ticks they would be grey with them."""
    from matplotlib.ticker import NullLocator

    figure.supxlabel(x_label, fontsize=9, y=0.08 / figure.get_figheight(), va="bottom")
    figure.supylabel(y_label, fontsize=9, x=0.06 / WIDTH, ha="left")
    panels[0].xaxis.set_minor_locator(NullLocator())
    panels[0].yaxis.set_minor_locator(NullLocator())


def plain(axes: Axes) -> None:
    """A grid behind what is drawn, and no frame above it and to the right."""
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def short(name: str) -> str:
    """A name in one line that leaves room for the plot beside it."""
    text = one_line(name)
    if len(text) <= LONGEST:
        return text
    half = (LONGEST - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def legend_label(name: str) -> str:
    """`name`, for a legend: matplotlib leaves out what begins with an underscore."""
    text = short(name)
    return f" {text}" if text.startswith("_") else text


def legend_above(figure: Figure, axes: Axes) -> None:
    """Over the panels, where it hides no line."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        widest = max(len(label) for label in labels)
        figure.legend(
            handles, labels, loc="outside upper left", ncols=max(1, 100 // (widest + 8)), frameon=False
        )


def log_ticks(axes: Axes, which: Literal["x", "y"] = "x", *, most: int = 7) -> None:
    """A logarithmic axis with 1, 2, 5, 10, … as plain numbers; powers of 10 alone where it spans many of them.

    Where it spans less than one, numbers at even steps, `most` of them. To be called when everything is drawn.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    subs = (1.0,) if high > 1e4 * low > 0.0 else (1.0, 2.0, 5.0)
    narrow = high < 5.0 * low
    axis.set_major_locator(MaxNLocator(most) if narrow else LogLocator(base=10, subs=subs))
    axis.set_minor_locator(NullLocator() if narrow else LogLocator(base=10, subs="auto"))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def wide_enough(axes: Axes, which: Literal["x", "y"] = "x") -> None:
    """At least a fifth of its value to see on an axis above 0: one that spans nothing has no ticks to read."""
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    if high < low * 1.2:
        middle = (low * high) ** 0.5
        axes.set(**{f"{which}lim": (middle / 1.1, middle * 1.1)})


def counts(axes: Axes) -> None:
    """A y axis of whole things, from 0, that shows at least one."""
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(0.0, max(1.0, axes.get_ylim()[1]))
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))


def heat(
    axes: Axes, values: Any, *, log: bool = False, **more: Any
) -> AxesImage:  # Any: arrays; imshow's arguments
    """Rows of colours, dark for much; NaN is left white."""
    from matplotlib.colors import LogNorm, Normalize

    known = values[np.isfinite(values) & (values > 0.0)] if log else values[np.isfinite(values)]
    low, high = float(known.min(initial=np.inf)), float(known.max(initial=-np.inf))
    if high <= low:  # colours must span something
        low, high = (low / 2.0, low * 2.0) if log else (min(0.0, low), max(1.0, high))
    norm = LogNorm(low, high) if log else Normalize(low, high)
    axes.grid(visible=False)
    shown = np.ma.masked_invalid(values)
    return axes.imshow(shown, aspect="auto", interpolation="nearest", cmap="viridis_r", norm=norm, **more)


def colour_scale(figure: Figure, axes: Axes, image: AxesImage, label: str) -> None:
    """What the colours of `heat` mean, below it."""
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, aspect=25, pad=0.02)
    bar.set_label(label, size=8)
    bar.ax.tick_params(labelsize=7)


def named_rows(axes: Axes, names: Sequence[str]) -> None:
    """The rows of a panel, from the top, by name."""
    axes.set_yticks(range(len(names)), [short(name) for name in names], fontsize=8)
    axes.tick_params(axis="y", length=0)
