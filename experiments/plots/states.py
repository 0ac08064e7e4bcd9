"""Replicas by state over time: what started, drained, or was kept warm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.plots.plot import Plot, Runs
from experiments.plots.style import FEW, around, counts, short, small_multiples
from experiments.totals import fleet_series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATES = ("ready", "warm", "starting", "draining")
STATE_COLOURS = ("#009E73", "#56B4E9", "#E69F00", "#999999")


def others_than_ready(series: Sequence[pa.Table]) -> bool:
    """Whether any replica was in another state at any time."""
    return any(pc.max(table[state]).as_py() for table in series for state in STATES[1:])


def replica_states(runs: Runs) -> Plot | None:
    """Replicas by state over time in each candidate's first run; None where all are ready throughout."""
    series = {name: fleet_series(of_one[0].series) for name, of_one in runs.items()}
    if not others_than_ready(list(series.values())):
        return None
    seed = next(iter(runs.values()))[0].manifest.seed
    tables = [
        table.select(["time_s", *STATES]).add_column(
            0, "candidate", pa.array([name] * len(table), pa.string())
        )
        for name, table in series.items()
    ]
    caption = f"Replicas by state in each candidate's first run (seed {seed}); starting is provisioning and loading."
    return Plot("replicas", caption, pa.concat_tables(tables), _states, detail=len(runs) > FEW)


def _states(data: pa.Table) -> Figure:
    names = data["candidate"].unique().to_pylist()
    many = len(names) > FEW
    figure, panels = small_multiples(len(names), columns=3 if many else 1, height=1.2 if many else 1.3)
    for axes, name in zip(panels, names, strict=True):
        own = data.filter(pc.equal(data["candidate"], name))
        time_s = own["time_s"].to_numpy()
        stacked = np.cumsum([own[state].to_numpy() for state in STATES], axis=0)
        below = np.zeros(len(time_s))
        for state, colour, top in zip(STATES, STATE_COLOURS, stacked, strict=True):
            axes.fill_between(time_s, below, top, step="post", color=colour, label=state, linewidth=0.0)
            below = top
        axes.set_title(short(name), loc="left", fontsize=8 if many else 9)
    counts(panels[0])
    around(figure, panels, "time (s)", "replicas")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper left", ncols=len(labels), frameon=False, fontsize=9)
    return figure
