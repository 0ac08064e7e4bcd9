"""The values that a sweep tries: axes of listed values or of ranges, and the points that a method takes of them.

The one thing to know: a point's number, name and values follow from axes, method and seed alone.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from msgspec import Struct

from fleet import FleetSpec
from policies.base import Component
from policies.building import to_table
from traces.values import BadValue

MOST_REPEATS = 1000
"""Draws without a new point after which there are none left to be found."""
_SOBOL_BLOCK = 64


class SweepError(BadValue):
    """A sweep was asked for that cannot be: what was wrong with it, and what would be right."""

    def __init__(self, problem: str) -> None:
        super().__init__("", problem)


class Range(Struct, frozen=True):
    """Values from `low` to `high`, both included: whole numbers where both ends are, floats of six digits elsewhere."""

    low: float
    high: float
    log: bool = False
    """Evenly over the logarithm: 0.001 to 0.01 has as many as 0.01 to 0.1."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise SweepError(f"{self}: its low end must be below its high end")
        if self.log and self.low <= 0:
            raise SweepError(f"{self}: a logarithmic range begins above 0")

    @property
    def whole(self) -> bool:
        """Its values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def at(self, share: float) -> float:
        """The value that `share`, 0 to 1, of the range lies below."""
        low, high = self.low, self.high + 1 if self.whole else self.high
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        return min(max(self.low, math.floor(value) if self.whole else rounded(value)), self.high)

    def __str__(self) -> str:
        return f"{self.low}..{self.high}{':log' if self.log else ''}"


def rounded(value: float) -> float:
    """Six significant digits: as much as a name has room for."""
    return float(f"{value:.6g}")


Axis = Range | Sequence[Any]  # Any: values of a spec, components among them
Axes = Mapping[str, Axis]
Values = dict[str, Any]


class Point(Struct, frozen=True):
    """One setting of all axes."""

    number: int
    name: str
    values: Values


def grid(base: FleetSpec, axes: Mapping[str, Sequence[Any]]) -> dict[str, FleetSpec]:
    """One spec for each combination of values, named by them: ``{"pools.large.batching.max_batch": [8, 16]}``.

    Raises `PolicyError` for a path that leads nowhere, or a value that is wrong there.
    """
    return {point.name: base.replace(point.values) for point in grid_points(axes)}


def grid_points(axes: Axes) -> Iterator[Point]:
    """Every combination of the values, the last axis first to change."""
    lists = {path: listed(path, axis) for path, axis in axes.items()}
    named = namer(axes)
    for number, values in enumerate(product(*lists.values())):
        point = dict(zip(lists, values, strict=True))
        yield Point(number, named(point), point)


def listed(path: str, axis: Axis) -> Sequence[Any]:
    """The values of an axis that lists them, each of which has a name of its own."""
    if isinstance(axis, Range):
        raise SweepError(
            f"{path}={axis}: a grid has no end of a range; list its values, or draw points from it"
        )
    twice = [name for name, times in Counter(map(word, axis)).items() if times > 1]
    if twice:
        raise SweepError(
            f"{path}: two of its values have the name {twice[0]!r}; give an axis distinct values"
        )
    if not axis:
        raise SweepError(f"{path}: has no values")
    return axis


def drawn_points(axes: Axes, count: int, method: str, seed: int) -> Iterator[Point]:
    """`count` different points, or as many as there are, drawn at random or from a Sobol sequence."""
    draws = _sobol(len(axes), seed) if method == "sobol" else _uniform(len(axes), seed)
    named, seen, repeats = namer(axes), set[str](), 0
    while len(seen) < count and repeats < MOST_REPEATS:
        values = {
            path: at(axis, share) for (path, axis), share in zip(axes.items(), next(draws), strict=True)
        }
        name = named(values)
        if name in seen:
            repeats += 1
            continue
        repeats = 0
        yield Point(len(seen), name, values)
        seen.add(name)


def at(axis: Axis, share: float) -> Any:
    """The value of an axis that `share` of it lies below."""
    return axis.at(share) if isinstance(axis, Range) else axis[min(int(share * len(axis)), len(axis) - 1)]


def _uniform(axes: int, seed: int) -> Iterator[Sequence[float]]:
    rng = random.Random(seed)
    while True:
        yield [rng.random() for _ in range(axes)]


def _sobol(axes: int, seed: int) -> Iterator[Sequence[float]]:
    """Scrambled by the seed: Owen, "Scrambling Sobol' and Niederreiter-Xing Points", 1998."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(axes, scramble=True, rng=seed)
    while True:
        yield from sequence.random(_SOBOL_BLOCK).tolist()


# --- names -------------------------------------------------------------------------------------------------


def namer(paths: Collection[str]) -> Callable[[Values], str]:
    """What a point is called: the last part of each path with its value; the whole path where two end alike."""
    last = {path: path.rpartition(".")[2] for path in paths}
    counts = Counter(last.values())
    short = {path: name if counts[name] == 1 else path for path, name in last.items()}
    return lambda values: ", ".join(f"{short[path]}={word(value)}" for path, value in values.items())


def word(value: object) -> str:
    """A value as names have it; a component by its own name."""
    return value.name() if isinstance(value, Component) else str(value)


def plain(value: object) -> Any:  # Any: a JSON value
    """A value as a file has it."""
    if isinstance(value, Component):
        return to_table(value)
    return {"low": value.low, "high": value.high, "log": value.log} if isinstance(value, Range) else value
