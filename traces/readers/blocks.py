"""Prefix-block hashes: how many tokens each stands for. A file does not say; the counts of its rows do.

A row of L tokens and n hashes fits blocks of b tokens if n = ⌈L/b⌉ (each started block has a hash), or, in formats
that may leave out the block at the end that is not full, n = ⌊L/b⌋ too. Each row so allows an interval of sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from traces.readers.options import ReadOptions
from traces.readers.rows import Rows

Ints = npt.NDArray[np.int64]
_ANY = 2**62
"""Where there is no greatest size of a block."""


def put_blocks(
    rows: Rows,
    hashes: Sequence[list[int] | None],
    prompt_tokens: Sequence[int | None],
    options: ReadOptions,
    *,
    usual: int,
    partial: bool,
) -> None:
    """Add prefix-block hashes, and the size of a block on the rows that have any.

    The size is the one told; else `usual`, if it fits every row; else the only one that does. Rows that contradict
    it are bad.

    Args:
        rows: Where to.
        hashes: Of each row; None where the file has none.
        prompt_tokens: Of each row.
        options: May tell the size.
        usual: The size that the published files of this format have.
        partial: Whether each started block has a hash; if not, the last may have one or not.

    Raises:
        TraceError: No size is told and the usual one does not fit; several others do, or it fits less than half.
    """
    rows.put("blocks", pa.array(hashes, pa.list_(pa.int64())), "hash_ids")
    counts = np.array([-1 if blocks is None else len(blocks) for blocks in hashes], dtype=np.int64)
    lengths = np.array([-1 if length is None else length for length in prompt_tokens], dtype=np.int64)
    sizes = _allowed(lengths, counts, partial=partial)
    size = options.block_tokens or _decided(rows, sizes, usual)
    wrong = ~sizes.fit(size)
    rows.reject(wrong, "hash_ids", f"are not blocks of {size} tokens", sizes.fitting(), sizes.told(wrong))
    rows.block_tokens = size if (counts >= 0).any() else None
    rows.put("block_tokens", pa.array(np.full(len(counts), size), mask=counts < 0))


class _Sizes(NamedTuple):
    """What each row says of the size of a block: at least `least` tokens, at most `most`."""

    lengths: Ints
    counts: Ints
    least: Ints
    most: Ints

    def fit(self, size: int) -> npt.NDArray[np.bool_]:
        """The rows that allow this size."""
        return (self.least <= size) & (size <= self.most)

    def common(self) -> tuple[int, int]:
        """The sizes that every row allows, from the least to the greatest; none if the first is the greater."""
        return int(self.least.max(initial=1)), int(self.most.min(initial=_ANY))

    def fitting(self) -> str:
        """Those sizes, in words."""
        low, high = self.common()
        if low > high:
            return "no one size fits every row"
        if high == _ANY:
            return f"{low} tokens and more fit every row"
        return f"{low} tokens fit every row" if low == high else f"{low} to {high} tokens fit every row"

    def told(self, where: npt.NDArray[np.bool_]) -> pa.Array:
        """What these rows have, in words."""
        texts: list[str | None] = [None] * len(where)
        for row in np.flatnonzero(where).tolist():
            texts[row] = f"{self.counts[row]:,} hashes for {self.lengths[row]:,} tokens"
        return pa.array(texts, pa.string())


def _allowed(lengths: Ints, counts: Ints, *, partial: bool) -> _Sizes:
    n = np.maximum(counts, 0)
    started = -(-lengths // np.maximum(n, 1))
    least = np.maximum(started if partial else lengths // (n + 1) + 1, 1)
    most = np.where(n > 1, (lengths - 1) // np.maximum(n - 1, 1), _ANY)
    most = np.where((lengths == 0) & (n > 0), 0, most)  # no tokens fill no block
    # A row without a length or without hashes says nothing; nor does an empty list where started blocks are hashed.
    silent = (counts < (1 if partial else 0)) | (lengths < 0)
    return _Sizes(lengths, counts, np.where(silent, 1, least), np.where(silent, _ANY, most))


def _decided(rows: Rows, sizes: _Sizes, usual: int) -> int:
    fits = sizes.fit(usual)
    if fits.all():
        return usual
    low, high = sizes.common()
    if low == high:
        return low
    if low > high and 2 * np.count_nonzero(fits) > len(fits):
        return usual  # and a few bad rows
    first = int(np.argmax(~fits))
    problem = f"{sizes.told(~fits)[first]} are not blocks of {usual} tokens"
    remedy = f"{sizes.fitting()}: say which with block_tokens= (--block-tokens)"
    raise rows.error(first, "hash_ids", problem, remedy)
