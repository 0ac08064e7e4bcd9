"""How latency is distributed: the share of requests that were answered within a time.

The share's axis is that of probability paper (Hazen, "Storage to Be Provided in Impounding Reservoirs", Trans. ASCE
77, 1914): equal steps are equal steps of the normal quantile. Half of the height is below the 75th percentile and the
tail has room for each nine; on time's logarithmic axis a lognormal latency is a straight line. By nines alone half of
all requests would have a tenth of the height, and on a plain axis all of the tail a hundredth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.plots.plot import Plot, Runs, figure_of, there
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

LABELS = {
    "e2e_s": "end-to-end latency",
    "ttft_s": "time to first token",
    "tpot_s": "time per output token",
    "itl_max_s": "longest gap between tokens",
    "queue_s": "time waited",
    "service_s": "time served",
}
CAPTIONS = {
    "e2e_s": "From the intended arrival to the reply, of completed requests.",
    "ttft_s": "From the intended arrival to the first output token (TTFT).",
    "tpot_s": "Mean gap between two output tokens of a request (TPOT).",
}
SCALE = "The scale of shares is that of the normal quantile: median and tail both have room."
LEAST_MS = 1e-3
"""What is quicker is drawn there: 0 has no place on a logarithmic axis."""
FIRST = 0.05
"""The share that the axis begins with: who is quicker than that is of no interest."""
POINTS = 400
TICKS_OF_SMALL = (FIRST, 0.5, 0.9, 0.99, 0.9999)
TICKS = (FIRST, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.99999, 0.999999)


def plot_latency(runs: Runs, column: str = "e2e_s") -> Figure:
    """Share of completed requests with at most that much of a latency; all runs of a candidate together.

    `column` is one of the records, in seconds: ``e2e_s``, ``ttft_s``, ``tpot_s``, ``itl_max_s``, ``queue_s``. Raises
    `ValueError` where no run has any.
    """
    return figure_of(latency(runs, column), f"no run has {column}")


def latencies(runs: Runs, *, tokens: bool) -> list[Plot]:
    """End to end, and where `tokens` are served of the first and of the others."""
    return there(latency(runs, column) for column in ("e2e_s", *(("ttft_s", "tpot_s") if tokens else ())))


def latency(runs: Runs, column: str = "e2e_s") -> Plot | None:
    """The distributions of one latency; None where no request has it."""
    tables = list(_curves(runs, column))
    if not tables:
        return None
    bound_s = objective_s([run for of_one in runs.values() for run in of_one], column)
    many = len(tables) > FEW
    caption = f"{CAPTIONS.get(column, '')} All runs of a candidate together. {SCALE}"
    if bound_s is not None:
        caption += " Dashed and upright: the objective."
    if many:
        caption += f" Grey in each panel: {short(next(iter(runs)))}."
    draw = _small if many else partial(_together, names=list(runs))
    draw = partial(draw, label=LABELS.get(column, column), bound_s=bound_s)
    return Plot(f"latency-{column}", caption.strip(), pa.concat_tables(tables), draw, detail=many)


def objective_s(runs: list[Run], column: str) -> float | None:
    """The objective that all requests of these runs have on this latency; None where there is none, or several."""
    bounds = {_objective_s(run, column) for run in runs}
    return bounds.pop() if len(bounds) == 1 else None


def _objective_s(run: Run, column: str) -> float | None:
    """By the trace, if all its requests were given the same one, else by the fleet."""
    given = [step for step in run.manifest.trace["header"]["transforms"] if step["name"] == "with_slo"]
    of_trace = given[-1]["parameters"].get(column) if given else None
    of_fleet = (run.manifest.spec.get("slo") or {}).get(column)
    found = of_fleet if of_trace is None else of_trace
    return None if found is None else float(found)


def _curves(runs: Runs, column: str) -> Iterator[pa.Table]:
    """Shares and latencies of each candidate that has any: ``candidate``, ``share``, ``latency_ms``."""
    from scipy.special import ndtr, ndtri

    for name, of_one in runs.items():
        values_s = np.concatenate([_values_s(run, column) for run in of_one])
        if len(values_s) == 0:
            continue
        last = max(0.5, 1.0 - 1.0 / len(values_s))
        shares = ndtr(np.linspace(ndtri(FIRST), ndtri(last), POINTS))
        values_ms = np.quantile(values_s, shares) * 1000.0
        yield pa.table({"candidate": [name] * POINTS, "share": shares, "latency_ms": values_ms})


def _values_s(run: Run, column: str) -> Floats:
    if column not in run.records.column_names:
        raise ValueError(f"the records of a run have no {column!r}; they have {', '.join(LABELS)}")
    values: Floats = run.records[column].drop_null().to_numpy()
    return values


def _together(data: pa.Table, names: Sequence[str], label: str, bound_s: float | None) -> Figure:
    figure, axes = new_figure(WIDTH, 4.6)
    for name, shares, values_ms in _lines(data):
        axes.plot(values_ms, shares, **line_style(names.index(name)), label=legend_label(name))
    _scales(axes, data, bound_s)
    axes.set_xlabel(f"{label} (ms, logarithmic)")
    axes.set_ylabel("completed requests")
    legend_above(figure, axes)
    return figure


def _small(data: pa.Table, label: str, bound_s: float | None) -> Figure:
    """A panel for each candidate, the first one in grey behind all others."""
    lines = list(_lines(data))
    figure, panels = small_multiples(len(lines), columns=4, height=1.45)
    _, base_shares, base_ms = lines[0]
    for index, (axes, (name, shares, values_ms)) in enumerate(zip(panels, lines, strict=True)):
        if index:
            axes.plot(base_ms, base_shares, color=GREY, linewidth=1.0)
        axes.plot(values_ms, shares, color=line_style(0)["color"], linewidth=1.5)
        axes.set_title(short(name), loc="left", fontsize=8)
    _scales(panels[0], data, bound_s, TICKS_OF_SMALL)
    for axes in panels[1:]:
        _mark(axes, bound_s)
    around(figure, panels, f"{label} (ms, logarithmic)", "completed requests")
    return figure


def _lines(data: pa.Table) -> Iterator[tuple[str, Floats, Floats]]:
    """Name, normal quantiles of the shares, and latencies of each candidate."""
    from scipy.special import ndtri

    for name in data["candidate"].unique().to_pylist():
        own = data.filter(pc.equal(data["candidate"], name))
        yield name, ndtri(own["share"].to_numpy()), np.maximum(own["latency_ms"].to_numpy(), LEAST_MS)


def _scales(axes: Axes, data: pa.Table, bound_s: float | None, ticks: Sequence[float] = TICKS) -> None:
    from scipy.special import ndtri

    most = pc.max(data["share"]).as_py()
    shown = [share for share in ticks if share <= most + 1e-9]
    axes.set_yticks([float(ndtri(share)) for share in shown], [f"{share * 100.0:.10g} %" for share in shown])
    axes.set_ylim(float(ndtri(FIRST)), float(ndtri(most)) + 0.1)
    _mark(axes, bound_s)
    axes.set_xscale("log")
    wide_enough(axes)
    log_ticks(axes)


def _mark(axes: Axes, bound_s: float | None) -> None:
    if bound_s is not None:
        axes.axvline(bound_s * 1000.0, color="#1a1a1a", linewidth=1.0, linestyle=(0, (4, 3)))
