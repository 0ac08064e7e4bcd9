"""From the attention times that were measured to a full grid that never falls along any axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fleet.engines.latency.tables.kernels import Attention

_FAR_TOKENS = 1 << 24
_FAR_SEQUENCES = 1 << 13
"""Beyond the measurements the last slope goes on as far as this, which nothing reaches."""


class AttentionGrid:
    """The table that `AttentionTable` reads.

    Every measured point is used. A point that was not measured (profilers refine a grid in places only, and leave out
    what exceeds a step's budget) lies on the line between its neighbours along the first axis that has them on both
    sides, else on the line through the last two. Where times fall along an axis, the larger one before it is kept.
    """

    axes: tuple[list[int], list[int], list[int], list[int]]
    """Chunk tokens, their context, decoding sequences, tokens of each. All but the first end far out."""
    prefill: np.ndarray
    """By chunk and context: a chunk alone."""
    together: np.ndarray
    """By chunk (the first stands for none), context, sequences, length: all sequences are of equal length."""
    totals: list[int]
    """The last axis of `rate`."""
    rate: np.ndarray
    """Like `together`, by the sequences' total tokens: the least of so many sequences or more."""

    def __init__(self, measured_us: Attention) -> None:
        # Zero chunk tokens, sequences or lengths mean that there are none; a context of zero is one.
        chunks, contexts, sequences, lengths = (
            sorted({point[axis] for point in measured_us if axis == 1 or point[axis] > 0})
            for axis in range(4)
        )
        self.axes = (
            chunks, [*contexts, _FAR_TOKENS], [*sequences, _FAR_SEQUENCES], [0, *lengths, _FAR_TOKENS]
        )  # fmt: skip
        self.totals = _totals(lengths, sequences)
        self.prefill = self._chunks_alone(measured_us)
        self.together = self._all_together(measured_us)
        self.rate = self._by_total()
        for beside_chunk, rows in ((False, self.rate[:1]), (True, self.rate[1:])):
            largest = max([point[2] for point in measured_us if (point[0] > 0) == beside_chunk])
            _make_least_of_more(rows, self.axes[2].index(largest) + 1)

    def _chunks_alone(self, measured_us: Attention) -> np.ndarray:
        chunks, contexts = self.axes[0], self.axes[1][:-1]
        grid = np.full((len(chunks), len(contexts)), np.nan)
        for (chunk, context, sequences, _), time_us in measured_us.items():
            if chunk and not sequences:
                grid[chunks.index(chunk), contexts.index(context)] = time_us
        grid = _with_border(_filled(grid, (chunks, contexts)), self.axes[1], 1)
        return np.maximum.accumulate(np.maximum.accumulate(grid, axis=0), axis=1)

    def _all_together(self, measured_us: Attention) -> np.ndarray:
        measured = (self.axes[0], self.axes[1][:-1], self.axes[2][:-1], self.axes[3][1:-1])
        at = [{value: i for i, value in enumerate(axis)} for axis in measured]
        grid = np.full([len(axis) + (number == 0) for number, axis in enumerate(measured)], np.nan)
        for (chunk, context, sequences, length), time_us in measured_us.items():
            if sequences and length:
                row = 1 + at[0][chunk] if chunk else 0
                grid[row, at[1][context], at[2][sequences], at[3][length]] = time_us
        grid[0] = _filled(grid[0, 0], measured[2:])
        grid[1:] = _filled(grid[1:], measured)
        for axis in (2, 3, 1):
            grid = _with_border(grid, self.axes[axis], axis)
        grid = np.concatenate([grid[..., :1], grid], axis=3)  # none shorter than the shortest measured
        grid[1:] = np.maximum(grid[1:], self.prefill[:, :, None, None])
        for axis in (0, 1, 3):
            grid = np.maximum.accumulate(grid, axis=axis)
        return grid

    def _by_total(self) -> np.ndarray:
        sequences, lengths = self.axes[2], np.array(self.axes[3], float)
        rows = []
        for i, count in enumerate(sequences):
            each = np.array(self.totals, float) / count
            left = np.clip(np.searchsorted(lengths, each, side="right") - 1, 0, len(lengths) - 2)
            within = (each - lengths[left]) / (lengths[left + 1] - lengths[left])
            row = self.together[:, :, i]
            rows.append(row[..., left] + within * (row[..., left + 1] - row[..., left]))
        return np.stack(rows, axis=2)


def _make_least_of_more(by_total: np.ndarray, measured: int) -> None:
    """For each number of sequences put the least time of that many or more, as far as so many were measured.

    Where a line goes on beyond the measurements it is not to be trusted with less than the largest measured one takes.
    """
    backwards = by_total[:, :, measured - 1 :: -1]
    np.minimum.accumulate(backwards, axis=2, out=backwards)
    beyond = by_total[:, :, measured - 1 :]
    np.maximum.accumulate(beyond, axis=2, out=beyond)


def _totals(lengths: Sequence[int], sequences: Sequence[int]) -> list[int]:
    """Knots for total tokens: those of the measured batches, but none within a quarter of the one before it."""
    totals = [0]
    for total in sorted({length * count for length in lengths for count in sequences}):
        if total >= 1.25 * totals[-1]:
            totals.append(total)
    return [*totals, _FAR_TOKENS * _FAR_SEQUENCES]


def _with_border(grid: np.ndarray, knots: Sequence[int], axis: int) -> np.ndarray:
    """One more value at the end of `axis`, at the last of `knots`, on the line through the two before it."""
    last, before = np.take(grid, -1, axis), np.take(grid, -2, axis)
    slope = np.maximum(0.0, (last - before) / (knots[-2] - knots[-3]))
    border = last + slope * (knots[-1] - knots[-2])
    return np.concatenate([grid, np.expand_dims(border, axis)], axis=axis)


def _filled(grid: np.ndarray, axes: Sequence[Sequence[int]]) -> np.ndarray:
    """`grid` without holes."""
    before = -1
    while (holes := int(np.isnan(grid).sum())) not in (0, before):
        before = holes
        for axis, knots in enumerate(axes):
            grid = _filled_along(grid, axis, knots, _between)
    for axis in reversed(range(grid.ndim)):
        grid = _filled_along(grid, axis, axes[axis], _beyond)
    if np.isnan(grid).any():
        raise ValueError("attention times: too few points for a grid of chunk, context, sequences and length")
    return grid


def _filled_along(
    grid: np.ndarray,
    axis: int,
    knots: Sequence[int],
    fill: Callable[[np.ndarray, np.ndarray, np.ndarray], None],
) -> np.ndarray:
    """`fill` every line along `axis` that has holes and two points or more; lines with the same holes together."""
    lines = np.moveaxis(grid, axis, -1).copy()
    flat = lines.reshape(-1, len(knots))
    patterns, which = np.unique(~np.isnan(flat), axis=0, return_inverse=True)
    for number, there in enumerate(patterns):
        known = np.flatnonzero(there)
        if 2 <= len(known) < len(knots):
            chosen = which.reshape(-1) == number
            some = flat[chosen]
            fill(some, known, np.array(knots, float))
            flat[chosen] = some
    return np.moveaxis(flat.reshape(lines.shape), -1, axis)


def _between(lines: np.ndarray, known: np.ndarray, positions: np.ndarray) -> None:
    inside = np.arange(known[0], known[-1] + 1)
    inside = np.setdiff1d(inside, known)
    right = known[np.searchsorted(known, inside)]
    left = known[np.searchsorted(known, inside) - 1]
    share = (positions[inside] - positions[left]) / (positions[right] - positions[left])
    lines[:, inside] = lines[:, left] + share * (lines[:, right] - lines[:, left])


def _beyond(lines: np.ndarray, known: np.ndarray, positions: np.ndarray) -> None:
    """After the last point, along the line through the two last ones; before the first, as that one."""
    before, last, first = known[-2], known[-1], known[0]
    slope = np.maximum(0.0, (lines[:, last] - lines[:, before]) / (positions[last] - positions[before]))
    lines[:, last + 1 :] = lines[:, [last]] + slope[:, None] * (positions[last + 1 :] - positions[last])
    lines[:, :first] = lines[:, [first]]
