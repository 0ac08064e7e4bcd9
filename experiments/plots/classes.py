"""Latency of each class of requests: by tenant, priority, kind or model, or whatever else tells them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.measured import natural
from experiments.plots.latency import LABELS, LEAST_MS
from experiments.plots.plot import Plot, Runs, figure_of, there
from experiments.plots.style import (
    FEW,
    WIDTH,
    heat,
    legend_above,
    legend_label,
    line_style,
    log_ticks,
    named_rows,
    new_figure,
    short,
    wide_enough,
)
from fleet import Run
from fleet.telemetry.groups import group_label, groups_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ("tenant", "priority", "kind", "model")
"""What a report tells requests apart by, where they differ in it."""
MOST = 12
"""Classes that are drawn: those with the most requests."""
CAPTION = """{label} by {column} of completed requests: hollow the median, filled the 99th percentile of each run, as
the median over the seeds; whiskers span the seeds."""
HEAT = """99th percentile of {label} by {column}, of completed requests: the median over the seeds, in ms."""
LEFT_OUT = "The {most} classes with the most requests of {all}."


class Quantiles(NamedTuple):
    """Of one class in one run."""

    requests: int
    p50_ms: float
    p99_ms: float


def plot_classes(runs: Runs, by: str, column: str = "e2e_s") -> Figure:
    """Median and 99th percentile of a latency by class and candidate, such as ``by="tenant"``.

    Raises `ValueError` where there is nothing of that name to tell requests apart by, or but one class.
    """
    of_class = {name: [_quantiles(run, by, column) for run in of_one] for name, of_one in runs.items()}
    return figure_of(_plot(of_class, by, column), f"all requests are alike in {by}, or none completed")


def classes(runs: Runs, column: str) -> list[Plot]:
    """A plot for each of `COLUMNS` in which requests differ."""
    every = [run for of_one in runs.values() for run in of_one]
    told = [name for name in COLUMNS if any(_differ(run, name) for run in every)]
    return there(
        _plot(
            {name: [_quantiles(run, by, column) for run in of_one] for name, of_one in runs.items()},
            by,
            column,
        )
        for by in told
    )


def _differ(run: Run, name: str) -> bool:
    return name in run.records.column_names and len(run.records[name].unique()) > 1


def _quantiles(run: Run, by: str, column: str) -> dict[str, Quantiles]:
    """By the label of each class of which any request has the latency."""
    found = {}
    for group, rows in groups_of((by,), run.records, run.pools).items():
        values_s = run.records[column].take(rows).drop_null().to_numpy()
        if len(values_s):
            p50, p99 = np.quantile(values_s, (0.5, 0.99)) * 1000.0
            found[group_label((by,), group)] = Quantiles(len(rows), float(p50), float(p99))
    return found


def _plot(of_class: Mapping[str, Sequence[Mapping[str, Quantiles]]], by: str, column: str) -> Plot | None:
    requests: Counter[str] = Counter()
    for of_one in of_class.values():
        for run in of_one:
            requests.update({label: one.requests for label, one in run.items()})
    if len(requests) < 2:
        return None
    most = {label for label, _ in requests.most_common(MOST)}
    shown = sorted(most, key=natural)
    many = len(of_class) > FEW
    label = LABELS.get(column, column)
    caption = (HEAT if many else CAPTION).format(label=label, column=by).replace("\n", " ")
    if len(requests) > MOST:
        caption += f" {LEFT_OUT.format(most=MOST, all=len(requests))}"
    data = pa.Table.from_pylist(list(_rows(of_class, shown)), SCHEMA)
    draw = _heat if many else partial(_dots, names=list(of_class))
    draw = partial(draw, classes=shown, label=label)
    return Plot(f"classes-{by}", caption[0].upper() + caption[1:], data, draw)


SCHEMA = pa.schema([
    ("class", pa.string()), ("candidate", pa.string()), ("runs", pa.int64()), ("requests", pa.int64()),
    ("p50_ms", pa.float64()), ("p50_least_ms", pa.float64()), ("p50_most_ms", pa.float64()),
    ("p99_ms", pa.float64()), ("p99_least_ms", pa.float64()), ("p99_most_ms", pa.float64()),
])  # fmt: skip


def _rows(
    of_class: Mapping[str, Sequence[Mapping[str, Quantiles]]], shown: Sequence[str]
) -> Iterator[dict[str, Any]]:  # Any: cells
    for label in shown:
        for name, of_one in of_class.items():
            found = [run[label] for run in of_one if label in run]
            if not found:
                continue
            p50, p99 = ([getattr(one, part) for one in found] for part in ("p50_ms", "p99_ms"))
            yield {
                "class": label, "candidate": name, "runs": len(found),
                "requests": sum(one.requests for one in found),
                "p50_ms": float(np.median(p50)), "p50_least_ms": min(p50), "p50_most_ms": max(p50),
                "p99_ms": float(np.median(p99)), "p99_least_ms": min(p99), "p99_most_ms": max(p99),
            }  # fmt: skip


def _dots(data: pa.Table, names: Sequence[str], classes: Sequence[str], label: str) -> Figure:
    """A row for each class, in it one for each candidate."""
    figure, axes = new_figure(WIDTH, 0.9 + len(classes) * (0.16 + 0.17 * len(names)))
    for index, name in enumerate(names):
        own = data.filter(pc.equal(data["candidate"], name)).to_pylist()
        if not own:
            continue
        offset = 0.75 * ((index + 0.5) / len(names) - 0.5)
        _candidate(axes, own, [classes.index(row["class"]) + offset for row in own], index)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    named_rows(axes, classes)
    axes.set_yticks([place + 0.5 for place in range(len(classes) - 1)], minor=True)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="y", which="minor", color="#e5e5e5", linewidth=0.6)
    axes.tick_params(axis="y", which="minor", length=0)
    axes.set_xscale("log")
    wide_enough(axes)
    log_ticks(axes)
    axes.set_xlabel(f"{label} (ms, logarithmic)")
    legend_above(figure, axes)
    return figure


def _candidate(
    axes: Axes, rows: Sequence[dict[str, Any]], places: Sequence[float], index: int
) -> None:  # Any: cells
    colour = line_style(index)["color"]
    for part, face in (("p50", "white"), ("p99", colour)):
        at, least, most = (
            np.maximum([row[f"{part}{end}_ms"] for row in rows], LEAST_MS) for end in ("", "_least", "_most")
        )
        axes.errorbar(
            at, places, xerr=[at - least, most - at], fmt="o", color=colour, markerfacecolor=face, markersize=5,
            elinewidth=1.2, label=legend_label(rows[0]["candidate"]) if part == "p99" else None,
        )  # fmt: skip


def _heat(data: pa.Table, classes: Sequence[str], label: str) -> Figure:
    """A row for each candidate, a column for each class, with the numbers."""
    names = data["candidate"].unique().to_pylist()
    values = np.full((len(names), len(classes)), np.nan)
    for row in data.to_pylist():
        values[names.index(row["candidate"]), classes.index(row["class"])] = max(row["p99_ms"], LEAST_MS)
    figure, axes = new_figure(WIDTH, 1.2 + 0.19 * len(names))
    heat(axes, values, log=True)
    axes.set_title(f"p99 of {label} (ms)", loc="left", fontsize=9)
    named_rows(axes, names)
    axes.set_xticks(range(len(classes)), [short(one) for one in classes], fontsize=8, rotation=30, ha="right")
    middle = float(np.sqrt(np.nanmin(values) * np.nanmax(values)))
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            ink = "white" if value > middle else "#1a1a1a"
            axes.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=7, color=ink)
    return figure
