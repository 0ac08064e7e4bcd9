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
from typing import Any

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


class _Metric(msgspec.Struct):
    value: Any  # a number, or a list of them
    unit: str | None = None


class _Line(msgspec.Struct):
    metadata: _Metadata
    metrics: dict[str, _Metric] = {}
    error: Any = None  # null, or an object

    def number(self, *names: str) -> float | None:
        """The first of these metrics that there is."""
        return next((self.metrics[name].value for name in names if name in self.metrics), None)

    def count(self, *names: str) -> int | None:
        """The same, of one that counts."""
        number = self.number(*names)
        return None if number is None else int(number)

    def seconds(self, name: str) -> float | None:
        """A duration. One in another unit than of time is None here, and its row bad."""
        metric = self.metrics.get(name)
        if metric is None or metric.unit not in _PER_S:
            return None
        return float(metric.value / _PER_S[metric.unit])


_PER_S = {"ns": PER_S["ns"], "us": PER_S["us"], "ms": PER_S["ms"], "sec": 1.0, "s": 1.0}
_DURATIONS = {
    "observed_ttft_s": "time_to_first_token",
    "observed_tpot_s": "inter_token_latency",
    "observed_e2e_s": "request_latency",
}
_LENGTHS = {
    "prompt_tokens": ("input_sequence_length", "error_isl"),
    "output_tokens": ("output_sequence_length", "output_token_count"),
}


def sniff(source: Source) -> bool:
    """By the keys of a line, and the time in its metadata."""
    return any(
        {"metadata", "metrics"} <= line.keys()
        and isinstance(line["metadata"], dict)
        and "request_start_ns" in line["metadata"]
        for line in source.json_lines
    )


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """Every record. A session is a user's session (``x_correlation_id``), in which each turn follows the one before."""
    records = decode(objects(source), _Line, source.path)
    lines = records.values
    before = _before(lines)
    found = [
        _found(of, line, before[of], text)
        for of, (line, text) in enumerate(zip(lines, records.texts, strict=True))
    ]
    rows = rows_of(found, records.rows, {column: f"metrics.{name}" for column, name in _DURATIONS.items()})
    for name in _DURATIONS.values():
        timeless = [name in line.metrics and line.seconds(name) is None for line in lines]
        rows.reject(
            timeless, f"metrics.{name}", "is in no unit of time", f"expected one of {', '.join(_PER_S)}"
        )
    sent_ns = pa.array([line.metadata.request_start_ns for line in lines], pa.int64())
    rows.put_arrivals(sent_ns, "ns", "metadata.request_start_ns", calendar=True)
    lists = Counter(name for line in lines for name, metric in line.metrics.items() if _is_list(metric))
    for name, count in lists.items():
        rows.leave_out(f"metrics.{name}", count)
    return rows, header_of(source, "AIPerf")


def _found(of: int, line: _Line, before: str | None, text: bytes) -> Found:
    told = line.metadata
    return Found(
        of=of,
        id=told.x_request_id,
        session=told.x_correlation_id,
        turn=told.turn_index,
        parent=before,
        prompt_tokens=line.count(*_LENGTHS["prompt_tokens"]),
        output_tokens=line.count(*_LENGTHS["output_tokens"]),
        observed_ttft_s=line.seconds(_DURATIONS["observed_ttft_s"]),
        observed_tpot_s=line.seconds(_DURATIONS["observed_tpot_s"]),
        observed_e2e_s=line.seconds(_DURATIONS["observed_e2e_s"]),
        observed_failed=told.was_cancelled or line.error is not None,
        others=_others(line, text),
    )


def _others(line: _Line, text: bytes) -> dict[str, Scalar]:
    known = (*_DURATIONS.values(), *(name for names in _LENGTHS.values() for name in names))
    metrics: dict[str, Scalar] = {
        f"{name} ({metric.unit})": metric.value
        for name, metric in line.metrics.items()
        if name not in known and not _is_list(metric)
    }
    metadata = others(fields(text, "metadata"), _Metadata.__struct_fields__)
    return others(fields(text), ("metadata", "metrics")) | metadata | metrics


def _is_list(metric: _Metric) -> bool:
    return isinstance(metric.value, list)


def _before(lines: list[_Line]) -> list[str | None]:
    """For each request the id of the turn before it in its session."""
    told = [line.metadata for line in lines]
    ids = {(one.x_correlation_id or "", one.turn_index): one.x_request_id for one in told}
    turns = [(one.x_correlation_id or "", one.turn_index or 0) for one in told]
    return [ids.get((session, turn - 1)) if session and turn else None for session, turn in turns]
