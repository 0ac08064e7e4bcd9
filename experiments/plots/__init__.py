"""Plots of runs, as matplotlib figures to go on with: ``plot_latency(report.runs).savefig("latency.pdf")``.

The same ones are in a report's page, and with their data in `Report.figures`. Below them is what any other plot of this
package is drawn with.
"""

from experiments.plots.classes import plot_classes
from experiments.plots.forest import plot_forest
from experiments.plots.latency import plot_latency
from experiments.plots.load import plot_load
from experiments.plots.plot import Plot, Runs, svg_text
from experiments.plots.replicas import plot_replicas
from experiments.plots.style import (
    PALETTE,
    WIDTH,
    legend_above,
    legend_label,
    line_style,
    log_ticks,
    new_figure,
)
from experiments.plots.timeline import plot_timeline

__all__ = [
    "PALETTE",
    "WIDTH",
    "Plot",
    "Runs",
    "legend_above",
    "legend_label",
    "line_style",
    "log_ticks",
    "new_figure",
    "plot_classes",
    "plot_forest",
    "plot_latency",
    "plot_load",
    "plot_replicas",
    "plot_timeline",
    "svg_text",
]
