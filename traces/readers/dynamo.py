"""Dynamo's request traces: JSON lines of events, of which each ``request_end`` is a request.

The schemas are ``dynamo.request.trace.v1`` and the earlier ``dynamo.agent.trace.v1``; a file's line is the event, or
has it under ``event``. A request arrives at ``request_received_ms``, which older records lack: there it is when the
event was written less ``total_time_ms``. Hashes are of 64 bits without sign; those from 2^63 on are kept as the
negative number of the same bits. Lines of tools and payloads hold no request, and are counted.

A session is what the agent calls its trajectory (``trajectory_id``, ``program_id``; since 1.3 ``session_id``). The
trace does not say which call follows which, as an agent may make several at once: `Trace.sessions` links them.

Field names: lib/llm/src/request_trace/types.rs of ai-dynamo/dynamo, commit 0366e63a1746, and
docs/agents/agent-tracing.md, commit 01a60e696e5d.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import pyarrow as pa

from traces.published import header_of
from traces.readers.documents import Text, decode, fields, objects
from traces.readers.found import Found, rows_of, seconds
from traces.readers.json_rows import Int64, others
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header, Scalar
from traces.source import Source

NAME = "dynamo-request-trace"
TAKES: frozenset[str] = frozenset()
SCHEMAS = ("dynamo.request.trace.v1", "dynamo.agent.trace.v1")


class _Replay(msgspec.Struct):
    trace_block_size: Int64
    input_length: Int64
    input_sequence_hashes: list[int]


class _Metrics(msgspec.Struct):
    request_id: str
    model: str | None = None
    input_tokens: Int64 | None = None
    output_tokens: Int64 | None = None
    request_received_ms: Int64 | None = None
    prefill_wait_time_ms: float | None = None
    ttft_ms: float | None = None
    total_time_ms: float | None = None
    avg_itl_ms: float | None = None
    replay: _Replay | None = None


class _Agent(msgspec.Struct):
    trajectory_id: str | None = None
    program_id: str | None = None
    session_id: str | None = None

    def session(self) -> tuple[str, str | None]:
        """Which of the fields names the chain of calls, and its name."""
        said = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return next(((name, value) for name, value in said if value is not None), ("session_id", None))


class _Event(msgspec.Struct):
    schema: Literal["dynamo.request.trace.v1", "dynamo.agent.trace.v1"]
    event_type: str
    event_time_unix_ms: Int64
    agent_context: _Agent | None = None
    request: _Metrics | None = None

    def received_ms(self) -> float | None:
        """When it came, in Unix time; None where nothing says it."""
        if self.request is None or self.request.request_received_ms is not None:
            return None if self.request is None else self.request.request_received_ms
        took_ms = self.request.total_time_ms
        return None if took_ms is None else self.event_time_unix_ms - took_ms


def sniff(source: Source) -> bool:
    """By the name of the schema in one of the first lines, or in the event that it wraps."""
    return any(_event(line).get("schema") in SCHEMAS for line in source.json_lines)


def _event(line: dict[str, object]) -> dict[str, object]:
    event = line.get("event", line)
    return event if isinstance(event, dict) else line


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """Every request, with its prefix blocks of the size that its record says."""
    texts = [Text(text.number, bytes(fields(text.json).get("event", text.json))) for text in objects(source)]
    events = decode(texts, _Event, source.path)
    found = [
        _found(of, event, event.request, events.texts[of])
        for of, event in enumerate(events.values)
        if event.event_type == "request_end" and event.request is not None
    ]
    rows = rows_of(found, events.rows, _CALLED)
    kept = [events.values[request.of] for request in found]
    received_ms = pa.array([event.received_ms() for event in kept], pa.float64())
    rows.put_arrivals(received_ms, "ms", "request.request_received_ms", calendar=True)
    for event in events.values:
        if event.event_type != "request_end" or event.request is None:
            rows.without_request(f"event {event.event_type}")
    return rows, header_of(source, "Dynamo")


_CALLED = {
    "prompt_tokens": "request.input_tokens",
    "output_tokens": "request.output_tokens",
    "blocks": "request.replay.input_sequence_hashes",
    "observed_ttft_s": "request.ttft_ms",
    "observed_tpot_s": "request.avg_itl_ms",
    "observed_e2e_s": "request.total_time_ms",
    "observed_queue_s": "request.prefill_wait_time_ms",
}


def _found(of: int, event: _Event, request: _Metrics, text: bytes) -> Found:
    called, session = (event.agent_context or _Agent()).session()
    replay = request.replay
    length = request.input_tokens if replay is None else replay.input_length
    return Found(
        of=of,
        id=request.request_id,
        prompt_tokens=length,
        output_tokens=request.output_tokens,
        blocks=None if replay is None else [_signed(number) for number in replay.input_sequence_hashes],
        block_tokens=None if replay is None else replay.trace_block_size,
        session=session,
        model=request.model,
        observed_queue_s=seconds(request.prefill_wait_time_ms),
        observed_ttft_s=seconds(request.ttft_ms),
        observed_tpot_s=seconds(request.avg_itl_ms),
        observed_e2e_s=seconds(request.total_time_ms),
        others=_others(text, called),
    )


def _signed(number: int) -> int:
    """The 64 bits of a number without sign, as one with a sign."""
    return (number + 2**63) % 2**64 - 2**63


def _others(text: bytes, session: str) -> dict[str, Scalar]:
    event = others(fields(text), _Event.__struct_fields__)
    request = others(fields(text, "request"), _Metrics.__struct_fields__)
    return event | others(fields(text, "agent_context"), (session,)) | request
