"""The records of a run: one row a request, in the order of the trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fleet.spec import FleetSpec
from fleet.telemetry.attempts import last_that_decides
from fleet.telemetry.sink import Serving, Telemetry
from traces import Trace

KEPT = ("session", "turn", "tenant", "user", "model", "kind", "priority", "prompt_tokens", "output_tokens")
"""Columns of the trace that go into the records."""
BESIDES = ("adapter", "extra")
"""And these, to group by: the digest is not of them, for it has the trace's hash."""
SERVING = ("pool", "version", "variant")
"""Columns of what served a request, or was to serve it when it ended."""


def records_of(
    telemetry: Telemetry,
    trace: Trace,
    spec: FleetSpec | None,
    unfinished: list[tuple[int, float]],
    attempts: pa.Table,
) -> pa.Table:
    """One row a request, in the order of the trace; the telemetry has these rows no longer.

    Of a fleet of several pools each has what served it too, and its quality where any has one.
    """
    served, served_by = telemetry.served.take(), telemetry.served_by.take()
    records, rows = _of_every_run(telemetry.ended.take(), served, trace, spec, unfinished)
    if not len(served_by) and not telemetry.pooled:
        return records
    serving, quality = _serving(served_by, telemetry.servings, rows)
    if telemetry.pooled or serving["pool"].null_count < len(records):
        for name in SERVING:
            records = records.append_column(name, _filled(records, serving[name], attempts, name))
    if quality.null_count < len(records):
        records = records.append_column("quality", quality)
    return records.combine_chunks()


def _of_every_run(
    ended: pa.Table,
    served: pa.Table,
    trace: Trace,
    spec: FleetSpec | None,
    unfinished: list[tuple[int, float]],
) -> tuple[pa.Table, pa.Array]:
    """The columns that records always have, and each one's row in the trace."""
    if unfinished:
        rows, arrivals = zip(*unfinished, strict=True)
        open_rows = {"row": pa.array(rows, pa.int64()), "arrived_s": pa.array(arrivals, pa.float64())}
        nulls = {
            field.name: open_rows.get(field.name, pa.nulls(len(rows), field.type)) for field in ended.schema
        }
        ended = pa.concat_tables([ended, pa.table(nulls, schema=ended.schema)])
    ended = ended.sort_by("row").combine_chunks()
    # As a rule every request is there; only a horizon leaves some out.
    source = trace.table if len(ended) == len(trace) else trace.table.take(ended["row"])
    completed = pc.equal(pc.fill_null(ended["outcome"], ""), "completed")
    e2e = pc.if_else(completed, pc.subtract(ended["ended_s"], ended["arrived_s"]), None)
    tokens = _token_columns(served, ended["row"])
    ttft, tpot = e2e, tokens["itl_max_s"]  # whole requests: the first output is the answer; there are no gaps
    if len(served):
        first_token = pc.subtract(tokens["first_token_s"], ended["arrived_s"])
        ttft = pc.if_else(completed, pc.coalesce(first_token, e2e), None)
        gaps = pc.subtract(tokens["generated_tokens"], 1)
        decode_s = pc.subtract(e2e, ttft)
        tpot = pc.if_else(
            pc.and_(completed, pc.greater(gaps, 0)), pc.divide(decode_s, pc.cast(gaps, pa.float64())), None
        )
    columns: dict[str, Any] = {
        "id": source["id"],
        "arrived_s": ended["arrived_s"],
        "ended_s": ended["ended_s"],
        "outcome": ended["outcome"],
        "replica": ended["replica"],
        "attempts": ended["attempts"],
        "batch_size": ended["batch_size"],
        # A late clock tick must not make waiting negative.
        "queue_s": pc.if_else(
            completed, pc.max_element_wise(pc.subtract(e2e, ended["service_s"]), 0.0), None
        ),
        "service_s": ended["service_s"],
        "ttft_s": ttft,
        "tpot_s": tpot,
        "itl_max_s": tokens["itl_max_s"],
        "e2e_s": e2e,
        "cold": ended["cold"],
        "slo_met": _slo_met({"e2e_s": e2e, "ttft_s": ttft, "tpot_s": tpot}, completed, source, spec),
        "generated_tokens": tokens["generated_tokens"],
        "cached_tokens": tokens["cached_tokens"],
        "preemptions": tokens["preemptions"],
        "detail": ended["detail"],
    }
    for name in (*KEPT, *BESIDES):
        if name in source.column_names:
            columns[name] = source[name]
    return pa.table(columns).combine_chunks(), ended["row"].combine_chunks()


def _serving(served_by: pa.Table, servings: Sequence[Serving], rows: Any) -> tuple[dict[str, Any], Any]:
    """What served the requests of these rows of the trace, and the qualities of their answers: null where unknown."""
    served_rows, rows = served_by["row"].to_numpy(), rows.to_numpy()
    places = np.full(1 + max(rows.max(initial=0), served_rows.max(initial=0)), -1)
    places[served_rows] = np.arange(len(served_rows))
    found = served_by.take(pa.array(places[rows], mask=places[rows] < 0))
    numbers = found["serving"].combine_chunks()
    serving = {
        name: pa.array([getattr(one, name) for one in servings], pa.string()).take(numbers)
        for name in SERVING
    }
    return serving, found["quality"].combine_chunks()


def _filled(records: pa.Table, values: Any, attempts: pa.Table, name: str) -> Any:  # Any: Arrow arrays
    """`values`, and of requests that the run's end left unfinished, which have no reply, what their attempts say."""
    unfinished = pc.is_null(records["outcome"])
    if not len(attempts) or not pc.any(unfinished).as_py():
        return values
    last = last_that_decides(attempts, records)
    said = attempts[name].combine_chunks().take(pa.array(last, mask=last < 0))
    return pc.if_else(unfinished.combine_chunks(), said, values)


def _token_columns(served: pa.Table, rows: Any) -> dict[str, Any]:  # Any: Arrow arrays, here and below
    """The columns of `served` for these rows of the trace, null where there is nothing."""
    if not len(served):  # columns of nothing but nulls take memory all the same, so those of one type are one
        nulls = {kind: pa.nulls(len(rows), kind) for kind in set(served.schema.types)}
        return {field.name: nulls[field.type] for field in served.schema}
    aligned = served.take(pc.index_in(rows, served["row"]))
    return {name: aligned[name] for name in served.column_names}


def _slo_met(
    measured: dict[str, Any], completed: Any, source: pa.Table, spec: FleetSpec | None
) -> Any:  # Any: Arrow arrays, whose stubs are partial
    """True or false for requests with an objective, null for the others.

    Only a completed request can have met one: whoever is refused, expires, fails, is cancelled or has no answer when
    the run ends got nothing in time. An engine that answers whole requests has its first output at the end, so a TTFT
    objective is held against E2E. An answer of one token, of none, or in one piece has no gap between two tokens, so
    a TPOT objective asks nothing of it but to complete.
    """
    rows = len(source)
    met: Any = pa.nulls(rows, pa.bool_())
    for name, values in measured.items():
        default = None if spec is None or spec.slo is None else getattr(spec.slo, name)
        column = f"slo_{name}"
        bound: Any = source[column] if column in source.column_names else pa.nulls(rows, pa.float64())
        if default is not None:
            bound = pc.fill_null(bound, default)
        within = pc.and_(completed, pc.fill_null(pc.less_equal(values, bound), name == "tpot_s"))
        this = pc.if_else(pc.is_valid(bound), within, None)
        met = pc.if_else(pc.is_null(met), this, pc.if_else(pc.is_null(this), met, pc.and_(met, this)))
    return met
