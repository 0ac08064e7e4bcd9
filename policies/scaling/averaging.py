"""The mean of a signal over the last seconds, each value weighed with the time that it stands for."""

from __future__ import annotations

from collections import deque


class TimeAverage:
    """Over the last `length_s` seconds; amortised O(1).

    A value that stands for no time, such as the first one of a run, counts only while there is no other.
    """

    __slots__ = ("_area", "_length_s", "_span_s", "_values")

    def __init__(self, length_s: float) -> None:
        self._length_s = length_s
        self._values: deque[tuple[float, float]] = deque()
        self._area = self._span_s = 0.0

    def add(self, value: float, span_s: float) -> float:
        """Take in a value that held for `span_s` up to now; answers the mean."""
        if span_s <= 0.0:
            return self._area / self._span_s if self._span_s > 0.0 else value
        self._values.append((value, span_s))
        self._area += value * span_s
        self._span_s += span_s
        while self._span_s - self._values[0][1] >= self._length_s and len(self._values) > 1:
            value, span_s = self._values.popleft()
            self._area -= value * span_s
            self._span_s -= span_s
        return self._area / self._span_s
