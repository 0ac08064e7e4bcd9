"""Means by group, for policies that predict from what has ended: of a tenant's answers, of prompts of one length."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

MOST_GROUPS = 4096
"""Groups that are remembered; of more, those that nothing was heard of for longest are forgotten."""


class RunningMeans:
    """The mean of all values so far, by group. O(1)."""

    __slots__ = ("_groups", "_most")

    def __init__(self, most: int = MOST_GROUPS) -> None:
        self._most = most
        self._groups: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, group: Hashable, value: float) -> None:
        """One more value of this group."""
        count, total = self._groups.pop(group, (0, 0))
        self._groups[group] = count + 1, total + value
        if len(self._groups) > self._most:
            self._groups.popitem(last=False)

    def mean(self, *groups: Hashable) -> float | None:
        """Of the first of these groups that there are values of; None where there are none of any."""
        for group in groups:
            count, total = self._groups.get(group, (0, 0))
            if count:
                return total / count
        return None
