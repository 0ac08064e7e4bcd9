"""Sweeps: many points of a fleet's parameters, kept as they end, and which of them are worth choosing."""

from experiments.sweep.frontier import frontier
from experiments.sweep.pareto import Pareto
from experiments.sweep.plot import plot_pareto
from experiments.sweep.result import Sweep, load_sweep
from experiments.sweep.running import sweep
from experiments.sweep.space import Range, SweepError, grid

__all__ = [
    "Pareto",
    "Range",
    "Sweep",
    "SweepError",
    "frontier",
    "grid",
    "load_sweep",
    "plot_pareto",
    "sweep",
]
