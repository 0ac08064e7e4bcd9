"""`load_curve`: latency, goodput and attainment of candidates against the load that they are offered."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from experiments.compare import TraceSource
from experiments.curves.points import AtRate, Point, Search
from experiments.curves.result import Axis, Capacity, LoadCurve, capacities_of
from experiments.executor import Executor, Failure
from experiments.load import FAR, open_loop
from experiments.metrics import Metric, metrics_of
from experiments.objectives import Objective
from experiments.objectives import objective as objective_of
from experiments.progress import progress_bar
from fleet import FleetSpec
from traces import Trace

METRICS = ("e2e_s.p50", "e2e_s.p99", "slo_attainment", "goodput_per_s")
SHARES = (0.1, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.05)
"""Of the highest rate that any candidate sustains: the rates that are run when none are given."""
ROUGHLY = 0.1
"""How closely that rate is looked for."""
ANYWHERE = 2.0**20
"""How far from a trace's own rate."""

K = TypeVar("K", bound=Hashable)
R_co = TypeVar("R_co", covariant=True)


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
    candidates, no seeds, and for rates, a metric or an objective that are none; `RuntimeError` where every run fails.
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
    study = _Study(traces, candidates, measured, workers, progress)
    sustained = study.sustained() if asked is None or any(unit == "%" for _, unit in asked) else {}
    at = _rates(asked, sustained)
    points = study.points(at)
    capacities = () if bound is None else study.capacities(bound, points, tolerance)
    return LoadCurve(
        source=_source(traces), trace=_facts(traces),
        candidates=tuple(candidates), specs={name: spec.to_dict() for name, spec in candidates.items()},
        rates_per_s=at, seeds=tuple(chosen), axes=_axes(measured, points, bound), points=tuple(points),
        objective=None if bound is None else bound.label, capacities=capacities, sustained_per_s=sustained,
    )  # fmt: skip


class _Study:
    """The runs of a load curve."""

    def __init__(
        self,
        traces: Mapping[int, Trace],
        candidates: Mapping[str, FleetSpec],
        metrics: Sequence[Metric],
        workers: int,
        progress: bool,
    ) -> None:
        self.traces, self.candidates, self.metrics = traces, candidates, metrics
        self._workers, self._progress = workers, progress

    def sustained(self) -> dict[str, float]:
        """The highest rate at which each candidate does not fall behind, roughly, under the first seed."""
        seed = next(iter(self.traces))
        start = self.traces[seed].rate_per_s or 1.0
        jobs = {
            name: Search(
                trace=self.traces[seed], spec=spec, seed=seed, objective=None, start=start, far=ANYWHERE,
                tolerance=ROUGHLY,
            )
            for name, spec in self.candidates.items()
        }  # fmt: skip
        found = self._done("capacities", jobs)
        failures = [one for one in found.values() if isinstance(one, Failure)]
        rates = {name: one for name, one in found.items() if not isinstance(one, Failure)}
        if failures and not any(rates.values()):
            failures[0].reraise()
        return rates

    def points(self, rates: Sequence[float]) -> list[Point]:
        """Every candidate at every rate under every seed."""
        jobs = {
            rate: AtRate(
                traces=self.traces, candidates=self.candidates, rate_per_s=rate, metrics=self.metrics
            )
            for rate in rates
        }
        found = self._done("rates", jobs)
        points: list[Point] = []
        for rate, job in jobs.items():
            one = found[rate]
            points += job.failed(one.error) if isinstance(one, Failure) else one
        if all(point.measured.error is not None for point in points):
            raise RuntimeError(f"every run failed; the first: {points[0].measured.error}")
        return points

    def capacities(
        self, objective: Objective, points: Sequence[Point], tolerance: float
    ) -> tuple[Capacity, ...]:
        """The highest rate within the objective of each candidate that does not fail while it is looked for."""
        jobs = {
            (name, seed): self._search(name, seed, objective, points, tolerance)
            for name in self.candidates
            for seed in self.traces
        }
        found = self._done("bisections", jobs)
        by_seed: dict[str, list[float]] = {}
        for name in self.candidates:
            of_one = [found[name, seed] for seed in self.traces]
            done = [one for one in of_one if not isinstance(one, Failure)]
            if len(done) == len(of_one):
                by_seed[name] = done
        return capacities_of(by_seed)

    def _search(
        self, name: str, seed: int, objective: Objective, points: Sequence[Point], tolerance: float
    ) -> Search:
        """From the highest rate that was seen to be within the objective, with the warm-up that it has there."""
        mine = [one for one in points if (one.measured.candidate, one.measured.seed) == (name, seed)]
        start = next((one for one in reversed(mine) if one.meets(objective)), mine[0])
        return Search(
            trace=self.traces[seed], spec=self.candidates[name], seed=seed, objective=objective,
            start=start.rate_per_s, far=FAR, tolerance=tolerance, cut=start.cut,
        )  # fmt: skip

    def _done(self, what: str, jobs: Mapping[K, _Job[R_co]]) -> dict[K, R_co | Failure]:
        """What came of each job."""
        with (
            progress_bar(what, len(jobs), shown=self._progress) as advance,
            Executor(max(1, min(self._workers, len(jobs)))) as executor,
        ):
            done: dict[K, R_co | Failure] = {}
            for (key, _), result in executor.run(_run, jobs.items()):
                done[key] = result
                advance()
            return done


class _Job(Protocol[R_co]):
    def run(self) -> R_co: ...


def _run(item: tuple[object, _Job[R_co]]) -> R_co:
    return item[1].run()


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
