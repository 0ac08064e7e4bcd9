"""The runs behind a load curve: every candidate at a rate, and the search for the rate that one of them bears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from experiments.load import at_rate, highest_rate
from experiments.measured import Measured, measure
from experiments.metrics import Metric
from experiments.objectives import Objective, mostly_done
from experiments.steady import Kept, Steadiness, common, steadiness, window
from fleet import FleetSpec, Run, simulate
from fleet.text import one_line
from traces import Trace


class Point(Struct, frozen=True, kw_only=True):
    """A candidate at one rate under one seed: what the requests between warm-up and cool-down say of it."""

    rate_per_s: float
    measured: Measured
    """Its figures; of a run that failed, why."""
    steadiness: Steadiness | None = None
    """None where the run failed."""
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
    """All candidates at one rate under one seed. They are judged by the same requests."""

    trace: Trace
    candidates: Mapping[str, FleetSpec]
    rate_per_s: float
    seed: int
    metrics: Sequence[Metric]

    def run(self) -> list[Point]:
        """A point for each."""
        trace = at_rate(self.trace, self.rate_per_s)
        runs: dict[str, Run] = {}
        failed: dict[str, str] = {}
        for name, spec in self.candidates.items():
            try:
                runs[name] = simulate(trace, spec, seed=self.seed, check=False)
            except Exception as error:  # of a policy; the other candidates' runs are kept
                failed[name] = f"{type(error).__name__}: {one_line(str(error))}"
        kept = common(list(runs.values()))
        return [
            self._point(name, runs[name], kept) if name in runs else self.failure(name, failed[name])
            for name in self.candidates
        ]

    def _point(self, candidate: str, run: Run, kept: Kept) -> Point:
        part, found = window(run, kept), steadiness(run, kept)
        mean_s = part.summary.e2e_s.mean
        return Point(
            rate_per_s=self.rate_per_s,
            measured=measure(part, self.metrics, candidate, self.seed),
            steadiness=found,
            power=part.summary.throughput_per_s / mean_s if mean_s and found.state != "growing" else None,
        )

    def failure(self, candidate: str, error: str) -> Point:
        """The point that there is not."""
        measured = Measured(candidate=candidate, seed=self.seed, error=error)
        return Point(rate_per_s=self.rate_per_s, measured=measured)


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

    def run(self) -> float:
        """That rate, or 0.0."""
        return highest_rate(self.bears, self.start, self.tolerance, far=self.far)

    def bears(self, rate_per_s: float) -> bool:
        """Whether the candidate does so at this rate."""
        run = simulate(at_rate(self.trace, rate_per_s), self.spec, seed=self.seed, check=False)
        kept = common([run])
        if steadiness(run, kept).state == "growing":
            return False
        part = window(run, kept)
        return mostly_done(part.summary) if self.objective is None else self.objective.met_by(part)
