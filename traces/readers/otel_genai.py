"""OpenTelemetry spans of generative models, as OTLP writes them in JSON: each span of a call is a request.

The file is one object with ``resourceSpans``, one such object a line (the file exporter), or one span a line. A span
is a call where ``gen_ai.operation.name`` is one of `OPERATIONS`, or where it has none and counts tokens. Spans of
agents, tools and anything else hold no request, and are counted: an agent's span repeats the tokens of its calls.

A request arrives when its span starts. Its session is ``gen_ai.conversation.id``, else the trace where that has
several calls. The parent of a span is the span around it and no earlier request: it is in `extra`. `Trace.sessions`
links turns.

Sources: docs/gen-ai/gen-ai-spans.md of open-telemetry/semantic-conventions-genai, commit 002c8a6ea1c8 (before 1.27
tokens were ``gen_ai.usage.prompt_tokens`` and ``completion_tokens``); examples/trace.json of
open-telemetry/opentelemetry-proto, commit ca6170ef02a5, and its JSON encoding, in which numbers of 64 bits are texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import pyarrow as pa

from traces.published import header_of
from traces.readers.documents import Text, decode, elements, fields, has_keys, objects
from traces.readers.found import Found, rows_of
from traces.readers.json_rows import Int64, others
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header, Scalar
from traces.source import Source

NAME = "otel-genai"
TAKES: frozenset[str] = frozenset()
OPERATIONS = ("chat", "text_completion", "generate_content", "embeddings")
_TEXTS = (
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
)
"""What was said: counted, not kept."""
_LISTS = ("events", "links")
"""Of a span, which may hold what was said too."""
_INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
_OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
_MODEL, _CONVERSATION = "gen_ai.request.model", "gen_ai.conversation.id"
_OPERATION = "gen_ai.operation.name"
_FAILED = (2, "STATUS_CODE_ERROR")
_WHOLE = re.compile(r"[+-]?\d{1,18}")


_Nanoseconds = Int64 | Annotated[str, msgspec.Meta(pattern=r"^[0-8]?\d{1,18}$")]
"""A number of 64 bits, which OTLP writes as text."""


class _Attribute(msgspec.Struct):
    key: str
    value: dict[str, Any] = {}  # one field, named by its type

    def scalar(self) -> Scalar:
        """Its value; a list or an object is the JSON text that it is."""
        kind, value = next(iter(self.value.items()), ("", None))
        if kind == "intValue" and isinstance(value, str) and _WHOLE.fullmatch(value):
            return int(value)
        return value if isinstance(value, Scalar) else msgspec.json.encode(value).decode()


class _Status(msgspec.Struct):
    code: int | str | None = None
    message: str | None = None


class _Span(msgspec.Struct):
    traceId: str  # noqa: N815  (as OTLP spells them)
    spanId: str  # noqa: N815
    startTimeUnixNano: _Nanoseconds  # noqa: N815
    endTimeUnixNano: _Nanoseconds | None = None  # noqa: N815
    parentSpanId: str | None = None  # noqa: N815
    name: str | None = None
    attributes: list[_Attribute] = []
    status: _Status | None = None

    def said(self) -> dict[str, Scalar]:
        """Its attributes by name."""
        return {attribute.key: attribute.scalar() for attribute in self.attributes}


class _Call(NamedTuple):
    """A span that is a request."""

    of: int
    span: _Span
    said: dict[str, Scalar]
    text: bytes


def sniff(source: Source) -> bool:
    """By what OTLP calls its spans, or by the keys of a span."""
    return has_keys(source, "resourceSpans") or source.has_keys("traceId", "spanId", "startTimeUnixNano")


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """Every call of a model."""
    spans = decode(_spans(source), _Span, source.path)
    calls = [
        _Call(of, span, said, spans.texts[of])
        for of, span in enumerate(spans.values)
        if _is_call(said := span.said())
    ]
    shared = Counter(call.span.traceId for call in calls)
    rows = rows_of([_found(call, shared) for call in calls], spans.rows, _CALLED)
    _reject_unread(rows, calls)
    start_ns = pa.array([int(call.span.startTimeUnixNano) for call in calls], pa.int64())
    rows.put_arrivals(start_ns, "ns", "startTimeUnixNano", calendar=True)
    for said in (span.said() for span in spans.values):
        if not _is_call(said):
            rows.without_request(f"span of {said.get(_OPERATION) or 'no call of a model'}")
    for name in _TEXTS:
        rows.leave_out(name, sum(name in call.said for call in calls))
    for name in _LISTS:
        rows.leave_out(name, sum(bool(elements(fields(call.text).get(name, b""))) for call in calls))
    resources = [
        one for text in objects(source) for one in elements(fields(text.json).get("resourceSpans", b""))
    ]
    rows.leave_out("resources", len(resources))
    return rows, header_of(source, "OpenTelemetry")


_CALLED = {"prompt_tokens": _INPUT[0], "output_tokens": _OUTPUT[0], "observed_e2e_s": "endTimeUnixNano"}


def _spans(source: Source) -> Iterator[Text]:
    """The spans of the file, each numbered as its line, or as its place where the file is one document."""
    texts = objects(source)
    for text in texts:
        inner = fields(text.json)
        if "resourceSpans" not in inner:
            yield text
            continue
        spans = (
            span
            for resource in elements(inner["resourceSpans"])
            for scope in elements(fields(resource).get("scopeSpans", b""))
            for span in elements(fields(scope).get("spans", b""))
        )
        for place, span in enumerate(spans, start=1):
            yield Text(place if len(texts) == 1 else text.number, bytes(span))


def _is_call(said: dict[str, Scalar]) -> bool:
    operation = said.get(_OPERATION)
    counts = any(name in said for name in (*_INPUT, *_OUTPUT))
    return counts if operation is None else operation in OPERATIONS


def _found(call: _Call, shared: Counter[str]) -> Found:
    span, said = call.span, call.said
    trace = span.traceId if shared[span.traceId] > 1 else None
    status = span.status or _Status()
    started_ns, ended_ns = int(span.startTimeUnixNano), span.endTimeUnixNano
    return Found(
        of=call.of,
        id=span.spanId,
        prompt_tokens=_count(said, _INPUT),
        output_tokens=_count(said, _OUTPUT),
        session=_text(said, _CONVERSATION) or trace,
        model=_text(said, _MODEL),
        observed_ttft_s=_number(said, _FIRST_CHUNK),
        observed_e2e_s=None if not ended_ns else (int(ended_ns) - started_ns) / 1e9,
        observed_failed="error.type" in said or status.code in _FAILED,
        others=_others(call, status),
    )


def _others(call: _Call, status: _Status) -> dict[str, Scalar]:
    kept = (*_TEXTS, *_INPUT, *_OUTPUT, _FIRST_CHUNK, _MODEL, _CONVERSATION)
    attributes = {name: value for name, value in call.said.items() if name not in kept}
    spelt = {
        "traceId": call.span.traceId,
        "parentSpanId": call.span.parentSpanId or None,
        "name": call.span.name,
    }
    rest = others(fields(call.text), (*_Span.__struct_fields__, *_LISTS))
    return rest | spelt | attributes | {"status.message": status.message or None}


def _number(said: dict[str, Scalar], name: str) -> float | None:
    value = said.get(name)
    return float(value) if isinstance(value, int | float) else None


def _count(said: dict[str, Scalar], names: Sequence[str]) -> int | None:
    number = next((_number(said, name) for name in names if name in said), None)
    return None if number is None or not _is_count(number) else int(number)


def _is_count(number: float | None) -> bool:
    return number is not None and number.is_integer() and 0 <= number < 2**53


def _text(said: dict[str, Scalar], name: str) -> str | None:
    value = said.get(name)
    return None if value is None else str(value)


def _reject_unread(rows: Rows, calls: list[_Call]) -> None:
    """Mark the calls of which something that counts tokens, or is a duration, is none."""
    for name in (*_INPUT, *_OUTPUT):
        wrong = [name in call.said and not _is_count(_number(call.said, name)) for call in calls]
        rows.reject(wrong, name, "is not a count of tokens", "expected a whole number such as 128")
    wrong = [_FIRST_CHUNK in call.said and _number(call.said, _FIRST_CHUNK) is None for call in calls]
    rows.reject(wrong, _FIRST_CHUNK, "is not a number", "expected seconds such as 0.5")
