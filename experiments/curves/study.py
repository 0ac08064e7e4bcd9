"""The work of a load curve: which runs it takes, shared among processes, and what came of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol, TypeVar

from experiments.curves.points import AtRate, Point, Search
from experiments.curves.result import Capacity, capacities_of
from experiments.executor import Executor, Failure
from experiments.load import ANYWHERE, FAR
from experiments.metrics import Metric
from experiments.objectives import Objective
from experiments.progress import progress_bar
from fleet import FleetSpec
from traces import Trace

ROUGHLY = 0.1
"""How closely the highest rate that a candidate sustains is looked for."""

K = TypeVar("K", bound=Hashable)
R_co = TypeVar("R_co", covariant=True)


class Study:
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
