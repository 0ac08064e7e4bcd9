"""How evenly something is spread: a figure over groups of requests, work over replicas.

Source: Jain, Chiu, Hawe, "A Quantitative Measure of Fairness and Discrimination for Resource Allocation in Shared
Computer Systems", DEC TR-301, 1984.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from experiments.reasons import NoValue
from fleet import Run
from fleet.telemetry.attempts import flags, spent_s
from fleet.telemetry.occupancy import changes_of, transitions

Across = Literal["jain", "max_min"]
Loads: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]
SERVING = ("ready", "draining")
"""States in which a replica serves."""


def jain(values: Sequence[float]) -> float:
    """(Σx)² / (n Σx²): 1 where all are equal, 1/n where one has everything. Raises `NoValue` where all are 0."""
    squares = sum(value * value for value in values)
    if not squares:
        raise NoValue("every group has 0")
    return sum(values) ** 2 / (len(values) * squares)


def max_min(values: Sequence[float]) -> float:
    """The largest over the smallest. Raises `NoValue` where the smallest is not above 0."""
    if min(values) <= 0.0:
        raise NoValue("a group has 0 or less, which nothing can be held against")
    return max(values) / min(values)


class _Way(Struct, frozen=True):
    of: Callable[[Sequence[float]], float]
    words: str
    better: Literal["lower", "higher"]


ACROSS: dict[Across, _Way] = {
    "jain": _Way(jain, "Jain's index", "higher"),
    "max_min": _Way(max_min, "largest over smallest", "lower"),
}
"""What can be said of a figure over all groups."""


# --- work over replicas ------------------------------------------------------------------------------------


def load_variation(run: Run) -> float:
    """Standard deviation over mean of the replicas' loads, each counting for as long as it served.

    A replica's load is the mean number of requests that it had in service while it was there to serve: service seconds
    of attempts, whatever came of them, over seconds ready or draining. Raises `NoValue` for fewer than two replicas.
    """
    loads, served_s = loads_of(run)
    mean = float(np.average(loads, weights=served_s))
    return float(np.sqrt(np.average((loads - mean) ** 2, weights=served_s))) / mean


def busiest_over_mean(run: Run) -> float:
    """The largest load of a replica over their mean; `load_variation` says what a load is."""
    loads, served_s = loads_of(run)
    return float(loads.max() / np.average(loads, weights=served_s))


def loads_of(run: Run) -> tuple[Loads, Loads]:
    """The load of each replica that served, and for how long it did; see `load_variation`."""
    served_s = _served_s(run)
    if not served_s:
        raise NoValue("which replicas there were is not known")
    if len(served_s) < 2:
        raise NoValue("it has one replica")
    attempts = run.every_attempt()
    known = pc.index_in(attempts["replica"], pa.array(list(served_s)))
    there = np.flatnonzero(flags(pc.is_valid(known)))
    busy_s = np.bincount(pc.drop_null(known).to_numpy(), spent_s(attempts)[there], minlength=len(served_s))
    if not busy_s.any():
        raise NoValue("nothing ran")
    seconds = np.array(list(served_s.values()))
    return busy_s / seconds, seconds


def _served_s(run: Run) -> dict[str, float]:
    """Seconds for which each replica served; those that never did are left out."""
    changes: dict[str, list[tuple[float, str, str]]] = {}
    for change in changes_of(run.replicas):
        changes.setdefault(change[1], []).append(change)
    spent = {name: transitions(own, run.summary.duration_s) for name, own in changes.items()}
    served = {name: sum(of_one.get(state, 0.0) for state in SERVING) for name, of_one in spent.items()}
    return {name: seconds for name, seconds in served.items() if seconds > 0.0}
