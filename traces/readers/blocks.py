"""Prefix-block hashes: how many tokens each stands for. A file does not say; the counts of its rows do.

A row of L tokens and n hashes fits blocks of b tokens if n = ⌈L/b⌉ (each started block has a hash), or, in formats
that may leave out the block at the end that is not full, n = ⌊L/b⌋ too. Each row so allows an interval of sizes, and
what all rows allow is known only when all are read.

The size is the one told; else the format's usual one, if it fits every row; else the only one that does. Rows that
contradict it are bad. A file is refused if no size is told, the usual one does not fit, and several others do, or it
fits less than half.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from traces.errors import TraceError
from traces.readers.rows import Hashing, Lines, Rows

Ints = npt.NDArray[np.int64]
UNSIGNED = "hash of 2^63 or more, kept as the negative number of the same 64 bits"
_ANY = 2**62
"""Where there is no greatest size of a block."""


def put_blocks(
    rows: Rows, hashes: Sequence[list[int] | None], *, usual: int, partial: bool, column: str = "hash_ids"
) -> None:
    """Add prefix-block hashes, whose size is settled when all rows are there.

    A column holds numbers of 64 bits with a sign. Hashes of 64 bits without one are kept as the same bits, which is
    said (`UNSIGNED`); a row that has both kinds is bad, as two of its hashes could become one.

    Args:
        rows: Where to.
        hashes: Of each row; None where the file has none.
        usual: The size that the published files of this format have.
        partial: Whether each started block has a hash; if not, the last may have one or not.
        column: What the file calls it.
    """
    try:
        lists = _lists(hashes)
    except OverflowError:
        lists = _lists(_signed(rows, hashes, column))
    rows.put("blocks", lists, column)
    rows.hashing = Hashing(usual, partial)


def _lists(hashes: Sequence[list[int] | None]) -> pa.Array:
    counts = np.fromiter((len(row) if row else 0 for row in hashes), np.int64, len(hashes))
    values = np.fromiter(chain.from_iterable(row for row in hashes if row), np.int64, counts.sum())
    offsets = np.zeros(len(hashes) + 1, dtype=np.int32)
    np.cumsum(counts, out=offsets[1:])
    missing = np.fromiter((row is None for row in hashes), bool, len(hashes))
    mask = pa.array(missing) if missing.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=mask)


def _signed(rows: Rows, hashes: Sequence[list[int] | None], column: str) -> list[list[int] | None]:
    """The hashes as numbers of 64 bits with a sign. What has more bits, or is of both kinds, makes its row bad."""
    unsigned = np.array([bool(row) and max(row or ()) >= 2**63 for row in hashes])
    negative = np.array([bool(row) and min(row or ()) < 0 for row in hashes])
    large = np.array([bool(row) and (max(row or ()) >= 2**64 or min(row or ()) < -(2**63)) for row in hashes])
    rows.reject(large, column, "has a hash of more than 64 bits", "expected numbers from 0 to 2^64 - 1")
    rows.reject(
        unsigned & negative, column, "has hashes below 0 and hashes of 2^63 or more", "they may be one"
    )
    rows.remark(pa.array(unsigned), UNSIGNED)
    bad = large | (unsigned & negative)
    return [
        None if row is None or wrong else [(h + 2**63) % 2**64 - 2**63 for h in row]
        for row, wrong in zip(hashes, bad.tolist(), strict=True)
    ]


class Sizes(NamedTuple):
    """What each row says of the size of a block: at least `least` tokens, at most `most`."""

    lengths: Ints
    counts: Ints
    least: Ints
    most: Ints

    def fit(self, size: int) -> npt.NDArray[np.bool_]:
        """The rows that allow this size."""
        return (self.least <= size) & (size <= self.most)

    def told(self, row: int) -> str:
        """What a row has, in words."""
        return f"{self.counts[row]:,} hashes for {self.lengths[row]:,} tokens"


def sizes(prompt_tokens: pa.Array, hashes: pa.Array, *, partial: bool) -> Sizes:
    """The sizes that each row allows; `partial` as in `put_blocks`."""
    lengths, counts = _ints(prompt_tokens), _ints(pc.list_value_length(hashes))
    n = np.maximum(counts, 0)
    started = -(-lengths // np.maximum(n, 1))
    least = np.maximum(started if partial else lengths // (n + 1) + 1, 1)
    most = np.where(n > 1, (lengths - 1) // np.maximum(n - 1, 1), _ANY)
    most = np.where((lengths == 0) & (n > 0), 0, most)  # no tokens fill no block
    # A row without a length or without hashes says nothing; nor does an empty list where started blocks are hashed.
    silent = (counts < (1 if partial else 0)) | (lengths < 0)
    return Sizes(lengths, counts, np.where(silent, 1, least), np.where(silent, _ANY, most))


def _ints(values: pa.Array) -> Ints:
    return np.asarray(pc.fill_null(values, -1).to_numpy(zero_copy_only=False), dtype=np.int64)


class Common:
    """What the rows of a file say together.

    Args:
        usual: The format's size.
    """

    def __init__(self, usual: int) -> None:
        self._usual = usual
        self._low, self._high = 1, _ANY
        self._rows = self._fits = 0
        self._contradicts: tuple[int, str] | None = None
        self.hashed = False
        """Whether any row has hashes."""

    def add(self, sizes: Sizes, lines: Lines) -> None:
        """The rows of the next part, and the lines that they stand on."""
        self._low = max(self._low, int(sizes.least.max(initial=1)))
        self._high = min(self._high, int(sizes.most.min(initial=_ANY)))
        self.hashed = self.hashed or bool((sizes.counts >= 0).any())
        fits = sizes.fit(self._usual)
        self._rows += len(fits)
        self._fits += int(fits.sum())
        if self._contradicts is None and not fits.all():
            row = int(np.argmin(fits))
            self._contradicts = int(lines[row]), sizes.told(row)

    def fitting(self) -> str:
        """The sizes that every row allows, in words."""
        low, high = self._low, self._high
        if low > high:
            return "no one size fits every row"
        if high == _ANY:
            return f"{low} tokens and more fit every row"
        return f"{low} tokens fit every row" if low == high else f"{low} to {high} tokens fit every row"

    def decided(self, file: Path, column: str) -> int:
        """The size, where none is told. Raises `TraceError` where it is in doubt."""
        if self._contradicts is None:
            return self._usual
        if self._low == self._high:
            return self._low
        if self._low > self._high and 2 * self._fits > self._rows:
            return self._usual  # and a few bad rows
        line, told = self._contradicts
        problem = f"{told} are not blocks of {self._usual} tokens"
        remedy = f"{self.fitting()}: say which with block_tokens= (--block-tokens)"
        raise TraceError(problem, remedy=remedy, file=file, line=line, column=column)
