"""AIPerf's records (``profile_export.jsonl``): a run measured from its client, one request a line.

A line has ``metadata`` (times in ns since 1970, ids, the turn), ``metrics`` (each a value and its unit, which is
read) and ``error``. A request arrives when it was sent, ``request_start_ns``; when it should have been,
``credit_issued_ns``, is in `extra`, as are the further metrics under their names and units. Metrics that are lists
are counted.

Field names: docs/tutorials/working-with-profile-exports.md of ai-dynamo/aiperf, commit 13992dbd9687; units:
`MetricTimeUnit` in src/aiperf/common/enums (ns, us, ms, and sec or s for seconds).
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

import msgspec
import pyarrow as pa

from traces.published import header_of
from traces.readers.documents import decode, fields, objects
from traces.readers.found import Found, rows_of
from traces.readers.json_rows import Int64, others
from traces.readers.options import PER_S, ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header, Scalar
from traces.source import Source

NAME = "aiperf-records"
TAKES: frozenset[str] = frozenset()


class _Metadata(msgspec.Struct):
    request_start_ns: Int64
    x_request_id: str | None = None
    x_correlation_id: str | None = None
    turn_index: Int64 | None = None
    was_cancelled: bool = False


class _Length(msgspec.Struct):
    value: Annotated[float, msgspec.Meta(ge=0, le=2**53)]


class _Duration(msgspec.Struct):
    value: float
    unit: Literal["ns", "us", "ms", "sec", "s"]

    def seconds(self) -> float:
        """In seconds."""
        return self.value / _PER_S[self.unit]


_PER_S = {"ns": PER_S["ns"], "us": PER_S["us"], "ms": PER_S["ms"], "sec": 1.0, "s": 1.0}


class _Metrics(msgspec.Struct):
    input_sequence_length: _Length | None = None
    error_isl: _Length | None = None
    output_sequence_length: _Length | None = None
    output_token_count: _Length | None = None
    time_to_first_token: _Duration | None = None
    inter_token_latency: _Duration | None = None
    request_latency: _Duration | None = None


class _Line(msgspec.Struct):
    metadata: _Metadata
    metrics: _Metrics = msgspec.field(default_factory=_Metrics)
    error: Any = None  # null, or an object


def sniff(source: Source) -> bool:
    """By the keys of a line, and the time in its metadata."""
    return any(
        {"metadata", "metrics"} <= line.keys()
        and isinstance(line["metadata"], dict)
        and "request_start_ns" in line["metadata"]
        for line in source.json_lines
    )


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """Every record. A user's session (``x_correlation_id``) is one where it has several turns, each after the other."""
    records = decode(objects(source), _Line, source.path)
    lines = records.values
    before = _before(lines)
    turns = Counter(line.metadata.x_correlation_id for line in lines)
    found = [_found(of, line, before[of], records.texts[of]) for of, line in enumerate(lines)]
    for request in found:
        if turns[request.session] < 2:
            request.session = request.turn = None
    rows = rows_of(found, records.rows, _CALLED)
    sent_ns = pa.array([line.metadata.request_start_ns for line in lines], pa.int64())
    rows.put_arrivals(sent_ns, "ns", "metadata.request_start_ns", calendar=True)
    lists = Counter(name for text in records.texts for name, raw in _further(text) if _is_list(raw))
    for name, count in lists.items():
        rows.leave_out(f"metrics.{name}", count)
    return rows, header_of(source, "AIPerf")


_CALLED = {
    "observed_ttft_s": "metrics.time_to_first_token",
    "observed_tpot_s": "metrics.inter_token_latency",
    "observed_e2e_s": "metrics.request_latency",
}


def _found(of: int, line: _Line, before: str | None, text: bytes) -> Found:
    told, measured = line.metadata, line.metrics
    return Found(
        of=of,
        id=told.x_request_id,
        session=told.x_correlation_id,
        turn=told.turn_index,
        parent=before,
        prompt_tokens=_count(measured.input_sequence_length or measured.error_isl),
        output_tokens=_count(measured.output_sequence_length or measured.output_token_count),
        observed_ttft_s=_seconds(measured.time_to_first_token),
        observed_tpot_s=_seconds(measured.inter_token_latency),
        observed_e2e_s=_seconds(measured.request_latency),
        observed_failed=told.was_cancelled or line.error is not None,
        others=_others(text),
    )


def _count(length: _Length | None) -> int | None:
    return None if length is None else int(length.value)


def _seconds(duration: _Duration | None) -> float | None:
    return None if duration is None else duration.seconds()


def _others(text: bytes) -> dict[str, Scalar]:
    metrics: dict[str, Scalar] = {}
    for name, raw in _further(text):
        if not _is_list(raw):
            metric = others(fields(raw), ())
            metrics[f"{name} ({metric.get('unit')})"] = metric.get("value")
    metadata = others(fields(text, "metadata"), _Metadata.__struct_fields__)
    return others(fields(text), ("metadata", "metrics")) | metadata | metrics


def _further(text: bytes) -> list[tuple[str, msgspec.Raw]]:
    """The metrics that no column has."""
    metrics = fields(text, "metrics")
    return [(name, raw) for name, raw in metrics.items() if name not in _Metrics.__struct_fields__]


def _is_list(metric: msgspec.Raw) -> bool:
    return bytes(fields(metric).get("value", b"")).startswith(b"[")


def _before(lines: list[_Line]) -> list[str | None]:
    """For each request the id of the turn before it in its session."""
    told = [line.metadata for line in lines]
    ids = {(one.x_correlation_id or "", one.turn_index): one.x_request_id for one in told}
    turns = [(one.x_correlation_id or "", one.turn_index or 0) for one in told]
    return [ids.get((session, turn - 1)) if session and turn else None for session, turn in turns]
