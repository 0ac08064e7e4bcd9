"""Studies, and the harness they share: compare candidates, sweep parameters, hold simulation against live runs."""

from experiments.interrupts import say_it_in_a_word

say_it_in_a_word()

# ruff: noqa: E402  # what is above comes first because what is below takes time to import

from experiments.calibrate import CalibrationReport, calibrate
from experiments.compare import compare
from experiments.curve import load_curve
from experiments.curves.load_curve import LoadCurve
from experiments.findings import Row
from experiments.metrics import DEFAULT_METRICS, TOKEN_METRICS, Metric, metric
from experiments.power import power
from experiments.reasons import NoValue
from experiments.regret import regret
from experiments.report import Report, load_report
from experiments.sweep import Pareto, Range, Sweep, SweepError, frontier, grid, load_sweep, plot_pareto, sweep

__all__ = [
    "DEFAULT_METRICS",
    "TOKEN_METRICS",
    "CalibrationReport",
    "LoadCurve",
    "Metric",
    "NoValue",
    "Pareto",
    "Range",
    "Report",
    "Row",
    "Sweep",
    "SweepError",
    "calibrate",
    "compare",
    "frontier",
    "grid",
    "load_curve",
    "load_report",
    "load_sweep",
    "metric",
    "plot_pareto",
    "power",
    "regret",
    "sweep",
]
