"""Latency against load within runs: how requests fared that arrived while much, or little, was arriving.

The one thing to know: it uses the variation that the traffic has of its own, so it is drawn where that is more than
chance. A window inherits what the ones before it left, which a curve of loads that are held for long does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.plots.latency import LABELS, LEAST_MS, objective_s
from experiments.plots.plot import Plot, Runs, figure_of
from experiments.plots.style import (
    FEW,
    GREY,
    WIDTH,
    around,
    legend_above,
    legend_label,
    line_style,
    log_ticks,
    new_figure,
    short,
    small_multiples,
    wide_enough,
)
from fleet import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]

IN_WINDOW = 25
"""Arrivals in a window, on average."""
FEWEST_WINDOWS, MOST_WINDOWS = 20, 200
"""Of a run."""
LEVELS = 8
"""Of load, with equally many requests in each."""
FOR_P99 = 200
"""Completed requests that a level must have for its 99th percentile to be of more than the slowest one or two."""
MORE_THAN_CHANCE = 2.0
"""Variance of the arrivals in a window over their mean: 1 where they come by chance at one rate (Poisson)."""
CAPTION = """Requests by how many arrived within the same {window_s:.3g} s, in levels of equally many requests, all
runs of a candidate together: solid the median, dashed the 99th percentile of those completed. It is the load's own
variation within a run, and a window inherits the queue of those before it; “fleet curve” holds each load for long."""


def plot_load(runs: Runs, column: str = "e2e_s") -> Figure:
    """A latency against the arrivals a second at the time, as median and 99th percentile for each level of load.

    Raises `ValueError` where the load varies no more than by chance, or there are too few requests.
    """
    return figure_of(
        load(runs, column), "the load varies no more than by chance, or the requests are too few"
    )


def load(runs: Runs, column: str = "e2e_s") -> Plot | None:
    """Latency by level of load; None where there is one load, or too few requests to say."""
    window_s = _window_s([run for of_one in runs.values() for run in of_one])
    if window_s is None:
        return None
    edges_per_s = _levels(runs, window_s)
    if len(edges_per_s) < 3:
        return None
    tables = [_by_level(name, list(of_one), column, window_s, edges_per_s) for name, of_one in runs.items()]
    data = pa.concat_tables(tables)
    if not len(data):
        return None
    bound_s = objective_s([run for of_one in runs.values() for run in of_one], column)
    many = len(runs) > FEW
    caption = CAPTION.format(window_s=window_s).replace("\n", " ")
    draw = _small if many else partial(_together, names=list(runs))
    draw = partial(draw, label=LABELS.get(column, column), bound_s=bound_s)
    return Plot("latency-load", caption, data, draw, detail=many)


def _window_s(runs: list[Run]) -> float | None:
    """The width of a window, if the arrivals of any run vary by more than chance from window to window."""
    longest_s = max((_span_s(run) for run in runs), default=0.0)
    fewest = min((len(run.records) for run in runs), default=0)
    windows = min(fewest // IN_WINDOW, MOST_WINDOWS)
    if windows < FEWEST_WINDOWS or not longest_s:
        return None
    window_s = longest_s / windows
    counted = [np.bincount(_windows(run, window_s)) for run in runs]
    varies = any(one.var() / one.mean() >= MORE_THAN_CHANCE for one in counted)
    return window_s if varies else None


def _span_s(run: Run) -> float:
    return float(pc.max(run.records["arrived_s"]).as_py() or 0.0)


def _windows(run: Run, window_s: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The number of the window that each request arrived in."""
    arrived_s: Floats = run.records["arrived_s"].to_numpy()
    return (arrived_s / window_s).astype(np.int64)


def _rates_per_s(run: Run, window_s: float) -> Floats:
    """For each request the arrivals a second of its window."""
    windows = _windows(run, window_s)
    rates: Floats = np.bincount(windows)[windows] / window_s
    return rates


def _levels(runs: Runs, window_s: float) -> Floats:
    """Bounds of the levels, over the first candidate's requests: all candidates are sent the same."""
    first = np.concatenate([_rates_per_s(run, window_s) for run in next(iter(runs.values()))])
    return np.unique(np.quantile(first, np.linspace(0.0, 1.0, LEVELS + 1)))


def _by_level(name: str, runs: list[Run], column: str, window_s: float, edges_per_s: Floats) -> pa.Table:
    return pa.Table.from_pylist(list(_rows(name, runs, column, window_s, edges_per_s)), SCHEMA)


SCHEMA = pa.schema([
    ("candidate", pa.string()), ("arrivals_per_s", pa.float64()), ("least_per_s", pa.float64()),
    ("most_per_s", pa.float64()), ("requests", pa.int64()), ("completed", pa.int64()), ("p50_ms", pa.float64()),
    ("p99_ms", pa.float64()),
])  # fmt: skip


def _rows(
    name: str, runs: list[Run], column: str, window_s: float, edges_per_s: Floats
) -> Iterator[dict[str, str | float | None]]:
    rates = np.concatenate([_rates_per_s(run, window_s) for run in runs])
    values_s = np.concatenate([run.records[column].to_numpy() for run in runs])
    level = np.clip(np.searchsorted(edges_per_s, rates, side="right") - 1, 0, len(edges_per_s) - 2)
    for number in range(len(edges_per_s) - 1):
        own = level == number
        done_ms = values_s[own & np.isfinite(values_s)] * 1000.0
        if not len(done_ms):
            continue
        yield {
            "candidate": name, "arrivals_per_s": float(rates[own].mean()), "least_per_s": float(rates[own].min()),
            "most_per_s": float(rates[own].max()), "requests": int(own.sum()), "completed": len(done_ms),
            "p50_ms": float(np.median(done_ms)),
            "p99_ms": float(np.quantile(done_ms, 0.99)) if len(done_ms) >= FOR_P99 else None,
        }  # fmt: skip


def _together(data: pa.Table, names: Sequence[str], label: str, bound_s: float | None) -> Figure:
    figure, axes = new_figure(WIDTH, 4.0)
    for name in data["candidate"].unique().to_pylist():
        _curve(axes, data, name, line_style(names.index(name))["color"], legend_label(name))
    _mark(axes, bound_s)
    _scales(axes)
    axes.set_xlabel("arrivals a second, at the time")
    axes.set_ylabel(f"{label}\n(ms, logarithmic)")
    legend_above(figure, axes)
    return figure


def _small(data: pa.Table, label: str, bound_s: float | None) -> Figure:
    """A panel for each candidate, the first one in grey behind all others."""
    names = data["candidate"].unique().to_pylist()
    figure, panels = small_multiples(len(names), columns=4, height=1.45)
    for index, (axes, name) in enumerate(zip(panels, names, strict=True)):
        if index:
            _curve(axes, data, names[0], GREY, None)
        _curve(axes, data, name, line_style(0)["color"], None)
        _mark(axes, bound_s)
        axes.set_title(short(name), loc="left", fontsize=8)
    _scales(panels[0])
    around(figure, panels, "arrivals a second, at the time", f"{label} (ms, logarithmic)")
    return figure


def _curve(axes: Axes, data: pa.Table, name: str, colour: str, label: str | None) -> None:
    own = data.filter(pc.equal(data["candidate"], name))
    at = own["arrivals_per_s"].to_numpy()
    p50, p99 = (np.maximum(own[part].to_numpy().astype(float), LEAST_MS) for part in ("p50_ms", "p99_ms"))
    axes.plot(at, p50, color=colour, linewidth=1.5, marker="o", markersize=3.5, label=label)
    axes.plot(at, p99, color=colour, linewidth=1.2, marker="s", markersize=3.0, linestyle="--", alpha=0.7)


def _scales(axes: Axes) -> None:
    axes.set_xlim(left=0.0)
    axes.set_yscale("log")
    wide_enough(axes, "y")
    log_ticks(axes, "y")


def _mark(axes: Axes, bound_s: float | None) -> None:
    if bound_s is not None:
        axes.axhline(bound_s * 1000.0, color="#1a1a1a", linewidth=1.0, linestyle=(0, (4, 3)))
