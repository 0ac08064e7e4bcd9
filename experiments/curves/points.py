"""The runs behind a load curve: every candidate at a rate, and the search for the rate that one of them bears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from experiments.load import at_rate, highest_rate
from experiments.measured import Measured, measure
from experiments.metrics import Metric
from experiments.objectives import Objective, mostly_done
from experiments.steady import Cut, Steadiness, common, falls_behind, steadiness, warm_up_of, window
from fleet import FleetSpec, Run, simulate
from fleet.text import one_line
from traces import Trace


class Point(Struct, frozen=True, kw_only=True):
    """A candidate at one rate under one seed: what the requests between warm-up and cool-down say of it."""

    rate_per_s: float
    measured: Measured
    """Its figures; of a run that failed, why."""
    cut: Cut | None = None
    """What was left out at either end. None, as what follows, where the run failed."""
    steadiness: Steadiness | None = None
    power: float | None = None
    """Completed requests a second, over their mean latency; None where there is no steady state."""

    @property
    def completed_share(self) -> float:
        """Of the kept requests."""
        return self.measured.completed / max(1, self.measured.submitted)

    def meets(self, objective: Objective) -> bool:
        """Whether the candidate bears the rate within the objective."""
        falls_behind = self.steadiness is None or self.steadiness.state == "growing"
        value = self.measured.values.get(objective.metric.key)
        return not falls_behind and mostly_done(self.measured) and objective.allows(value)


class AtRate(Struct, frozen=True, kw_only=True):
    """All candidates at one rate under every seed. They are judged by the same requests."""

    traces: Mapping[int, Trace]
    candidates: Mapping[str, FleetSpec]
    rate_per_s: float
    metrics: Sequence[Metric]

    def run(self) -> list[Point]:
        """A point for each seed and candidate."""
        done: dict[str, dict[int, Run | str]] = {name: {} for name in self.candidates}
        for seed, trace in self.traces.items():
            scaled = at_rate(trace, self.rate_per_s)
            for name, spec in self.candidates.items():
                done[name][seed] = _simulated(scaled, spec, seed)
        runs = {name: [run for run in of.values() if isinstance(run, Run)] for name, of in done.items()}
        cut = common(list(runs.values()))
        settle = {name: warm_up_of(of) is not None for name, of in runs.items()}
        return [
            self._failure(name, seed, run)
            if isinstance(run, str)
            else self._point(name, seed, run, cut, settle[name])
            for name, of in done.items()
            for seed, run in of.items()
        ]

    def _point(self, candidate: str, seed: int, run: Run, cut: Cut, settles: bool) -> Point:
        part, found = window(run, cut), steadiness(run, cut, settles=settles)
        mean_s = part.summary.e2e_s.mean
        return Point(
            rate_per_s=self.rate_per_s,
            measured=measure(part, self.metrics, candidate, seed),
            cut=cut,
            steadiness=found,
            power=part.summary.throughput_per_s / mean_s if mean_s and found.state != "growing" else None,
        )

    def failed(self, error: str) -> list[Point]:
        """The points that there are not, where the whole of it failed."""
        return [self._failure(name, seed, error) for name in self.candidates for seed in self.traces]

    def _failure(self, candidate: str, seed: int, error: str) -> Point:
        return Point(
            rate_per_s=self.rate_per_s, measured=Measured(candidate=candidate, seed=seed, error=error)
        )


def _simulated(trace: Trace, spec: FleetSpec, seed: int) -> Run | str:
    """The run, or why there is none: what one candidate raises leaves the others their runs."""
    try:
        return simulate(trace, spec, seed=seed, check=False)
    except Exception as error:
        return f"{type(error).__name__}: {one_line(str(error))}"


class Search(Struct, frozen=True, kw_only=True):
    """The highest rate that one candidate bears under one seed, found by bisection."""

    trace: Trace
    spec: FleetSpec
    seed: int
    objective: Objective | None
    """None: that it does not fall behind, and completes nearly all."""
    start: float
    far: float
    """See `highest_rate`."""
    tolerance: float
    cut: Cut | None = None
    """What to leave out at either end; None: what each run's own warm-up and cool-down are."""

    def run(self) -> float:
        """That rate, or 0.0."""
        return highest_rate(self.bears, self.start, self.tolerance, far=self.far)

    def bears(self, rate_per_s: float) -> bool:
        """Whether the candidate does so at this rate."""
        run = simulate(at_rate(self.trace, rate_per_s), self.spec, seed=self.seed, check=False)
        cut = common([[run]]) if self.cut is None else self.cut
        if falls_behind(run, cut):
            return False
        part = window(run, cut)
        return mostly_done(part.summary) if self.objective is None else self.objective.met_by(part)
