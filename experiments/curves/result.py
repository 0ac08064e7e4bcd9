"""What a load curve found: every run, and what they come to for each figure, candidate and rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from experiments.bands import Band, band
from experiments.curves.points import Point
from experiments.knee import knee
from experiments.metrics import Better
from experiments.paired import Difference, Verdict, holm, paired_difference, verdict
from experiments.steady import State


class Axis(Struct, frozen=True, kw_only=True):
    """One figure of a curve. A printed value is `scale` times the one in the rows."""

    name: str
    label: str
    better: Better
    scale: float
    of_all: bool
    """What did not complete counts in it."""
    bound: float | None = None
    """Of the objective, where it is of this figure."""


class Row(Struct, frozen=True, kw_only=True):
    """One figure of one candidate at one rate, over the seeds, in the figure's own unit."""

    candidate: str
    rate_per_s: float
    metric: str
    band: Band | None
    """None where no seed has a value."""
    state: State
    """Of most seeds."""
    in_state: int
    """Seeds that are in it."""
    completed_share: float


class Capacity(Struct, frozen=True, kw_only=True):
    """The highest rate that a candidate bears within the objective, over the seeds."""

    candidate: str
    band: Band
    by_seed: tuple[float, ...]
    difference: Difference | None = None
    """To the first candidate, seed by seed; None for itself."""
    verdict: Verdict | None = None
    """Corrected over the candidates, by Holm."""


class Curve(Struct, frozen=True, kw_only=True):
    """What candidates do at each of several loads. `LoadCurve` is the one to print and to keep."""

    source: str
    """The trace, in a line."""
    trace: dict[str, Any]  # Any: JSON values
    candidates: tuple[str, ...]
    specs: dict[str, Any]
    rates_per_s: tuple[float, ...]
    seeds: tuple[int, ...]
    axes: tuple[Axis, ...]
    points: tuple[Point, ...]
    """Every run, in the order of rates, candidates and seeds."""
    objective: str | None = None
    """In words."""
    capacities: tuple[Capacity, ...] = ()
    sustained_per_s: dict[str, float] = {}
    """The highest rate at which each candidate does not fall behind under the first seed, where it was looked for."""

    def of(self, candidate: str, rate_per_s: float) -> list[Point]:
        """The runs of a candidate at a rate that did not fail, in the order of the seeds."""
        return [
            one
            for one in self.points
            if (one.measured.candidate, one.rate_per_s) == (candidate, rate_per_s)
            and one.measured.error is None
        ]

    @property
    def failures(self) -> list[Point]:
        """The runs that failed."""
        return [one for one in self.points if one.measured.error is not None]

    @property
    def rows(self) -> list[Row]:
        """A row for each candidate, rate and figure."""
        return [row for name in self.candidates for axis in self.axes for row in self.curve(name, axis.name)]

    def curve(self, candidate: str, metric: str) -> list[Row]:
        """One figure of one candidate, by ascending rate. Raises `KeyError` for one that there is not."""
        if candidate not in self.candidates or metric not in {axis.name for axis in self.axes}:
            raise KeyError(
                f"no {metric!r} of {candidate!r}; there are {', '.join(axis.name for axis in self.axes)}"
            )
        found = ((rate, self.of(candidate, rate)) for rate in self.rates_per_s)
        return [_row(candidate, rate, points, metric) for rate, points in found if points]

    def knee(self, candidate: str) -> Band | None:
        """The rate at which the candidate has the most power, over the seeds in which that is between two rates."""
        powers = {
            (one.measured.seed, one.rate_per_s): one.power
            for one in self.points
            if one.measured.candidate == candidate
        }
        rates = self.rates_per_s
        return band([knee(rates, [powers[seed, rate] for rate in rates]) for seed in self.seeds])


def _row(candidate: str, rate_per_s: float, points: Sequence[Point], metric: str) -> Row:
    states = [point.steadiness.state for point in points if point.steadiness is not None]
    state = _of_most(states)
    return Row(
        candidate=candidate, rate_per_s=rate_per_s, metric=metric,
        band=band([point.measured.values.get(metric) for point in points]), state=state,
        in_state=states.count(state),
        completed_share=sum(point.completed_share for point in points) / len(points),
    )  # fmt: skip


def _of_most(states: Sequence[State]) -> State:
    """Steady if more than half are; else what most of the others are, the worse of two that are as many."""
    if 2 * states.count("steady") > len(states):
        return "steady"
    worst: tuple[State, ...] = ("growing", "unclear", "falling")
    counts = Counter(states)
    return max(worst, key=lambda state: counts[state])


def capacities_of(by_seed: dict[str, list[float]]) -> tuple[Capacity, ...]:
    """What candidates bear, each held against the first, seed by seed."""
    first = next(iter(by_seed.values()), [])
    differences = [_difference(found, first) for found in list(by_seed.values())[1:]]
    p_values = [one.p_value for one in differences if one.p_value is not None]
    corrected: Iterator[float] = iter(holm(p_values))
    made = []
    for (name, found), against in zip(by_seed.items(), [None, *differences], strict=True):
        p_adjusted = next(corrected) if against is not None and against.p_value is not None else None
        made.append(
            Capacity(
                candidate=name, band=_band(found), by_seed=tuple(found), difference=against,
                verdict=None if against is None else verdict(against, "higher", p_adjusted),
            )
        )  # fmt: skip
    return tuple(made)


def _difference(values: Sequence[float], first: Sequence[float]) -> Difference:
    differences = [one - other for one, other in zip(values, first, strict=True)]
    return paired_difference(differences, distinct=len(set(differences)))


def _band(values: Sequence[float]) -> Band:
    found = band(values)
    if found is None:
        raise ValueError("a capacity is of at least one seed")
    return found
