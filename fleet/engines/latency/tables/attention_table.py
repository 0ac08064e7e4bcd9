"""Attention times between the measured ones: a prefill chunk and decoding sequences in one kernel.

A batch's time is the longer of two: that of its longest sequence alone (a sequence's context is walked in order, by one
part of the device), and that of all its tokens at the rate which the device as a whole reaches. Both are read off the
measured table, which has batches of equal sequences only: the first is its column of one sequence; the second, for a
total of C tokens in n sequences, the least of its times for that total in n sequences or more. So a time depends on the
*sum* of the contexts, and on the longest one where that one holds up the rest; and it never falls as any of them grows.

What this leaves out: of an uneven batch that the kernel does not split, the longest sequence may be begun last and end
after the rest. `UnevenAttentionTable` adds that.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from fleet.engines.latency.tables.attention_grid import AttentionGrid
from fleet.engines.latency.tables.kernels import Attention


class AttentionTable:
    """Microseconds of the attention of one layer.

    Linear between the measured points along chunk, context and sequences, and along the decoding sequences' tokens.
    Below the smallest size the smallest holds; beyond the largest the last slope goes on, except that a chunk beyond
    the largest takes the time of several, one on top of the other.
    """

    def __init__(self, measured_us: Attention) -> None:
        grid = AttentionGrid(measured_us)
        self._chunks, self._contexts, self._sequences, self._lengths = grid.axes
        self._totals = grid.totals
        self._prefill: list[list[float]] = grid.prefill.tolist()
        # By chunk, context, length: one sequence. By chunk, context, sequences, total tokens: all of them.
        self._longest: list[list[list[float]]] = grid.together[1:, :, 0].tolist()
        self._rate: list[list[list[list[float]]]] = grid.rate[1:].tolist()
        self._decode_longest: list[float] = grid.together[0, 0, 0].tolist()
        self._decode_rate: list[list[float]] = grid.rate[0, 0].tolist()
        self._rows: dict[int, list[float]] = {}

    def step_us(
        self, prefills: Sequence[tuple[int, int]], decodes: int, context_tokens: float, longest: int
    ) -> float:
        """One kernel over chunks (tokens, context) and `decodes` sequences that have `context_tokens` in all.

        It was measured with one chunk at most. Of several, whichever it is together with the decoding sequences that
        makes it take longest; the others add what they take alone, less the launch.
        """
        if not prefills:
            return self._decode_us(decodes, context_tokens, longest) if decodes else 0.0
        if not decodes:
            first, rest = 0.0, [self._chunk_us(chunk, context) for chunk, context in prefills]
            return sum(rest, first) - (len(rest) - 1) * self._prefill[0][0]
        if len(prefills) == 1:
            chunk, context = prefills[0]
            return self._mixed_us(chunk, context, decodes, context_tokens, longest)
        alone = [self._chunk_us(chunk, context) for chunk, context in prefills]
        mixed = [self._mixed_us(*prefill, decodes, context_tokens, longest) for prefill in prefills]
        added = max([with_us - alone_us for with_us, alone_us in zip(mixed, alone, strict=True)])
        return added + sum(alone) - (len(alone) - 1) * self._prefill[0][0]

    def _chunk_us(self, chunk: int, context: int) -> float:
        """A chunk alone."""
        most = self._chunks[-1]
        if chunk > most:
            return self._prefill_us(most, context) + self._beyond_us(chunk - most, context + most)
        return self._prefill_us(chunk, context)

    def _beyond_us(self, chunk: int, context: int) -> float:
        """What the tokens of a chunk beyond the largest measured one add: that many more of these, and a share."""
        most = self._chunks[-1]
        total_us = 0.0
        while chunk > 0:
            total_us += self._prefill_us(most, context) * min(1.0, chunk / most)
            chunk, context = chunk - most, context + most
        return total_us

    def _prefill_us(self, chunk: int, context: int) -> float:
        i, u = cell(self._chunks, chunk)
        j, v = cell(self._contexts, context)
        (a, b), (c, d) = self._prefill[i][j : j + 2], self._prefill[i + 1][j : j + 2]
        a, c = a + v * (b - a), c + v * (d - c)
        return a + u * (c - a)

    def _mixed_us(self, chunk: int, context: int, decodes: int, context_tokens: float, longest: int) -> float:
        """A chunk together with sequences that decode."""
        most = self._chunks[-1]
        beyond_us = 0.0
        if chunk > most:
            beyond_us, chunk = self._beyond_us(chunk - most, context + most), most
        i, u = cell(self._chunks, chunk)
        j, v = cell(self._contexts, context)
        k, w = cell(self._sequences, decodes)
        m, x = cell(self._totals, context_tokens)
        p, y = cell(self._lengths, longest)
        longest_us = rate_us = 0.0
        for row, u_share in ((i, 1.0 - u), (i + 1, u)):
            for column, share in ((j, u_share * (1.0 - v)), (j + 1, u_share * v)):
                if share:
                    line = self._longest[row][column]
                    longest_us += share * (line[p] + y * (line[p + 1] - line[p]))
                    low, high = self._rate[row][column][k : k + 2]
                    few = low[m] + x * (low[m + 1] - low[m])
                    rate_us += share * (few + w * (high[m] + x * (high[m + 1] - high[m]) - few))
        return beyond_us + max(longest_us, rate_us)

    # --- decode ------------------------------------------------------------------------------------------------

    def _decode_us(self, decodes: int, context_tokens: float, longest: int) -> float:
        """Decoding sequences only."""
        i, u = cell(self._totals, context_tokens)
        j, v = cell(self._lengths, longest)
        rate, line = self._rate_row(decodes), self._decode_longest
        return max(rate[i] + u * (rate[i + 1] - rate[i]), line[j] + v * (line[j + 1] - line[j]))

    def span_us(self, decodes: int, context_tokens: float, longest: int, steps: int) -> float:
        """Sum over steps that only decode, at each of which every sequence has one token more than at the last."""
        rate, line = self._rate_row(decodes), self._decode_longest
        total_us, step = 0.0, 0
        while step < steps:
            # Both are straight lines from here to the next knot of either.
            i, u = cell(self._totals, context_tokens + decodes * step)
            j, v = cell(self._lengths, longest + step)
            rate_rise, line_rise = rate[i + 1] - rate[i], line[j + 1] - line[j]
            until = min(
                steps - 1,
                max(step, int((self._totals[i + 1] - context_tokens) // decodes)),
                self._lengths[j + 1] - longest,
            )
            total_us += _sum_of_larger(
                rate[i] + u * rate_rise,
                rate_rise * decodes / (self._totals[i + 1] - self._totals[i]),
                line[j] + v * line_rise,
                line_rise / (self._lengths[j + 1] - self._lengths[j]),
                until - step + 1,
            )
            step = until + 1
        return total_us

    def _rate_row(self, decodes: int) -> list[float]:
        """Times by total tokens of so many sequences; kept, because batches keep their size for long."""
        row = self._rows.get(decodes)
        if row is None:
            i, u = cell(self._sequences, decodes)
            few, many = self._decode_rate[i], self._decode_rate[i + 1]
            row = self._rows[decodes] = [a + u * (b - a) for a, b in zip(few, many, strict=True)]
        return row


def cell(knots: Sequence[int], x: float) -> tuple[int, float]:
    """The cell of `knots` that holds x, and how far into it x lies; outside the knots, at the nearest of them."""
    i = bisect_right(knots, x) - 1
    if i < 0:
        return 0, 0.0
    if i > len(knots) - 2:
        return len(knots) - 2, 1.0
    return i, (x - knots[i]) / (knots[i + 1] - knots[i])


def _sum_of_larger(first: float, rise: float, other: float, other_rise: float, count: int) -> float:
    """Sum over `count` steps of the larger of two straight lines, each given by its start and its rise a step."""
    ahead, gain = first - other, rise - other_rise
    last = ahead + gain * (count - 1)
    if ahead < 0 or (ahead == 0 and last < 0):
        first, rise, other, other_rise, ahead, gain, last = (
            other,
            other_rise,
            first,
            rise,
            -ahead,
            -gain,
            -last,
        )
    if last >= 0:
        return _series(first, rise, 0, count)
    change = min(count - 1, int(ahead / -gain) + 1)
    return _series(first, rise, 0, change) + _series(other, other_rise, change, count)


def _series(start: float, rise: float, begin: int, end: int) -> float:
    """Sum of `start + rise * i` over begin ≤ i < end."""
    return (end - begin) * (start + rise * 0.5 * (begin + end - 1))
