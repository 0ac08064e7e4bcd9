"""How fast a number of replicas may change: stabilization windows and limits of rate, as Kubernetes has them."""

from __future__ import annotations

import math
from collections import deque
from typing import Annotated, Literal

from msgspec import Meta

from policies.scaling.target_utilization import largest

Limit = tuple[Literal["pods", "percent"], Annotated[int, Meta(gt=0)], Annotated[float, Meta(gt=0, le=1800)]]
"""At most so many replicas, or per cent of those there were, within so many seconds."""
Select = Literal["max", "min", "disabled"]
"""Of several limits, the one that allows the largest change counts, or the smallest; or there is no change."""


class Stabilizer:
    """Holds a count to the largest of a window on the way down, and to the smallest of one on the way up."""

    __slots__ = ("_down_s", "_highest", "_lowest", "_up_s")

    def __init__(self, up_s: float, down_s: float) -> None:
        self._up_s, self._down_s = up_s, down_s
        self._highest: deque[tuple[float, int]] = deque()
        self._lowest: deque[tuple[float, int]] = deque()

    def held(self, current: int, wanted: int, now_s: float) -> int:
        """What `current` becomes where `wanted` is recommended now. Amortised O(1)."""
        highest = largest(self._highest, now_s, wanted, self._down_s, open_start=True)
        lowest = -largest(self._lowest, now_s, -wanted, self._up_s, open_start=True)
        return min(max(current, lowest), highest)


class RateLimit:
    """How far a count may go in one direction, by what it has done in the periods of the limits."""

    __slots__ = ("_changes", "_limits", "_longest_s", "_select")

    def __init__(self, limits: tuple[Limit, ...], select: Select) -> None:
        self._limits, self._select = limits, select
        self._longest_s = max((period_s for _, _, period_s in limits), default=0.0)
        self._changes: deque[tuple[float, int]] = deque()

    def highest(self, current: int, now_s: float) -> int:
        """The most that it may become, where this limits its growth. O(changes in the longest period)."""
        if self._select == "disabled":
            return current
        reached = [
            start + amount if kind == "pods" else math.ceil(start * (1.0 + amount / 100.0))
            for kind, amount, period_s in self._limits
            for start in [current - self._within(period_s, now_s)]
        ]
        return max(current, max(reached) if self._select == "max" else min(reached))

    def lowest(self, current: int, now_s: float) -> int:
        """The least that it may become, where this limits its decline."""
        if self._select == "disabled":
            return current
        reached = [
            start - amount if kind == "pods" else int(start * (1.0 - amount / 100.0))
            for kind, amount, period_s in self._limits
            for start in [current + self._within(period_s, now_s)]
        ]
        return max(0, min(current, min(reached) if self._select == "max" else max(reached)))

    def changed(self, by: int, now_s: float) -> None:
        """It has changed by so many, up or down as it may be."""
        self._changes.append((now_s, by))
        while self._changes[0][0] < now_s - self._longest_s:
            self._changes.popleft()

    def _within(self, period_s: float, now_s: float) -> int:
        return sum(by for changed_s, by in self._changes if changed_s > now_s - period_s)


class Behaviour:
    """Both, as the HorizontalPodAutoscaler puts them together: first the windows, then the limits."""

    __slots__ = ("_down", "_stabilizer", "_up")

    def __init__(self, stabilizer: Stabilizer, up: RateLimit, down: RateLimit) -> None:
        self._stabilizer, self._up, self._down = stabilizer, up, down

    def applied(self, current: int, wanted: int, now_s: float) -> int:
        """What `current` becomes now."""
        held = self._stabilizer.held(current, wanted, now_s)
        if held > current:
            held = min(held, self._up.highest(current, now_s))
        elif held < current:
            held = max(held, self._down.lowest(current, now_s))
        if held > current:
            self._up.changed(held - current, now_s)
        elif held < current:
            self._down.changed(current - held, now_s)
        return held
