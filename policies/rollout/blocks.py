"""How sure a difference of means is where successive values depend on each other, as latencies of one queue do."""

from __future__ import annotations

import math

MOST = 64
"""Blocks; when there are so many, each two neighbours become one."""
LEAST = MOST // 2
LEAST_VALUES = 32
"""In a block, before anything is said: shorter ones depend on each other."""


class Blocks:
    """Values of two sides, in blocks of as many successive ones of both. O(1) for a value, O(`MOST`) to ask.

    Blocks grow with what there is, and are the less dependent on each other. The variance of the difference of means is
    that of the blocks' deviations (both sides of a block share its time: what hits both cancels). Half as many blocks
    of twice the length have a larger one where blocks still depend on each other; the error falls as 1 / length, so it
    is extrapolated.

    Source: Law and Kelton, "Simulation Modeling and Analysis", chapter 9 (batch means); Meketon and Schmeiser,
    "Overlapping Batch Means", 1984, for the error of order 1 / length.
    """

    __slots__ = ("_count", "_now", "blocks", "length")

    def __init__(self) -> None:
        self.blocks: list[tuple[int, float, int, float]] = []
        """Count and sum of either side."""
        self.length = 1
        self._now, self._count = [0, 0.0, 0, 0.0], 0

    @property
    def complete(self) -> bool:
        """Whether every value is in a block that is full."""
        return self._count == 0

    @property
    def enough(self) -> bool:
        """Whether they are so many, and so long, that they say something."""
        return len(self.blocks) >= LEAST and self.length >= LEAST_VALUES

    def add(self, side: int, value: float) -> None:
        """One more, of side 0 or 1."""
        self._now[2 * side] += 1
        self._now[2 * side + 1] += value
        self._count += 1
        if self._count < self.length:
            return
        self.blocks.append((int(self._now[0]), self._now[1], int(self._now[2]), self._now[3]))
        self._now, self._count = [0, 0.0, 0, 0.0], 0
        if len(self.blocks) == MOST:
            self.blocks = [
                (n + m, s + t, k + i, u + v)
                for (n, s, k, u), (m, t, i, v) in zip(self.blocks[::2], self.blocks[1::2], strict=True)
            ]
            self.length *= 2

    def variance(self) -> float:
        """Of the difference of means; infinite where there are not `enough`, or one side has none."""
        count, other = sum(block[0] for block in self.blocks), sum(block[2] for block in self.blocks)
        if not self.enough or not count or not other:
            return math.inf
        mean = sum(block[1] for block in self.blocks) / count
        other_mean = sum(block[3] for block in self.blocks) / other
        off = [(u - other_mean * k) / other - (s - mean * n) / count for n, s, k, u in self.blocks]
        first = len(off) % 2
        pairs = [one + two for one, two in zip(off[first::2], off[first + 1 :: 2], strict=True)]
        single, double = _of_sum(off), _of_sum(pairs)
        return max(single, double, 2.0 * double - single)

    def as_normal(self, variance: float, difference: float) -> float:
        """The variance with which a normal `difference` is as unlikely as by Student's law: it is itself estimated.

        Source: Wallace, "Bounds on Normal Approximations to Student's and the Chi-Square Distributions", 1959.
        """
        free = len(self.blocks) // 2 - 1
        if free < 1 or not 0.0 < variance < math.inf or difference == 0.0:
            return variance
        shrink = ((8 * free + 1) / (8 * free + 3)) ** 2
        return (
            difference * difference / (shrink * free * math.log1p(difference * difference / variance / free))
        )


def _of_sum(values: list[float]) -> float:
    """The variance of their sum, which is 0, if they are independent."""
    return sum(value * value for value in values) * len(values) / (len(values) - 1)
