"""How many tokens: samplers of prompt and output lengths, exact in their mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from traces.errors import TraceError
from traces.recipe import Recipe, recorded
from traces.trace import Trace

Draw = Callable[[np.random.Generator, int], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Lengths:
    """A law of token counts. Make one with `constant`, `uniform`, `lognormal` or `empirical`."""

    name: str
    """What the header of a trace records, such as ``lognormal(mean=512, cv=1.2)``."""
    draw: Draw
    """``draw(rng, n)``: n independent counts."""
    recipe: Recipe | None = None
    """How it came to be; None for a law that is a function of one's own."""

    def made_by(self, recipe: Recipe | None) -> Lengths:
        """The same with this recipe."""
        return replace(self, recipe=recipe)

    @staticmethod
    @recorded("Lengths.constant")
    def constant(tokens: int) -> Lengths:
        """Always `tokens`."""
        _whole("constant", tokens)
        return Lengths(f"constant({tokens})", lambda rng, n: np.full(n, tokens, dtype=np.int64))

    @staticmethod
    @recorded("Lengths.uniform")
    def uniform(low: int, high: int) -> Lengths:
        """Uniform on low, …, high, both included: mean ``(low + high) / 2``."""
        _whole("uniform", low, high)
        if high < low:
            raise TraceError(f"uniform({low}, {high}) is not possible", remedy="give low <= high")
        return Lengths(f"uniform({low}, {high})", lambda rng, n: rng.integers(low, high, n, endpoint=True))

    @staticmethod
    @recorded("Lengths.lognormal")
    def lognormal(mean: float, cv: float) -> Lengths:
        """Lognormal of this mean and coefficient of variation, rounded at random: the mean stays exact.

        With ``s2 = ln(1 + cv**2)`` the logarithm is normal of mean ``ln(mean) - s2 / 2`` and variance `s2`. A
        value x becomes ``floor(x + u)``, u uniform on [0, 1). Nothing is clipped; a count can be 0, rarely
        unless the mean is small.
        """
        _nonnegative("lognormal", mean, cv)
        variance = math.log1p(cv * cv)
        mu, sigma = math.log(mean) - variance / 2, math.sqrt(variance)

        def draw(rng: np.random.Generator, n: int) -> npt.NDArray[np.int64]:
            return np.floor(rng.lognormal(mu, sigma, n) + rng.uniform(size=n)).astype(np.int64)

        return Lengths(f"lognormal(mean={mean:g}, cv={cv:g})", draw)

    @staticmethod
    @recorded("Lengths.empirical")
    def empirical(trace: Trace, column: str = "prompt_tokens") -> Lengths:
        """Drawn with replacement from a column of a trace, absent values left out."""
        values = trace.column(column).drop_null().to_numpy()
        if not len(values):
            raise TraceError("has no values to draw from", column=column)
        name = f"empirical({column} of {trace.sha256[:12]})"
        return Lengths(name, lambda rng, n: rng.choice(values, n))


def is_whole(value: object) -> bool:
    """Whether it is a whole number from 0 on, whatever its annotation says."""
    return isinstance(value, int) and value >= 0


def _whole(law: str, *values: int) -> None:
    if not all(map(is_whole, values)):
        raise TraceError(f"{law}: {values} is not possible", remedy="give whole numbers, none below 0")


def _nonnegative(law: str, *values: float) -> None:
    if not all(math.isfinite(value) and value >= 0 for value in values) or (
        law == "lognormal" and not values[0]
    ):
        raise TraceError(f"{law}: {values} is not possible", remedy="give finite numbers, none below 0")
