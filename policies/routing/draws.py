"""Drawing a few different candidates at random, which costs the same however many there are."""

from __future__ import annotations

from collections.abc import Callable


def two_of(count: int, draw: Callable[[], float]) -> tuple[int, int]:
    """Two different numbers below `count`, each pair as likely as the others; twice 0 when there is only one. O(1)."""
    if count == 1:
        return 0, 0
    first = int(draw() * count)
    second = int(draw() * (count - 1))
    return first, second + (second >= first)


def some_of(count: int, wanted: int, draw: Callable[[], float]) -> list[int]:
    """So many different numbers below `count`, or all of them, each set as likely as the others. O(wanted²).

    Floyd's method: the last numbers come in one at a time, each in place of what is drawn when that is taken already.
    """
    if wanted >= count:
        return list(range(count))
    chosen: list[int] = []
    for last in range(count - wanted, count):
        number = int(draw() * (last + 1))
        chosen.append(last if number in chosen else number)
    return chosen
