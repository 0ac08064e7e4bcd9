"""Bailian usage traces (Qwen): JSON lines with arrival in s, lengths, turns, and the hashes of 16-token prefix blocks.

A turn names the one before it, so a session is the chain of turns from one root; its id is the root's. Published as
alibaba-edu/qwen-bailian-usagetraces-anon.
"""

from __future__ import annotations

import msgspec
import pyarrow as pa

from traces.readers.json_rows import Int64, decode_lines
from traces.readers.mooncake import put_blocks
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "bailian"
BLOCK_TOKENS = 16
ROOT = -1
"""The parent of a turn that begins a session."""


class _Line(msgspec.Struct):
    chat_id: Int64
    timestamp: float
    input_length: Int64
    output_length: Int64
    parent_chat_id: Int64 = ROOT
    turn: Int64 = 1
    type: str | None = None
    hash_ids: list[Int64] | None = None


def sniff(source: Source) -> bool:
    """By the keys of the first line."""
    return source.has_keys("chat_id", "timestamp", "input_length", "output_length")


def read(source: Source) -> tuple[Rows, Header]:
    """All fields. `turn` counts from 0 here and from 1 in the file; its ``type`` goes to `extra`."""
    lines, rows = decode_lines(source, msgspec.json.Decoder(_Line).decode)
    parents = {line.chat_id: line.parent_chat_id for line in lines}
    rows.put("arrived_s", pa.array([line.timestamp for line in lines], pa.float64()), "timestamp")
    rows.put("id", pa.array([str(line.chat_id) for line in lines], pa.string()), "chat_id")
    rows.put("prompt_tokens", pa.array([line.input_length for line in lines], pa.int64()), "input_length")
    rows.put("output_tokens", pa.array([line.output_length for line in lines], pa.int64()), "output_length")
    rows.put("session", pa.array([str(_root(line.chat_id, parents)) for line in lines], pa.string()))
    rows.put("turn", pa.array([line.turn - 1 for line in lines], pa.int64()), "turn")
    before = [None if line.parent_chat_id == ROOT else str(line.parent_chat_id) for line in lines]
    rows.put("parent", pa.array(before, pa.string()), "parent_chat_id")
    kinds = [
        None if line.type is None else msgspec.json.encode({"type": line.type}).decode() for line in lines
    ]
    rows.put("extra", pa.array(kinds, pa.string()), "type")
    put_blocks(rows, [line.hash_ids for line in lines], BLOCK_TOKENS)
    citation = "Wang et al., KVCache Cache in the Wild, USENIX ATC 2025"
    return rows, Header(source=f"Bailian usage trace, {source.path.name}", citation=citation)


def _root(chat: int, parents: dict[int, int]) -> int:
    """The first turn of the chain; a chain that goes in a circle ends where it closes."""
    seen: set[int] = set()
    while (before := parents.get(chat, ROOT)) != ROOT and chat not in seen:
        seen.add(chat)
        chat = before
    return chat
