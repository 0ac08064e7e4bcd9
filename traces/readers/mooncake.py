"""Mooncake traces (Kimi): JSON lines with arrival in ms, lengths, and the hashes of 512-token prefix blocks.

The clock of the published files ticks about every 3 s, so many requests share an instant: spread them with
`Trace.dequantise(tick_s=3.0, seed=...)` where that matters.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa

from traces.readers.json_rows import Int64, decode_lines
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "mooncake"
BLOCK_TOKENS = 512


class _Line(msgspec.Struct):
    timestamp: float
    input_length: Int64
    output_length: Int64
    hash_ids: list[Int64] | None = None


def sniff(source: Source) -> bool:
    """By the keys of the first line; one with chat ids too is Bailian's."""
    return source.has_keys("timestamp", "input_length", "output_length") and not source.has_keys("chat_id")


def read(source: Source) -> tuple[Rows, Header]:
    """All fields; `blocks` are the file's ``hash_ids``, one for every started block of 512 tokens."""
    lines, rows = decode_lines(source, msgspec.json.Decoder(_Line).decode)
    rows.put("arrived_s", np.array([line.timestamp for line in lines]) / 1e3, "timestamp")
    rows.put("prompt_tokens", pa.array([line.input_length for line in lines], pa.int64()), "input_length")
    rows.put("output_tokens", pa.array([line.output_length for line in lines], pa.int64()), "output_length")
    put_blocks(rows, [line.hash_ids for line in lines], BLOCK_TOKENS)
    citation = "Qin et al., Mooncake: Trading More Storage for Less Computation, FAST 2025"
    return rows, Header(source=f"Mooncake, {source.path.name}", licence="Apache-2.0", citation=citation)


def put_blocks(rows: Rows, hashes: list[list[int] | None], block_tokens: int) -> None:
    """Add prefix-block hashes, and the size of a block on the rows that have any."""
    rows.put("blocks", pa.array(hashes, pa.list_(pa.int64())), "hash_ids")
    sizes = [None if blocks is None else block_tokens for blocks in hashes]
    rows.put("block_tokens", pa.array(sizes, pa.int64()))
