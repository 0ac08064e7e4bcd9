"""How a sweep's points are chosen: all of a grid, so many at random or of a Sobol sequence, or by a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from msgspec import Struct

from experiments.sweep.judging import Candidate, Constraint, Objective
from experiments.sweep.search import Search
from experiments.sweep.space import (
    Axes,
    Axis,
    Point,
    Range,
    SweepError,
    drawn_points,
    grid_points,
    listed,
    plain,
    word,
)
from fleet import FleetSpec
from fleet.telemetry.provenance import ComponentSource, sources_of
from policies import PolicyError

Kind = Literal["grid", "random", "sobol", "optuna"]
METHODS = "grid, random:N, sobol:N and optuna:N"


class Method(Struct, frozen=True):
    """``grid``, or so many points of another kind: ``sobol:64``."""

    kind: Kind
    count: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.count}" if self.count else self.kind

    @property
    def searches(self) -> bool:
        """What is tried depends on what came of what was tried before."""
        return self.kind == "optuna"


def method_of(text: str) -> Method:
    """The method that is named so."""
    kind, colon, count = text.partition(":")
    for known in get_args(Kind):
        if (
            kind == known
            and (kind != "grid") == bool(colon)
            and (not colon or (count.isdecimal() and int(count) > 0))
        ):
            return Method(known, int(count or 0))
    raise SweepError(f"{text!r} is no way to choose points; there are {METHODS}")


class Design(Struct, frozen=True, kw_only=True):
    """Which points are tried."""

    axes: Axes
    method: Method
    seed: int
    objectives: Sequence[Objective]
    constraints: Sequence[Constraint]

    @property
    def most_points(self) -> int:
        """How many there are, or may be."""
        return self.method.count or math.prod(len(listed(path, axis)) for path, axis in self.axes.items())

    def batches(self, folder: Path, judged: Callable[[Point], Candidate]) -> Iterator[Iterable[Point]]:
        """Points that may run side by side; all of one batch are run before the next is asked for."""
        if self.method.searches:
            search = Search(
                folder, self.axes, self.objectives, self.constraints,
                count=self.method.count, seed=self.seed,
            )  # fmt: skip
            yield from search.generations(judged)
        elif self.method.kind == "grid":
            yield grid_points(self.axes)
        else:
            yield drawn_points(self.axes, self.method.count, self.method.kind, self.seed)

    def check(self, base: FleetSpec) -> list[ComponentSource]:
        """The code of the components that points have in the place of those of `base`.

        Raises `PolicyError` for a path that leads nowhere and a value that cannot be there, neither beside what `base`
        says nor beside the other axes' first values. Of a point that is wrong as a whole its own runs say so.
        """
        if not self.axes:
            raise SweepError("a sweep needs an axis, such as batching.max_batch=1,8,64")
        if self.method.searches and not self.objectives:
            raise SweepError("a search needs an objective, such as throughput_per_s:max")
        if self.method.kind == "grid":
            for path, axis in self.axes.items():
                listed(path, axis)
        first = {path: _ends(axis)[0] for path, axis in self.axes.items()}
        found: dict[ComponentSource, None] = {}
        for path, axis in self.axes.items():
            for value in _ends(axis):
                found |= dict.fromkeys(sources_of(_with(base, first, path, value)))
        own = set(sources_of(base))
        return [source for source in found if source not in own]

    def plain_axes(self) -> list[dict[str, Any]]:  # Any: JSON values
        """The axes as a file has them: a range, or values and what they are called."""
        return [
            {"path": path, "range": plain(axis)} if isinstance(axis, Range)
            else {"path": path, "values": [plain(value) for value in axis], "names": [word(value) for value in axis]}
            for path, axis in self.axes.items()
        ]  # fmt: skip


def axes_of(document: Iterable[Mapping[str, Any]]) -> dict[str, Axis]:  # Any: JSON values
    """The axes that `Design.plain_axes` wrote, components as tables."""
    return {one["path"]: Range(**one["range"]) if "range" in one else one["values"] for one in document}


def _ends(axis: Axis) -> Sequence[Any]:  # Any: values of a spec
    return [axis.at(0.0), axis.at(1.0)] if isinstance(axis, Range) else axis


def _with(base: FleetSpec, first: Mapping[str, Any], path: str, value: object) -> FleetSpec:
    try:
        return base.replace({**first, path: value})
    except PolicyError:
        return base.replace({path: value})
