"""A latency model from a measured table, as `fleet profile` writes it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Annotated, Literal

from msgspec import Meta

from fleet.engines.bounds import FileName, NonNegative
from fleet.engines.latency.batches.base import LatencyModel, batch_cost
from fleet.engines.latency.tables.batch_profile import Profile
from fleet.messages import Work

Point = tuple[Annotated[int, Meta(ge=1)], Annotated[int, Meta(ge=0)], NonNegative]


class ProfiledLatency(LatencyModel):
    """A measured table, interpolated linearly between its points along batch size and prompt tokens.

    A batch is looked up at its size (the sum of `request.work`, absent is 1.0) and at its longest prompt, to
    which engines pad; a prompt of unknown length counts as the shortest measured.

    The result never falls as either grows: where the measurement does, the larger value before it is kept.
    Below the first point the first point holds. Beyond the last one the last slope goes on, or, where one
    point is all there is, time grows in proportion.
    """

    profile: FileName | None = None
    """File that `fleet profile` wrote; read once, when this value is made, into `points`."""
    points: tuple[Point, ...] = ()
    """(batch size, tokens of each item, seconds): a full grid."""
    statistic: Literal["min", "median", "p90"] = "median"
    """Which of the profile's figures to read."""

    def __post_init__(self) -> None:
        if not self.points:
            if self.profile is None:
                raise ValueError("ProfiledLatency needs a `profile` or `points`")
            self.points = tuple(
                (point.batch_size, point.tokens, getattr(point, f"{self.statistic}_s"))
                for point in Profile.load(self.profile).points
            )
        self._sizes, self._tokens, self._seconds = _monotone_grid(self.points)

    def nominal_s(self, work: Sequence[Work]) -> float:
        tokens = [count for item in work if (count := item.request.prompt_tokens) is not None]
        return self.at(batch_cost(work), max(tokens, default=0))

    def at(self, batch_size: float, tokens: float) -> float:
        """Seconds for `batch_size` items of `tokens` prompt tokens each."""
        row, u = _cell(self._sizes, batch_size)
        column, v = _cell(self._tokens, tokens)
        (a, b), (c, d) = self._seconds[row][column : column + 2], self._seconds[row + 1][column : column + 2]
        return (1 - u) * ((1 - v) * a + v * b) + u * ((1 - v) * c + v * d)


def _cell(knots: Sequence[float], x: float) -> tuple[int, float]:
    """The cell of `knots` that holds x, and how far into it x lies: 0..1, or more beyond the last knot."""
    i = min(max(bisect_right(knots, x) - 1, 0), len(knots) - 2)
    return i, max(0.0, (x - knots[i]) / (knots[i + 1] - knots[i]))


def _monotone_grid(points: Iterable[Point]) -> tuple[list[float], list[float], list[list[float]]]:
    """Knots of both axes and seconds at each pair, non-decreasing along both.

    Each axis gets one knot more, one unit beyond its last and on the line to follow there: a bilinear
    function that is read beyond it then extrapolates. The slopes of that border are made non-decreasing too,
    or lines that start in order could cross further out.
    """
    measured = {(size, tokens): seconds for size, tokens, seconds in points}
    sizes, tokens = sorted({size for size, _ in measured}), sorted({count for _, count in measured})
    if missing := [(size, count) for size in sizes for count in tokens if (size, count) not in measured]:
        size, count = missing[0]
        raise ValueError(
            f"the table is not a full grid: {len(missing)} missing, such as batch size {size}, tokens {count}"
        )
    rows = [_running_max([measured[size, count] for count in tokens]) for size in sizes]
    rows = _transposed([_running_max(column) for column in _transposed(rows)])

    token_slopes = _running_max([_last_slope(tokens, row) for row in rows])
    size_slopes = _running_max([_last_slope(sizes, column) for column in _transposed(rows)])
    cross = (
        (size_slopes[-1] - size_slopes[-2]) / (tokens[-1] - tokens[-2])
        if len(tokens) > 1
        else _last_slope(tokens, size_slopes)
    )
    border = [seconds + slope for seconds, slope in zip(rows[-1], size_slopes, strict=True)]
    for row, slope in zip(rows, token_slopes, strict=True):
        row.append(row[-1] + slope)
    rows.append([*border, border[-1] + token_slopes[-1] + cross])
    return [*sizes, sizes[-1] + 1], [*tokens, tokens[-1] + 1], rows


def _last_slope(knots: Sequence[float], values: Sequence[float]) -> float:
    """Slope beyond the last knot: the last segment's; from a single knot in proportion (flat if at 0)."""
    if len(knots) > 1:
        return (values[-1] - values[-2]) / (knots[-1] - knots[-2])
    return values[0] / knots[0] if knots[0] else 0.0


def _running_max(values: Iterable[float]) -> list[float]:
    return list(accumulate(values, max))


def _transposed(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]
