"""How much a mean of values varies that come one after another and are alike if they are near, as in a queue."""

from __future__ import annotations

import math
from statistics import variance

LEAST_BLOCKS, LEAST_SIZE = 16, 16
ENOUGH = LEAST_BLOCKS * LEAST_SIZE
"""Values before anything is said."""


class Blocks:
    """Cut n values, in order, into 16 to 31 blocks of one size, 16 or more. O(1) for a value on average, and in memory.

    The size doubles as n does, so that blocks become long against whatever time two values are alike for, and their
    means independent. Source: batch means, Law and Kelton, "Simulation Modeling and Analysis"; the doubling is that of
    Steiger and Wilson, "An Improved Batch Means Procedure", Management Science 2002, without its tests.
    """

    __slots__ = ("_in_last", "_last", "_size", "_sums", "variance_of_mean")

    def __init__(self) -> None:
        self._size = LEAST_SIZE
        self._sums: list[float] = []
        """Of whole blocks."""
        self._last, self._in_last = 0.0, 0
        self.variance_of_mean = math.inf
        """Of the mean of all the values; infinite below `ENOUGH` of them."""

    def add(self, value: float) -> None:
        """The next one."""
        self._last += value
        self._in_last += 1
        if self._in_last < self._size:
            return
        sums = self._sums
        sums.append(self._last)
        self._last, self._in_last = 0.0, 0
        if len(sums) == 2 * LEAST_BLOCKS:
            self._sums = sums = [one + other for one, other in zip(sums[::2], sums[1::2], strict=True)]
            self._size *= 2
        if (blocks := len(sums)) >= LEAST_BLOCKS:
            # Who takes it for the true variance of a normal mean errs: the last factor makes up for so few blocks, as
            # the variance of Student's t does.
            of_a_block = variance(sums) / (self._size * self._size)
            self.variance_of_mean = of_a_block / blocks * (blocks - 1) / (blocks - 3)
