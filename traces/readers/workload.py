"""Workloads of LLMServingSim: JSON lines, arrival in ns, each line one request or one agent's session, mixed at will.

A session's calls follow each other: the next one is sent `tool_duration_ns` after the answer to the last.
They become `turn`, `parent` and `think_s`; their `arrived_s` is the earliest possible, as if every answer
were instant.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import msgspec
import pyarrow as pa

from traces.columns import COLUMNS
from traces.published import header_of
from traces.readers.blocks import put_blocks
from traces.readers.json_rows import Int64, columns_of, decode_lines, nested, others
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header, Scalar
from traces.source import Source

NAME = "llmservingsim-workload"
TAKES = frozenset({"block_tokens"})
BLOCK_TOKENS = 16
"""The published files hash blocks of 16 tokens, full ones only."""


class _Prompt(msgspec.Struct, kw_only=True):
    input_toks: Int64 | None = None
    hash_ids: list[Int64] | None = None
    input_tok_ids: list[Int64] | None = None


class _Call(_Prompt, kw_only=True):
    input_toks: Int64 = msgspec.field()
    output_toks: Int64
    tool_duration_ns: Int64 | None = None


class _Line(_Prompt, kw_only=True):
    arrival_time_ns: Int64
    output_toks: Int64 | None = None
    session_id: str | None = None
    sub_requests: list[_Call] | None = None


class _Row(NamedTuple):
    arrived_ns: int
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
    others: dict[str, Scalar] = {}


def sniff(source: Source) -> bool:
    """By the keys of the first line."""
    return source.has_keys("arrival_time_ns") and (
        source.has_keys("input_toks", "output_toks") or source.has_keys("sub_requests")
    )


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """All fields but token ids. A request's id is its line's number from 0, a call's ``<session>/<turn>``.

    Prompts given as token ids, without hashes, have their full blocks numbered: those that begin alike share numbers.
    A session's own further fields are on each of its calls. One without any call is counted, and holds no request.
    """
    lines, decoded = decode_lines(source, _Line)
    _number_blocks(lines, options.block_tokens or BLOCK_TOKENS)
    fields, with_ids = _further(source, decoded)
    table = [row for index, line in enumerate(lines) for row in _rows(index, line, fields[index])]
    rows = decoded.expanded([row.line for row in table])
    for line in lines:
        if line.sub_requests is not None and not line.sub_requests:
            rows.without_request("sub_requests is empty")
    rows.put_arrivals(pa.array([row.arrived_ns for row in table], pa.int64()), "ns", "arrival_time_ns")
    for name in _Row._fields[1:-3]:
        rows.put(
            name, pa.array([getattr(row, name) for row in table], COLUMNS[name].type), _COLUMN.get(name, name)
        )
    for name in ("input_toks", "output_toks"):
        missing = [getattr(lines[row.line], name) is None and row.turn is None for row in table]
        rows.reject(missing, name, "is missing", "expected a count of tokens such as 128")
    put_blocks(rows, [row.blocks for row in table], usual=BLOCK_TOKENS, partial=False)
    for name in _TOKEN_IDS:
        rows.leave_out(name, with_ids[name])
    rows.put_others(columns_of([row.others for row in table]))
    return rows, header_of(source, "LLMServingSim")


_COLUMN = {
    "prompt_tokens": "input_toks",
    "output_tokens": "output_toks",
    "think_s": "tool_duration_ns",
}


_TOKEN_IDS = ("input_tok_ids", "output_tok_ids")
"""Fields that no column holds; hashes are made of the first where there are none."""
_KNOWN = {*_Line.__struct_fields__, *_Call.__struct_fields__, *_TOKEN_IDS}


def _further(source: Source, rows: Rows) -> tuple[list[list[dict[str, Scalar]]], Counter[str]]:
    """Of each line's requests, the fields that `_Line` and `_Call` do not have; and how many have token ids."""
    text = source.data.split(b"\n")
    found: list[list[dict[str, Scalar]]] = []
    with_ids: Counter[str] = Counter()
    for number in rows.lines.tolist():
        line = msgspec.json.decode(text[number - 1], type=dict[str, msgspec.Raw])
        calls = line.get("sub_requests")
        requests = [line] if calls is None or bytes(calls) == b"null" else nested(calls)
        found.append([others(line, _KNOWN) | others(request, _KNOWN) for request in requests])
        with_ids.update(name for request in requests for name in _TOKEN_IDS if name in request)
    return found, with_ids


def _number_blocks(lines: list[_Line], block_tokens: int) -> None:
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
        for end in range(block_tokens, length + 1, block_tokens):
            key = (before, *tokens[end - block_tokens : end])  # a block is what it holds and all before it
            before = numbers.setdefault(key, first + len(numbers))
            prompt.hash_ids.append(before)


def _rows(index: int, line: _Line, further: list[dict[str, Scalar]]) -> list[_Row]:
    if line.sub_requests is None:
        single = _Row(line.arrival_time_ns, str(index), line.input_toks, line.output_toks, line.session_id)
        return [single._replace(blocks=line.hash_ids, line=index, others=further[0])]
    session = line.session_id or str(index)
    rows: list[_Row] = []
    earliest_ns: int = line.arrival_time_ns
    think_ns: int | None = None
    for turn, call in enumerate(line.sub_requests):
        think_s = None if think_ns is None else think_ns / 1e9
        parent = rows[-1].id if rows else None
        name = f"{session}/{turn}"
        row = _Row(earliest_ns, name, call.input_toks, call.output_toks, session, turn, parent, think_s)
        rows.append(row._replace(blocks=call.hash_ids, line=index, others=further[turn]))
        think_ns = call.tool_duration_ns
        earliest_ns += think_ns or 0
    return rows
