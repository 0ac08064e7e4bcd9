"""Grids of specs, and what is worth choosing from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from experiments.compare import TraceSource, compare
from experiments.metrics import metric
from experiments.report import Report
from fleet import FleetSpec


def with_value(
    spec: FleetSpec, path: str, value: Any
) -> FleetSpec:  # Any: the field's own type, checked on building
    """The spec with the field at a dotted path changed, such as ``"batching.max_batch"``.

    Raises `ValueError` that names the part of the path that does not exist, `PolicyError` for a wrong value.
    """
    head, _, rest = path.partition(".")
    return spec.replace(**{head: _changed(getattr(spec, head, None), rest, value, path) if rest else value})


def _changed(part: object, rest: str, value: Any, path: str) -> Any:
    head, _, deeper = rest.partition(".")
    fields = type(part).__struct_fields__ if isinstance(part, Struct) else ()
    if not isinstance(part, Struct) or head not in fields:
        names = ", ".join(fields) or "no fields"
        raise ValueError(f"{path}: {type(part).__name__} has no field {head!r}; it has {names}")
    inner = _changed(getattr(part, head), deeper, value, path) if deeper else value
    return type(part)(**{**asdict(part), head: inner})


def grid(base: FleetSpec, axes: Mapping[str, Sequence[Any]]) -> dict[str, FleetSpec]:
    """One spec for each combination of values, named by them: ``{"batching.max_batch": [8, 16]}``."""
    specs = {}
    for values in product(*axes.values()):
        spec = base
        for path, value in zip(axes, values, strict=True):
            spec = with_value(spec, path, value)
        name = ", ".join(
            f"{path.rpartition('.')[2]}={_word(v)}" for path, v in zip(axes, values, strict=True)
        )
        if name in specs:
            raise ValueError(f"two points of the grid have the name {name!r}; give each axis distinct values")
        specs[name] = spec
    return specs


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
