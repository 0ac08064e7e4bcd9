"""Grids of specs, and what is worth choosing from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any

from experiments.compare import TraceSource, compare
from experiments.lacks import Lack, in_words, lack
from experiments.measured import Measured, measure
from experiments.metrics import Metric, metric
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


class Frontier(list[str]):
    """The candidates worth choosing from. `print` shows who was left out, too, and what was missing."""

    left_out: dict[str, str]
    """Why each candidate was not judged."""
    lacks: list[Lack]
    """Figures of candidates that were judged which had no value in some of their seeds: those count in no mean."""

    def __str__(self) -> str:
        left_out = [f"· {name} is not judged: {why}." for name, why in self.left_out.items()]
        lacks = [f"· {said}" for said in in_words(self.lacks)]
        return "\n".join([", ".join(self) or "no candidate", *left_out, *lacks])


def frontier(report: Report, *metrics: str) -> Frontier:
    """The candidates that no other is at least as good as in every metric and better in one (Pareto).

    Judged on means over the seeds, and by each metric's better way: ``frontier(report, "gpu_seconds", "e2e_s.p99")``.
    Left out, with the reason, are candidates that lack one of the figures in every seed, and those that completed too
    little for `compare` to judge it. Raises `ValueError` for a metric that has no better way.
    """
    if unfit := [name for name in metrics if metric(name).better == "neither"]:
        raise ValueError(f"{unfit[0]} has no better way, so nothing can be best in it")
    read = [metric(name) for name in metrics]
    measured = {
        name: [measure(run, read, name, run.manifest.seed) for run in runs]
        for name, runs in report.runs.items()
    }
    costs: dict[str, tuple[float, ...]] = {}
    left_out: dict[str, str] = {}
    partly: list[Lack] = []
    for candidate in report.runs:
        lacks = [one for item in read if (one := lack(item, candidate, measured[candidate])) is not None]
        why = _not_judged(report, candidate, read, lacks)
        if why is not None:
            left_out[candidate] = why
            continue
        partly += lacks
        costs[candidate] = tuple(_mean_cost(measured[candidate], one) for one in read)
    found = Frontier(
        name
        for name, cost in costs.items()
        if not any(_dominates(other, cost) for rival, other in costs.items() if rival != name)
    )
    found.left_out, found.lacks = left_out, partly
    return found


def _not_judged(
    report: Report, candidate: str, metrics: Sequence[Metric], lacks: Sequence[Lack]
) -> str | None:
    """Why this candidate cannot be held against others; None: it can."""
    if not report.completed_enough(candidate) and not all(one.of_all for one in metrics):
        return f"it completed {report.completed_share(candidate):.1%} of its requests"
    whole = [one for one in lacks if one.whole]
    return ", ".join(f"no value of {one.label}{f' ({one.why})' if one.why else ''}" for one in whole) or None


def _mean_cost(measured: Sequence[Measured], one: Metric) -> float:
    """Over the seeds that have it; the lower, the better."""
    values = [value for found in measured if (value := found.values.get(one.key)) is not None]
    return sum(values) / len(values) * (1.0 if one.better == "lower" else -1.0)


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
