"""`load_curve`: latency, goodput and attainment of candidates against the load that they are offered."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from experiments.compare import TraceSource
from experiments.curves.load_curve import LoadCurve
from experiments.curves.points import Point
from experiments.curves.result import Axis
from experiments.curves.study import Study
from experiments.load import open_loop
from experiments.metrics import Metric, metrics_of
from experiments.objectives import Objective
from experiments.objectives import objective as objective_of
from experiments.steady import BATCHES, LEAST
from fleet import FleetSpec
from traces import Trace

METRICS = ("e2e_s.p50", "e2e_s.p99", "slo_attainment", "goodput_per_s")
SHARES = (0.1, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.05)
"""Of the highest rate that any candidate sustains: the rates that are run when none are given."""


def load_curve(
    trace: TraceSource,
    candidates: Mapping[str, FleetSpec],
    *,
    rates: Sequence[float | str] | None = None,
    seeds: Iterable[int] = range(5),
    metrics: Sequence[Metric | str] = METRICS,
    objective: Objective | str | None = None,
    tolerance: float = 0.02,
    workers: int = 1,
    progress: bool = True,
) -> LoadCurve:
    """Simulate every candidate at every rate under every seed, and say what load each bears.

    The load is set by the clock of the same requests, which come whatever became of those before them. Warm-up and
    cool-down are left out, the same requests for all candidates; `experiments.steady` says how, and when a state is
    called steady. `trace` may be a function of the seed, as for `compare`.

    `rates` are requests a second, or shares such as ``"80%"`` of the highest rate that the first candidate sustains;
    unless given they go from a tenth of what the best candidate sustains to past it. With an `objective` such as
    ``"e2e_s.p99<=0.2"``, the highest rate at which it is met is found by bisection for each candidate and seed, to
    within `tolerance` (relative).

    A candidate that fails at a rate loses that point; `LoadCurve.failures` says why. Raises `ValueError` for no
    candidates, no seeds, for rates, a metric or an objective that are none, and for a rate to be found by a trace of
    less than 20 requests; `RuntimeError` where every run fails.
    """
    chosen = list(seeds)
    if not candidates or not chosen:
        raise ValueError("load_curve needs at least one candidate and one seed")
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"a seed is given twice: {chosen}; a run counted twice is no replication")
    bound = objective_of(objective) if isinstance(objective, str) else objective
    measured = _measured(metrics, bound)
    asked = None if rates is None else [_rate(rate) for rate in rates]
    traces = {seed: open_loop(trace if isinstance(trace, Trace) else trace(seed)) for seed in chosen}
    shares = asked is None or any(unit == "%" for _, unit in asked)
    if shares or bound is not None:
        _demand_enough(traces)
    study = Study(traces, candidates, measured, workers, progress)
    sustained = study.sustained() if shares else {}
    at = _rates(asked, sustained)
    points = study.points(at)
    capacities = () if bound is None else study.capacities(bound, points, tolerance)
    return LoadCurve(
        source=_source(traces), trace=_facts(traces),
        candidates=tuple(candidates), specs={name: spec.to_dict() for name, spec in candidates.items()},
        rates_per_s=at, seeds=tuple(chosen), axes=_axes(measured, points, bound), points=tuple(points),
        objective=None if bound is None else bound.label, capacities=capacities, sustained_per_s=sustained,
    )  # fmt: skip


def _demand_enough(traces: Mapping[int, Trace]) -> None:
    """Raise `ValueError` for traces of which nothing can tell at what rate a fleet falls behind."""
    fewest = min(map(len, traces.values()))
    if fewest < BATCHES:
        raise ValueError(
            f"a trace of {fewest} requests does not tell at what rate a fleet falls behind; give one of "
            f"{BATCHES} or more, better {4 * LEAST}, or rates in requests a second and no objective"
        )


def _measured(metrics: Sequence[Metric | str], objective: Objective | None) -> tuple[Metric, ...]:
    """What is measured: the metrics, each once, and the objective's figure."""
    named = metrics_of(metrics)
    wanted = named if objective is None else (*named, objective.metric)
    return tuple({metric.key: metric for metric in wanted}.values())


def _rate(rate: float | str) -> tuple[float, str]:
    """A rate and its unit, "%" where it is a share."""
    text = str(rate).strip()
    number, unit = (text[:-1], "%") if text.endswith("%") else (text, "")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise ValueError(f"rates: {text!r} is no rate; give requests a second, or shares such as 80%")
    return value, unit


def _rates(asked: Sequence[tuple[float, str]] | None, sustained: Mapping[str, float]) -> tuple[float, ...]:
    """The rates to run, ascending, each once."""
    if asked is None:
        most = max(sustained.values())
        found = [share * most for share in SHARES]
    else:
        most = next(iter(sustained.values()), 0.0)
        found = [value * most / 100.0 if unit else value for value, unit in asked]
    if not found or not all(found):
        raise ValueError(
            "no rate can be chosen: at none is "
            f"{'any candidate' if asked is None else next(iter(sustained), 'anything')} steady with 99 % of requests "
            "completed; give rates in requests a second"
        )
    return tuple(sorted({float(f"{rate:.4g}") if asked is None else rate for rate in found}))


def _axes(
    metrics: Sequence[Metric], points: Sequence[Point], objective: Objective | None
) -> tuple[Axis, ...]:
    """The figures that any run has; of a grouped one each group's."""
    had = {key for point in points for key, value in point.measured.values.items() if value is not None}
    several = (one for metric in metrics for one in _told_apart(metric, points))
    bound = {} if objective is None else {objective.metric.key: objective.bound}
    return tuple(
        Axis(name=one.key, label=one.label, better=one.better, scale=one.scale, of_all=one.of_all,
             bound=bound.get(one.key))
        for one in several
        if one.key in had
    )  # fmt: skip


def _told_apart(metric: Metric, points: Sequence[Point]) -> list[Metric]:
    if not metric.by or metric.across is not None:
        return [metric]
    labels = (label for point in points for label in point.measured.groups.get("+".join(metric.by), ()))
    return [metric.of_group(label) for label in dict.fromkeys(labels)]


def _source(traces: Mapping[int, Trace]) -> str:
    """The trace in a line."""
    first = next(iter(traces.values()))
    if len({trace.sha256 for trace in traces.values()}) > 1:
        return f"{len(traces)} traces like {first.header.source} (one a seed)"
    return f"trace {first.header.source} ({len(first):,} requests, {first.sha256[:8]})"


def _facts(traces: Mapping[int, Trace]) -> dict[str, Any]:  # Any: JSON values
    first = next(iter(traces.values()))
    return {
        "header": msgspec.to_builtins(first.header),
        "sha256": {str(seed): trace.sha256 for seed, trace in traces.items()},
        "requests": {str(seed): len(trace) for seed, trace in traces.items()},
    }
