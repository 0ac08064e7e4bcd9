"""Bailian usage traces (Qwen): JSON lines with arrival in s, lengths, turns, and the hashes of 16-token prefix blocks.

A turn names the one before it, so a session is the chain of turns from one root; its id is the root's. Published as
alibaba-edu/qwen-bailian-usagetraces-anon.
"""

from __future__ import annotations

import msgspec
import pyarrow as pa

from traces.published import header_of
from traces.readers.blocks import put_blocks
from traces.readers.json_rows import Int64, decode_lines, other_fields
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "bailian"
TAKES = frozenset({"time_unit", "block_tokens"})
BLOCK_TOKENS = 16
ROOT = -1
"""The parent of a turn that begins a session."""


class _Line(msgspec.Struct):
    chat_id: Int64
    timestamp: float
    input_length: Int64
    output_length: Int64
    parent_chat_id: Int64 | None = None
    turn: Int64 | None = None
    hash_ids: list[Int64] | None = None


def sniff(source: Source) -> bool:
    """By the keys of the first line."""
    return source.has_keys("chat_id", "timestamp", "input_length", "output_length")


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """All fields. `turn` counts from 0 here and from 1 in the file; its ``type`` goes to `extra`."""
    lines, rows = decode_lines(source, _Line)
    rows.put_arrivals(
        pa.array([line.timestamp for line in lines], pa.float64()), options.unit("s"), "timestamp"
    )
    rows.put("id", pa.array([str(line.chat_id) for line in lines], pa.string()), "chat_id")
    lengths = [line.input_length for line in lines]
    rows.put("prompt_tokens", pa.array(lengths, pa.int64()), "input_length")
    rows.put("output_tokens", pa.array([line.output_length for line in lines], pa.int64()), "output_length")
    rows.put("session", pa.array(_sessions(lines), pa.string()))
    turns = [None if line.turn is None else line.turn - 1 for line in lines]
    rows.put("turn", pa.array(turns, pa.int64()), "turn")
    before = [None if line.parent_chat_id in (None, ROOT) else str(line.parent_chat_id) for line in lines]
    rows.put("parent", pa.array(before, pa.string()), "parent_chat_id")
    put_blocks(rows, [line.hash_ids for line in lines], usual=BLOCK_TOKENS, partial=False)
    rows.put_others(other_fields(source, rows, _Line.__struct_fields__))
    return rows, header_of(source, "Bailian")


def _sessions(lines: list[_Line]) -> list[str | None]:
    """The session of each turn; None for one that says nothing of a parent and that nobody names as one."""
    parents = {line.chat_id: ROOT if line.parent_chat_id is None else line.parent_chat_id for line in lines}
    named = set(parents.values())
    alone = [line.parent_chat_id is None and line.chat_id not in named for line in lines]
    return [None if a else str(_root(line.chat_id, parents)) for a, line in zip(alone, lines, strict=True)]


def _root(chat: int, parents: dict[int, int]) -> int:
    """The first turn of the chain; a chain that goes in a circle ends where it closes."""
    seen: set[int] = set()
    while (before := parents.get(chat, ROOT)) != ROOT and chat not in seen:
        seen.add(chat)
        chat = before
    return chat
