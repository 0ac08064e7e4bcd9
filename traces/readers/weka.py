"""Agents' sessions as WEKA's KV-cache tester records them: one JSON object a session, alone in a file or one a line.

A session has ``requests`` in order: calls (``type`` ``n``, or ``s`` if streamed) and subagents, each with calls of
its own. The calls of an agent follow each other: they become a session with `turn`, `parent` and `think_s`, which is
from the end of the call before (``t`` + ``api_time``) to the start of the next. A subagent's first call follows the
call of the session that came before it. What the session waited for a subagent is in its own `think_s`: a request has
one parent.

Times are from the start of each session. A file with several does not say when each began: that is drawn by the law
that the caller names. With ``hash_id_scope`` ``local`` a hash means something within its session only, and is
numbered anew.

Field names: src/aiperf/dataset/loader/weka_trace_models.py of ai-dynamo/aiperf, commit 90f31d18c57a, which has them
from docs/trace_replay_tester.md of WEKA's kv-cache-tester; that older files have the times of a subagent's calls from
its own start is from weka_trace.py, commit 0cea22b0afbe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from traces.published import header_of
from traces.readers import arrivals
from traces.readers.documents import decode, elements, fields, has_keys, objects
from traces.readers.found import Found, rows_of
from traces.readers.json_rows import Int64, others
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "weka-sessions"
TAKES = frozenset({"arrivals"})


class _Entry(msgspec.Struct, kw_only=True):
    """A call of the model; or, with `requests`, a subagent."""

    t: float
    model: str | None = None
    prompt_tokens: Int64 | None = msgspec.field(name="in", default=None)
    output_tokens: Int64 | None = msgspec.field(name="out", default=None)
    hash_ids: list[Int64] | None = None
    api_time: float | None = None
    ttft: float | None = None
    agent_id: str | None = None
    requests: list[_Entry] | None = None


class _Session(msgspec.Struct):
    id: str
    block_size: Int64
    requests: list[_Entry]
    hash_id_scope: str = "local"


class _Call(NamedTuple):
    """A call, its text, its agent's name, its place, when it came, and what it follows."""

    entry: _Entry
    text: msgspec.Raw
    agent: str
    turn: int
    at_s: float
    parent: tuple[str, float] | None
    """Id, and end."""
    relative: bool
    """Whether its time was taken as from the start of the subagent."""


def sniff(source: Source) -> bool:
    """By the keys of a session, with a block size and the scope of its hashes."""
    return has_keys(source, "id", "requests", "block_size", "hash_id_scope")


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """Every call of every session; totals of sessions and subagents are counted.

    Raises:
        TraceError: There are several sessions, and no law says when they begin.
    """
    sessions = decode(objects(source), _Session, source.path)
    called = [
        [*_calls(session.id, session.requests, text)]
        for session, text in zip(sessions.values, sessions.texts, strict=True)
    ]
    numbers: dict[tuple[int, int], int] = {}
    found = [
        _found(of, session, call, numbers)
        for of, (session, calls) in enumerate(zip(sessions.values, called, strict=True))
        for call in calls
    ]
    rows = rows_of(found, sessions.rows, _CALLED)
    header = _put_arrivals(source, rows, called, options)
    rows.remark(pa.array([call.relative for calls in called for call in calls], pa.bool_()), _RELATIVE)
    for calls in called:
        if not calls:
            rows.without_request("session without a call")
    for name, count in Counter(
        name for text in sessions.texts for name in _not_kept(text, "session")
    ).items():
        rows.leave_out(name, count)
    return rows, header


_RELATIVE = "subagent's call before its subagent: time taken from the subagent's start"
_CALLED = {
    "prompt_tokens": "in",
    "output_tokens": "out",
    "blocks": "hash_ids",
    "observed_ttft_s": "ttft",
    "observed_e2e_s": "api_time",
}


def _put_arrivals(source: Source, rows: Rows, called: list[list[_Call]], options: ReadOptions) -> Header:
    header = header_of(source, "WEKA's KV-cache tester")
    offsets_s = np.array([call.at_s for calls in called for call in calls])
    if len(called) < 2 and options.arrivals is None:
        rows.put_arrivals(offsets_s, "s", "t")
        return header
    begins_s, step = arrivals.drawn(len(called), options, source.path, what="sessions")
    firsts_s = [min((call.at_s for call in calls), default=0.0) for calls in called]
    rows.put_arrivals(np.repeat(begins_s - firsts_s, [len(calls) for calls in called]) + offsets_s, "s", "t")
    return arrivals.derived(header, step)


def _calls(
    agent: str,
    entries: list[_Entry],
    text: bytes | msgspec.Raw,
    parent: tuple[str, float] | None = None,
    begins_s: float | None = None,
) -> Iterator[_Call]:
    """The calls of an agent in order, those of each subagent after the call that they follow."""
    turn, subagents = 0, 0
    for entry, inner in zip(entries, elements(fields(text)["requests"]), strict=True):
        if entry.requests is not None:
            name = f"{agent}/{subagents}:{entry.agent_id or 'subagent'}"
            yield from _calls(name, entry.requests, inner, parent, entry.t)
            subagents += 1
            continue
        relative = begins_s is not None and entry.t < begins_s
        at_s = entry.t + (begins_s or 0.0) if relative else entry.t
        yield _Call(entry, inner, agent, turn, at_s, parent, relative)
        parent, turn = (f"{agent}/{turn}", at_s + (entry.api_time or 0.0)), turn + 1


def _not_kept(text: bytes | msgspec.Raw, of: str) -> Iterator[str]:
    """What a session and its subagents say of themselves as a whole."""
    said = fields(text)
    known = (*_Session.__struct_encode_fields__, *_Entry.__struct_encode_fields__)
    yield from (f"{name} (of a {of})" for name in said if name not in known)
    for inner in elements(said["requests"]):
        if "requests" in fields(inner):
            yield from _not_kept(inner, "subagent")


def _found(of: int, session: _Session, call: _Call, numbers: dict[tuple[int, int], int]) -> Found:
    entry, blocks = call.entry, call.entry.hash_ids
    if blocks is not None and session.hash_id_scope == "local":
        blocks = [numbers.setdefault((of, block), len(numbers)) for block in blocks]
    return Found(
        of=of,
        id=f"{call.agent}/{call.turn}",
        prompt_tokens=entry.prompt_tokens,
        output_tokens=entry.output_tokens,
        blocks=blocks or None,
        block_tokens=session.block_size if blocks else None,
        session=call.agent,
        turn=call.turn,
        parent=None if call.parent is None else call.parent[0],
        think_s=None if call.parent is None else max(call.at_s - call.parent[1], 0.0),
        model=entry.model,
        observed_ttft_s=entry.ttft,
        observed_e2e_s=entry.api_time,
        others=others(fields(call.text), _Entry.__struct_encode_fields__),
    )
