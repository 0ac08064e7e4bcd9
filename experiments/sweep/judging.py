"""What candidates are judged by: objectives, constraints, and where each stands.

The one thing to know: bounds and values are in the metric's own unit, whatever tables print.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import ge, gt, le, lt
from typing import Literal

from msgspec import Struct

from experiments.metrics import Metric, metric
from experiments.sweep.space import SweepError

Best = Literal["max", "min"]
Standing = Literal["front", "dominated", "infeasible", "left out"]
STANDINGS: tuple[Standing, ...] = ("front", "dominated", "infeasible", "left out")
KNEE = "nearest to the best of every objective, each scaled from 0 to 1 over the front (Zeleny, 1973)"
_BETTER: dict[str, Best] = {"higher": "max", "lower": "min"}
_SIGNS = {">=": ge, "<=": le, ">": gt, "<": lt}
_CONSTRAINT = re.compile(r"\s*(\S+?)\s*(>=|<=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")


class Judging(Struct, frozen=True):
    """A figure that candidates are judged by."""

    metric: Metric

    @property
    def key(self) -> str:
        """The metric's."""
        return self.metric.key


class Objective(Judging, frozen=True):
    """A figure, and which way it is better."""

    best: Best

    def cost(self, value: float) -> float:
        """The lower, the better."""
        return value if self.best == "min" else -value

    def __str__(self) -> str:
        return f"{self.metric.key}:{self.best}"


class Constraint(Judging, frozen=True):
    """A bound of a figure: who does not keep it, on average over its seeds, is infeasible."""

    sign: str
    bound: float

    def kept(self, value: float) -> bool:
        """Whether `value` is within the bound."""
        return bool(_SIGNS[self.sign](value, self.bound))

    def excess(self, value: float) -> float:
        """By how much `value` is out of bounds; 0 or less where it is within."""
        return value - self.bound if self.sign in ("<=", "<") else self.bound - value

    def __str__(self) -> str:
        return f"{self.metric.key}{self.sign}{self.bound:g}"


def objectives_of(
    given: Mapping[str, str | None] | Sequence[str], known: Mapping[str, Metric] = {}
) -> tuple[Objective, ...]:
    """``{"throughput_per_s": "max"}`` or ``["throughput_per_s:max"]``; where no way is said, the metric's better one.

    `known` are metrics of one's own, by key.
    """
    chosen = given.items() if isinstance(given, Mapping) else map(_way_of, given)
    return tuple(_objective(name, best, known) for name, best in chosen)


def _way_of(text: str) -> tuple[str, str | None]:
    name, colon, way = text.rpartition(":")
    return (name, way) if colon and way in ("max", "min") else (text, None)


def _objective(name: str, best: str | None, known: Mapping[str, Metric]) -> Objective:
    one = _figure(name, known)
    if best is None and one.better == "neither":
        raise SweepError(
            f"{name} has no better way, so nothing can be best in it; say {name}:max or {name}:min"
        )
    if best not in (None, "max", "min"):
        raise SweepError(f"objective {name}: {best!r} is no way to be best; it is max or min")
    return Objective(one, "max" if (best or _BETTER[one.better]) == "max" else "min")


def _figure(name: str, known: Mapping[str, Metric]) -> Metric:
    try:
        one = known.get(name) or metric(name)
    except ValueError as error:
        raise SweepError(str(error)) from None
    if one.by and one.across is None:
        raise SweepError(
            f"{name} has a value for each group; one over all of them decides, as {name}:max_min"
        )
    return one


def constraints_of(given: Sequence[str], known: Mapping[str, Metric] = {}) -> tuple[Constraint, ...]:
    """``["slo_attainment>=0.99"]``, in the metric's own unit: seconds, a fraction of 1."""
    return tuple(_constraint(text, known) for text in given)


def _constraint(text: str, known: Mapping[str, Metric]) -> Constraint:
    parts = _CONSTRAINT.fullmatch(text)
    if parts is None:
        raise SweepError(f"{text!r} is no constraint, such as slo_attainment>=0.99 or e2e_s.p99<=0.2")
    return Constraint(_figure(parts[1], known), parts[2], float(parts[3]))


class Candidate(Struct, frozen=True, kw_only=True):
    """Where one candidate stands."""

    name: str
    standing: Standing
    means: dict[str, float]
    """Of the objectives and the constraints, over the seeds that have a value."""
    why: str = ""
    """Which constraint is not kept, or why it is left out."""
