"""Workloads of LLMServingSim: JSON lines, arrival in ns, each line one request or one agent's session, mixed at will.

A session's calls follow each other: the next one is sent `tool_duration_ns` after the answer to the last.
They become `turn`, `parent` and `think_s`; their `arrived_s` is the earliest possible, as if every answer
were instant.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import pyarrow as pa

from traces.columns import COLUMNS
from traces.readers.json_rows import Int64, decode_lines
from traces.readers.measured_run import CITATION
from traces.readers.mooncake import put_blocks
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "llmservingsim-workload"
BLOCK_TOKENS = 16
"""The published files hash blocks of 16 tokens, full ones only."""


class _Prompt(msgspec.Struct, kw_only=True):
    input_toks: Int64 | None = None
    hash_ids: list[Int64] | None = None
    input_tok_ids: list[Int64] | None = None


class _Call(_Prompt, kw_only=True):
    input_toks: Int64 = msgspec.field()
    output_toks: Int64
    tool_duration_ns: Int64 = 0


class _Line(_Prompt, kw_only=True):
    arrival_time_ns: Int64
    output_toks: Int64 | None = None
    session_id: str | None = None
    sub_requests: list[_Call] | None = None


class _Row(NamedTuple):
    arrived_s: float
    id: str
    prompt_tokens: int | None
    output_tokens: Int64 | None
    session: str | None = None
    turn: int | None = None
    parent: str | None = None
    think_s: float | None = None
    blocks: list[int] | None = None
    line: int = 0
    """Index of the line that it came from."""


def sniff(source: Source) -> bool:
    """By the keys of the first line."""
    return source.has_keys("arrival_time_ns") and (
        source.has_keys("input_toks", "output_toks") or source.has_keys("sub_requests")
    )


def read(source: Source) -> tuple[Rows, Header]:
    """All fields. A request's id is its line's number from 0, a call's ``<session>/<turn>``.

    Prompts given as token ids, without hashes, have their full blocks numbered: those that begin alike share numbers.
    """
    lines, decoded = decode_lines(source, msgspec.json.Decoder(_Line).decode)
    _number_blocks(lines)
    table = [row for index, line in enumerate(lines) for row in _rows(index, line)]
    rows = decoded.expanded([row.line for row in table])
    for name in _Row._fields[:-2]:
        rows.put(
            name, pa.array([getattr(row, name) for row in table], COLUMNS[name].type), _COLUMN.get(name, name)
        )
    for name in ("input_toks", "output_toks"):
        missing = [getattr(lines[row.line], name) is None and row.turn is None for row in table]
        rows.reject(missing, name, "is missing", "expected a count of tokens such as 128")
    put_blocks(rows, [row.blocks for row in table], BLOCK_TOKENS)
    return rows, Header(
        source=f"LLMServingSim workload, {source.path.name}", licence="MIT", citation=CITATION
    )


_COLUMN = {
    "arrived_s": "arrival_time_ns",
    "prompt_tokens": "input_toks",
    "output_tokens": "output_toks",
    "think_s": "tool_duration_ns",
}


def _number_blocks(lines: list[_Line]) -> None:
    """Give hashes to the prompts that have token ids only, in numbers that the file does not use."""
    prompts: list[_Prompt] = [prompt for line in lines for prompt in (line, *(line.sub_requests or ()))]
    used = [block for prompt in prompts for block in prompt.hash_ids or ()]
    first = max(used, default=-1) + 1
    numbers: dict[tuple[int, ...], int] = {}
    for prompt in prompts:
        tokens = prompt.input_tok_ids
        if prompt.hash_ids is not None or tokens is None:
            continue
        before, prompt.hash_ids = -1, []
        length = len(tokens) if prompt.input_toks is None else min(len(tokens), prompt.input_toks)
        for end in range(BLOCK_TOKENS, length + 1, BLOCK_TOKENS):
            key = (before, *tokens[end - BLOCK_TOKENS : end])  # a block is what it holds and all before it
            before = numbers.setdefault(key, first + len(numbers))
            prompt.hash_ids.append(before)


def _rows(index: int, line: _Line) -> list[_Row]:
    if line.sub_requests is None:
        single = _Row(line.arrival_time_ns / 1e9, str(index), line.input_toks, line.output_toks)
        return [single._replace(blocks=line.hash_ids, line=index)]
    session = line.session_id or str(index)
    rows: list[_Row] = []
    earliest_ns: int = line.arrival_time_ns
    think_ns: int | None = None
    for turn, call in enumerate(line.sub_requests):
        think_s = None if think_ns is None else think_ns / 1e9
        parent = rows[-1].id if rows else None
        name = f"{session}/{turn}"
        row = _Row(earliest_ns / 1e9, name, call.input_toks, call.output_toks, session, turn, parent, think_s)
        rows.append(row._replace(blocks=call.hash_ids, line=index))
        think_ns = call.tool_duration_ns
        earliest_ns += think_ns
    return rows
