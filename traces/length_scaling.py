"""Scaling token counts, so that a long-context trace fits a small model and its prefixes still share what they shared.

The one thing to know: a prompt is scaled by its blocks. A block becomes a whole number of tokens, a prompt as many
such blocks as it had, and the tokens beyond its last full block in proportion. Which hashes two requests share does
not change, and neither does how many blocks a cache holds or hits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from traces.errors import TraceError
from traces.recipe import recorded
from traces.transforms import AnyTrace, derived, positive, with_column

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

LARGEST = 2.0**53
"""The most tokens that a scaled count may come to: beyond it a float is not exact."""


@recorded("Trace.scale_lengths")
def scale_lengths(
    trace: AnyTrace,
    factor: float = 1.0,
    *,
    max_prompt_tokens: int | None = None,
    max_output_tokens: int | None = None,
    output_factor: float | None = None,
) -> AnyTrace:
    """Prompts, blocks and outputs `factor` times as long, rounded to whole tokens; at least 1 where there was one.

    `block_tokens` becomes the nearest whole number from 1 on, so a prompt with blocks is scaled by what blocks of
    16 or 512 tokens can be scaled by: 0.1 makes 2 tokens of 16, which is 0.125. The number of blocks stays, and
    what was a partial last block is one still (with blocks of 1 token there is no such thing: it is full then).
    What is absent stays absent, and 0 stays 0.

    Args:
        trace: The requests.
        factor: Of prompts and blocks, and of outputs unless they have their own.
        max_prompt_tokens: Longer prompts lose their end, after scaling, and the blocks that began there.
        max_output_tokens: Longer outputs are cut, after scaling.
        output_factor: Of outputs.
    """
    positive("scale_lengths", factor)
    positive("scale_lengths", factor if output_factor is None else output_factor)
    for name, most in (("max_prompt_tokens", max_prompt_tokens), ("max_output_tokens", max_output_tokens)):
        if most is not None and most < 1:
            remedy = "give a whole number from 1 on"
            raise TraceError(f"scale_lengths({name}={most!r}) is not possible", remedy=remedy)
    table = _prompts_scaled(trace.table, factor, max_prompt_tokens)
    if "output_tokens" in table.column_names:
        counts, known = _counts(table, "output_tokens")
        outputs = _at_most(
            _scaled(counts, factor if output_factor is None else output_factor), max_output_tokens
        )
        table = with_column(table, "output_tokens", pa.array(outputs, mask=~known))
    return derived(
        trace, table, "scale_lengths", factor=float(factor), max_prompt_tokens=max_prompt_tokens,
        max_output_tokens=max_output_tokens, output_factor=None if output_factor is None else float(output_factor),
    )  # fmt: skip


def _prompts_scaled(table: pa.Table, factor: float, most: int | None) -> pa.Table:
    prompts, known = _counts(table, "prompt_tokens")
    sizes, in_blocks = _counts(table, "block_tokens")
    hashes = _hashes(table)
    new_sizes = _scaled(sizes, factor)
    by_blocks = in_blocks & known
    size, new_size = np.where(by_blocks, sizes, 1), np.where(by_blocks, new_sizes, 1)
    whole, rest = prompts // size, prompts % size
    partial = _partial(rest, size, new_size, hashes > whole)
    in_all = np.maximum(whole * new_size + partial, np.minimum(prompts, 1))
    lengths = np.where(by_blocks, in_all, _scaled(prompts, factor))
    cut = _at_most(lengths, most)
    if known.any():
        table = with_column(table, "prompt_tokens", pa.array(cut, mask=~known))
    if in_blocks.any():
        table = with_column(table, "block_tokens", pa.array(new_sizes, mask=~in_blocks))
    shorter = by_blocks & (cut < lengths) & (hashes > 0)
    if shorter.any():
        # A full block at the end was hashed in files that hash partial ones and in files that do not.
        begun = np.where(hashes >= whole + (rest > 0), -(-cut // new_size), cut // new_size)
        kept = np.where(shorter, np.minimum(begun, hashes), hashes)
        table = with_column(table, "blocks", _first_of_each(table, kept))
    return table


def _partial(rest: Ints, size: Ints, new_size: Ints, hashed: Mask) -> Ints:
    """Tokens of a partial last block after scaling: at least 1 and less than a full one, where blocks allow it."""
    room = np.maximum(new_size - 1, 0)
    least = np.where(hashed, 1, np.minimum(room, 1))
    scaled = np.floor(rest * (new_size / size) + 0.5).astype(np.int64)
    partial: Ints = np.where(rest > 0, np.clip(scaled, least, np.maximum(room, least)), 0)
    return partial


def _scaled(counts: Ints, factor: float) -> Ints:
    scaled = np.maximum(np.floor(counts * factor + 0.5), np.minimum(counts, 1))
    if scaled.max(initial=0) > LARGEST:
        raise TraceError(
            f"scale_lengths({factor}) makes {scaled.max():.3g} tokens of {counts.max()}",
            remedy="give a smaller factor",
        )
    return np.asarray(scaled, dtype=np.int64)


def _at_most(counts: Ints, most: int | None) -> Ints:
    return counts if most is None else np.minimum(counts, most)


def _counts(table: pa.Table, name: str) -> tuple[Ints, Mask]:
    """A column of counts with 0 for what is absent, and which rows have one."""
    if name not in table.column_names:
        return np.zeros(table.num_rows, dtype=np.int64), np.zeros(table.num_rows, dtype=bool)
    values = table[name]
    known = np.asarray(values.is_valid().to_numpy(), dtype=bool)
    return np.asarray(pc.fill_null(values, 0).to_numpy(), dtype=np.int64), known


def _hashes(table: pa.Table) -> Ints:
    """How many blocks of each prompt have a hash."""
    if "blocks" not in table.column_names:
        return np.zeros(table.num_rows, dtype=np.int64)
    lengths = pc.fill_null(pc.list_value_length(table["blocks"]), 0)
    return np.asarray(lengths.to_numpy(), dtype=np.int64)


def _first_of_each(table: pa.Table, counts: Ints) -> pa.Array:
    """The first so many hashes of each row."""
    lists = table["blocks"].combine_chunks()
    lengths = _hashes(table)
    starts = np.cumsum(lengths) - lengths
    position = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    kept = lists.flatten().filter(pa.array(position < np.repeat(counts, lengths)))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype("i4")
    return pa.ListArray.from_arrays(offsets, kept, mask=lists.is_null())
