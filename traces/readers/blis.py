"""TraceV2 of BLIS inference-sim: the CSV file of its pair, in µs. Its other file, a header in YAML, is not read.

A request arrives when it was sent (``send_time_us``; ``arrival_time_us``, in `extra`, is when it was due), and
durations count from there, as in that project's own replay. Its prompt is what the server counted; in a group, or where
that is not known, the group's prefix and its own tokens. A 0 stands for what was not recorded. ``vllm_priority`` is
more urgent the smaller it is, and is turned round.

The one thing to know: only the header says whether later rounds of a session hold the whole context or what is new in
it (``session_context_growth``). They are read as they stand, and counted as odd.

Source: sim/workload/tracev2.go (commit 0045b72691ec) and replay.go of inference-sim/inference-sim.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from traces.published import header_of
from traces.readers.csv_rows import CsvRows
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "blis-trace-v2"
TAKES: frozenset[str] = frozenset()
_READ = (
    "request_id", "client_id", "tenant_id", "session_id", "round_index", "prefix_length", "input_tokens",
    "output_tokens", "server_input_tokens", "model", "deadline_us", "send_time_us", "first_chunk_time_us",
    "last_chunk_time_us", "status",
)  # fmt: skip
_SOMETIMES = ("vllm_priority", "slo_target_us", "adapter")
A_TIME = "expected whole µs, or 0 for none"


def sniff(source: Source) -> bool:
    """By the columns of its times."""
    return source.has_columns(
        "request_id", "round_index", "arrival_time_us", "send_time_us", "first_chunk_time_us"
    )


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """All columns; what no column of a trace means goes to `extra`."""
    table = CsvRows(source)
    rows = table.rows
    sent = _or_else(_recorded(table, "send_time_us"), table.counts("arrival_time_us", expected=A_TIME))
    rows.put_arrivals(sent, "us", "send_time_us")
    rows.put("id", table.texts("request_id"), "request_id")
    rows.put("prompt_tokens", _prompt_tokens(table), "input_tokens")
    output_tokens = table.counts("output_tokens")
    rows.put("output_tokens", output_tokens, "output_tokens")
    _put_names(table)
    _put_times(table, sent, output_tokens)
    rows.put_others(table.others(*_READ, *_SOMETIMES))
    return rows, header_of(source, "BLIS inference-sim")


def _or_else(first: pa.Array, second: pa.Array) -> pa.Array:
    return pc.coalesce(first, second)


def _recorded(table: CsvRows, column: str) -> pa.Array:
    """Whole numbers, of which a 0 was not recorded."""
    numbers = table.counts(column, expected=A_TIME)
    return pc.if_else(pc.greater(numbers, 0), numbers, pa.scalar(None, pa.int64()))


def _prompt_tokens(table: CsvRows) -> pa.Array:
    own = table.counts("input_tokens")
    grouped = pc.is_valid(table.texts("prefix_group"))
    whole = pc.add(own, pc.if_else(grouped, table.counts("prefix_length"), pa.scalar(0, pa.int64())))
    counted = _recorded(table, "server_input_tokens")
    return pc.if_else(grouped, whole, _or_else(counted, whole))


def _put_names(table: CsvRows) -> None:
    rows = table.rows
    session, turn = (
        table.texts("session_id"),
        table.counts("round_index", expected="expected a number from 0 on"),
    )
    rows.put("session", session, "session_id")
    rows.put("turn", pc.if_else(pc.is_valid(session), turn, pa.scalar(None, pa.int64())), "round_index")
    later = pc.and_(pc.is_valid(session), pc.greater(turn, 0))
    rows.remark(later, "later round: its header says whether its prompt holds the context before it")
    for name, column in (("tenant", "tenant_id"), ("user", "client_id"), ("model", "model")):
        rows.put(name, table.texts(column), column)
    if "adapter" in table.names:
        rows.put("adapter", table.texts("adapter"))
    if "vllm_priority" in table.names:
        urgency = table.counts("vllm_priority", expected="expected a number from 0 on")
        rows.put("priority", pc.negate(urgency), "vllm_priority")


def _put_times(table: CsvRows, sent: pa.Array, output_tokens: pa.Array) -> None:
    rows = table.rows
    first, last = _recorded(table, "first_chunk_time_us"), _recorded(table, "last_chunk_time_us")
    status = table.texts("status")
    more = pc.subtract(output_tokens, 1)
    gaps = pc.if_else(pc.greater(more, 0), more, pa.scalar(None, pa.int64()))
    rows.put("observed_ttft_s", _between(sent, first), "first_chunk_time_us")
    rows.put("observed_e2e_s", _between(sent, last), "last_chunk_time_us")
    rows.put(
        "observed_tpot_s", pc.divide(_between(first, last), gaps.cast(pa.float64())), "last_chunk_time_us"
    )
    rows.put("observed_failed", pc.not_equal(status, "ok"), "status")
    rows.put("deadline_s", _between(sent, _recorded(table, "deadline_us")), "deadline_us")
    if "slo_target_us" in table.names:
        rows.put(
            "slo_ttft_s",
            pc.divide(_recorded(table, "slo_target_us").cast(pa.float64()), 1e6),
            "slo_target_us",
        )


def _between(start: pa.Array, end: pa.Array) -> pa.Array:
    return pc.divide(pc.subtract(end, start).cast(pa.float64()), 1e6)
