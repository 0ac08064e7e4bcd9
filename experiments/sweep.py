"""Grids of specs, and what is worth choosing from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any

from experiments.compare import TraceSource, compare
from experiments.metrics import metric
from experiments.report import Report
from fleet import FleetSpec


def grid(base: FleetSpec, axes: Mapping[str, Sequence[Any]]) -> dict[str, FleetSpec]:
    """One spec for each combination of values, named by them: ``{"pools.large.batching.max_batch": [8, 16]}``.

    Raises `PolicyError` for a path that leads nowhere, or a value that is wrong there.
    """
    specs: dict[str, FleetSpec] = {}
    names = _short_names(axes)
    for values in product(*axes.values()):
        changes = dict(zip(axes, values, strict=True))
        name = ", ".join(f"{names[path]}={_word(value)}" for path, value in changes.items())
        if name in specs:
            raise ValueError(f"two points of the grid have the name {name!r}; give each axis distinct values")
        specs[name] = base.replace(changes)
    return specs


def _short_names(paths: Collection[str]) -> dict[str, str]:
    """The last part of each path; of two that end alike, such as two pools' `replicas`, the whole."""
    last = {path: path.rpartition(".")[2] for path in paths}
    counts = Counter(last.values())
    return {path: name if counts[name] == 1 else path for path, name in last.items()}


def _word(value: object) -> str:
    name = getattr(value, "name", None)
    return str(name()) if callable(name) else str(value)


def sweep(
    trace: TraceSource, base: FleetSpec, axes: Mapping[str, Sequence[Any]], **options: Any
) -> Report:  # Any: see `compare`
    """`compare` over a grid; the first combination is the baseline. `options` are those of `compare`."""
    return compare(trace, grid(base, axes), **options)


def frontier(report: Report, *metrics: str) -> list[str]:
    """The candidates that no other is at least as good as in every metric and better in one (Pareto).

    Judged on means, and by each metric's better way: ``frontier(report, "gpu_seconds", "e2e_s.p99")``. A candidate
    that lacks one of the figures is left out. Raises `ValueError` for a metric that has no better way.
    """
    signs = {"lower": 1.0, "higher": -1.0}
    costs: dict[str, tuple[float, ...]] = {}
    if unfit := [name for name in metrics if metric(name).better == "neither"]:
        raise ValueError(f"{unfit[0]} has no better way, so nothing can be best in it")
    read = [metric(name) for name in metrics]
    for candidate, runs in report.runs.items():
        values = [[one.read(run.summary) for run in runs] for one in read]
        known = [[value for value in of_one if value is not None] for of_one in values]
        if all(known):
            costs[candidate] = tuple(
                signs[one.better] * sum(of_one) / len(of_one) for one, of_one in zip(read, known, strict=True)
            )
    return [
        name
        for name, cost in costs.items()
        if not any(_dominates(other, cost) for rival, other in costs.items() if rival != name)
    ]


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
