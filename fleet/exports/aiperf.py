"""AIPerf's records, as in its ``profile_export.jsonl``: one request a line, its metadata, metrics and error.

Field names: ai-dynamo/aiperf, docs/tutorials/working-with-profile-exports.md at commit 13992dbd9687, and
`MetricRecordMetadata` in src/aiperf/common/models/record_models.py. Metrics have the names and units that its document
metrics-reference.md gives them.

The one thing to know: AIPerf's clock is Unix time, so an arrival is that of the trace plus the header's `offset_s`,
which is 0 where the recording had no dates. A request counts from its intended arrival.

Left out, because a run does not have it: ``inter_chunk_latency`` (each gap), acknowledgements and HTTP codes. Workers
and processors of records, which every record has to name, are called ``fleetlab``. A request without an answer when the
run ended has no record, for AIPerf has one when a request is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec
import pyarrow.compute as pc

from fleet.exports.report import UNFINISHED, Cells, ExportReport, cells_of, chunks, others
from fleet.telemetry.run import Run

NAME = "aiperf"
WRITER = "fleetlab"
NS_PER_S = 1_000_000_000
_TOLD = (
    "id", "arrived_s", "ended_s", "outcome", "detail", "session", "turn", "prompt_tokens", "generated_tokens",
    "ttft_s", "tpot_s", "e2e_s",
)  # fmt: skip
_NOT_RECORDED = ("inter_chunk_latency", "request_ack_ns")

JsonObject = dict[str, Any]  # Any: JSON values


def write(run: Run, file: BinaryIO) -> ExportReport:
    """One line for each request that is over."""
    over = run.records.filter(pc.is_valid(run.records["outcome"]))
    offset_s = run.manifest.trace.get("header", {}).get("offset_s", 0.0)
    encoder = msgspec.json.Encoder()
    for lines in chunks(_records(cells_of(over, *_TOLD), round(offset_s * NS_PER_S))):
        file.write(encoder.encode_lines(lines))
    unfinished = len(run.records) - len(over)
    return ExportReport(
        format=NAME,
        written=len(over),
        not_kept=(*others(run, _TOLD), *_NOT_RECORDED),
        left_out={UNFINISHED: unfinished} if unfinished else {},
    )


def _records(cells: Cells, offset_ns: int) -> Iterator[JsonObject]:
    numbers: dict[str, int] = {}
    for row in zip(*cells.values(), strict=True):
        one = dict(zip(cells, row, strict=True))
        session = one["id"] if one["session"] is None else one["session"]
        number = numbers.setdefault(session, len(numbers))
        yield {
            "metadata": _metadata(one, session, number, offset_ns),
            "metrics": _metrics(one),
            "error": _error(one),
        }


def _metadata(one: JsonObject, session: str, number: int, offset_ns: int) -> JsonObject:
    end_ns = offset_ns + round(one["ended_s"] * NS_PER_S)
    cancelled = one["outcome"] == "cancelled"
    return {
        "session_num": number,
        "x_request_id": one["id"],
        "x_correlation_id": session,
        "conversation_id": session,
        "turn_index": 0 if one["turn"] is None else one["turn"],
        "request_start_ns": offset_ns + round(one["arrived_s"] * NS_PER_S),
        "request_ack_ns": None,
        "request_end_ns": end_ns,
        "worker_id": WRITER,
        "record_processor_id": WRITER,
        "benchmark_phase": "profiling",
        "was_cancelled": cancelled,
        "cancellation_time_ns": end_ns if cancelled else None,
    }


def _metrics(one: JsonObject) -> JsonObject:
    """Those that the record has. TTFT and token counts are of what was served token by token."""
    if one["outcome"] != "completed":
        return _measured({"error_isl": (one["prompt_tokens"], "tokens")})
    streamed = one["generated_tokens"] is not None
    return _measured({
        "input_sequence_length": (one["prompt_tokens"], "tokens"),
        "output_sequence_length": (one["generated_tokens"], "tokens"),
        "time_to_first_token": (_ms(one["ttft_s"]) if streamed else None, "ms"),
        "inter_token_latency": (_ms(one["tpot_s"]), "ms"),
        "request_latency": (_ms(one["e2e_s"]), "ms"),
    })  # fmt: skip


def _measured(metrics: dict[str, tuple[float | None, str]]) -> JsonObject:
    return {
        name: {"value": value, "unit": unit} for name, (value, unit) in metrics.items() if value is not None
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _error(one: JsonObject) -> JsonObject | None:
    if one["outcome"] == "completed":
        return None
    return {"code": None, "type": one["outcome"], "message": one["detail"] or one["outcome"]}
