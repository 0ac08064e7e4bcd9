"""Pure functions from trace to trace. Each writes its name, parameters and seed into the header.

They compose: ``trace.first(seconds=600).scale_rate(2).with_deadline(1.0)``. `deadline_s`, `slo` and what was
observed are durations of the service, not times on the users' clock: no transform of time changes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from traces.columns import COLUMNS, SCHEMA
from traces.errors import TraceError
from traces.recipe import recorded
from traces.schema import Header, Provenance, Scalar, TraceEntry, Transform


class Rows(Protocol):
    """What a transform needs of a trace: its columns, where they come from, and how to make another."""

    def __init__(self, table: pa.Table, header: Header) -> None: ...

    @property
    def table(self) -> pa.Table: ...

    @property
    def header(self) -> Header: ...

    @property
    def sha256(self) -> str: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[TraceEntry]: ...

    def derived(self, table: pa.Table, step: Transform, *, moved_s: float = 0.0) -> Self: ...


AnyTrace = TypeVar("AnyTrace", bound=Rows)


@recorded("Trace.first")
def first(trace: AnyTrace, *, seconds: float | None = None, requests: int | None = None) -> AnyTrace:
    """The requests that arrive before `seconds`, at most `requests` of them; at least one must be given."""
    if seconds is None and requests is None:
        raise TraceError("first() needs a limit", remedy="first(seconds=600) or first(requests=1000)")
    if seconds is not None:
        finite("first", seconds)
    rows = len(trace)
    if seconds is not None:
        rows = int(np.searchsorted(arrivals(trace), seconds, side="left"))
    if requests is not None:
        rows = min(rows, max(0, requests))
    seconds = None if seconds is None else float(seconds)
    return derived(trace, trace.table.slice(0, rows), "first", seconds=seconds, requests=requests)


@recorded("Trace.slice")
def slice(trace: AnyTrace, start_s: float, end_s: float, *, rebase: bool = True) -> AnyTrace:
    """The requests with ``start_s <= arrived_s < end_s``; `rebase` moves `start_s` to time 0.

    An infinite `end_s` is the end of the trace, and recorded as none.
    """
    finite("slice", start_s)
    if not start_s <= end_s:
        raise TraceError(f"slice from {start_s} s to {end_s} s is backwards", remedy="give start_s <= end_s")
    low, high = np.searchsorted(arrivals(trace), [start_s, end_s], side="left")
    table = trace.table.slice(int(low), int(high - low))
    if rebase:
        table = with_column(table, "arrived_s", table["arrived_s"].to_numpy() - start_s)
    given: dict[str, Scalar] = {"start_s": start_s, "end_s": end_s, "rebase": rebase}
    if math.isinf(end_s):
        del given["end_s"]  # to the end: JSON has no infinity
    step = Transform("slice", given)
    return trace.derived(table, step, moved_s=start_s / _slowed(trace.header) if rebase else 0.0)


def _slowed(header: Header) -> float:
    """How many seconds of the trace one of its recording has become, by the steps since it had one clock."""
    factor = 1.0
    for step in header.transforms:
        if step.name == "merge":
            factor = 1.0
        elif step.name in {"scale_time", "scale_rate"}:
            by = step.parameters.get("factor")
            if isinstance(by, int | float) and by > 0:
                factor = factor * by if step.name == "scale_time" else factor / by
    return factor


@recorded("Trace.scale_rate")
def scale_rate(trace: AnyTrace, factor: float) -> AnyTrace:
    """`factor` times as many arrivals a second.

    Arrivals are divided by `factor`. A request of a closed-loop session (one with `think_s`) keeps its
    distance to the session's first request: more sessions start, and their users think no faster.
    """
    positive("scale_rate", factor)
    arrived = arrivals(trace)
    scaled = arrived / factor
    if "think_s" in trace.table.column_names and "session" in trace.table.column_names:
        start = _session_start(trace)
        closed = trace.table["think_s"].is_valid().to_numpy()
        scaled = np.where(closed, start / factor + (arrived - start), scaled)
    return derived(trace, with_column(trace.table, "arrived_s", scaled), "scale_rate", factor=factor)


def _session_start(trace: Rows) -> np.ndarray:
    """For each row the arrival of its session's first row; its own where it has no session."""
    arrived = arrivals(trace)
    codes = trace.table["session"].combine_chunks().dictionary_encode()
    group = pc.fill_null(codes.indices, -1).to_numpy(zero_copy_only=False)
    starts = np.full(len(codes.dictionary), np.inf)
    np.minimum.at(starts, group[group >= 0], arrived[group >= 0])
    return np.where(group >= 0, starts[group], arrived) if len(starts) else arrived


@recorded("Trace.scale_time")
def scale_time(trace: AnyTrace, factor: float) -> AnyTrace:
    """The users' clock `factor` times as slow: arrivals and think times are multiplied by it."""
    positive("scale_time", factor)
    table = with_column(trace.table, "arrived_s", arrivals(trace) * factor)
    if "think_s" in table.column_names:
        table = with_column(table, "think_s", pc.multiply(table["think_s"], factor))
    return derived(trace, table, "scale_time", factor=factor)


@recorded("Trace.filter")
def filter(trace: AnyTrace, where: pc.Expression) -> AnyTrace:
    """The rows for which a pyarrow expression over `traces.columns.COLUMNS` holds (null counts as no)."""
    table = trace.table
    for name in COLUMNS:
        if name not in table.column_names:
            table = table.append_column(SCHEMA.field(name), pa.nulls(len(trace), COLUMNS[name].type))
    try:
        kept = table.filter(where)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError) as error:
        remedy = 'give a pyarrow expression such as pyarrow.compute.field("prompt_tokens") < 4096'
        raise TraceError(f"cannot filter by {where}: {error}", remedy=remedy) from None
    return derived(trace, kept, "filter", where=str(where))


@recorded("Trace.with_slo")
def with_slo(
    trace: AnyTrace, *, e2e_s: float | None = None, ttft_s: float | None = None, tpot_s: float | None = None
) -> AnyTrace:
    """Every request with this service-level objective; a bound not given is absent afterwards."""
    table = trace.table
    for name, value in (("slo_e2e_s", e2e_s), ("slo_ttft_s", ttft_s), ("slo_tpot_s", tpot_s)):
        table = with_column(table, name, pa.array([value] * len(trace), pa.float64()))
    return derived(trace, table, "with_slo", e2e_s=e2e_s, ttft_s=ttft_s, tpot_s=tpot_s)


@recorded("Trace.with_deadline")
def with_deadline(trace: AnyTrace, seconds: float) -> AnyTrace:
    """Every request with a deadline `seconds` after its arrival."""
    table = with_column(trace.table, "deadline_s", np.full(len(trace), float(seconds)))
    return derived(trace, table, "with_deadline", seconds=seconds)


@recorded("Trace.with_work")
def with_work(trace: AnyTrace, ordinary_s: float) -> AnyTrace:
    """Every request with the work that its recorded time says: `observed.e2e_s` over `ordinary_s`, 1 being ordinary.

    For traces without tokens that record how long each request ran. What was observed is hidden from policies, and
    `work` is not: they then know what each request costs, as they know a prompt's length. A request without a recorded
    time has no work afterwards.

    Raises:
        TraceError: No request has a recorded time; or one makes more work than a request may have, 1e6.
    """
    positive("with_work", ordinary_s)
    if "observed_e2e_s" not in trace.table.column_names:
        remedy = "it is for recordings of how long requests ran, such as Azure Functions'"
        raise TraceError("with_work: no request has a recorded time, observed.e2e_s", remedy=remedy)
    work = pc.divide(trace.table["observed_e2e_s"], float(ordinary_s))
    return derived(trace, with_column(trace.table, "work", work), "with_work", ordinary_s=float(ordinary_s))


@recorded("Trace.dequantise")
def dequantise(trace: AnyTrace, *, tick_s: float, seed: int) -> AnyTrace:
    """Requests of one instant spread uniformly over the `tick_s` seconds that follow it, in their order.

    For clocks that tick coarsely: without it requests that came over three seconds arrive as one batch. Each
    gets an independent uniform offset in [0, tick_s); those of one instant are sorted, so the order of rows
    stays.
    """
    positive("dequantise", tick_s)
    arrived = arrivals(trace)
    offsets = np.random.default_rng(seed).uniform(0, tick_s, len(trace))
    _, tick = np.unique(arrived, return_inverse=True)
    offsets = offsets[np.lexsort((offsets, tick))]  # rows are sorted by tick already: sorts within each
    return derived(
        trace, with_column(trace.table, "arrived_s", arrived + offsets), "dequantise", seed, tick_s=tick_s
    )


@recorded("Trace.upsample")
def upsample(trace: AnyTrace, factor: float, *, seed: int) -> AnyTrace:
    """`factor` times the requests in the same time and the same shape; below 1, a random part of them.

    Each session, and each request outside one, is taken floor(factor) times and once more with the
    probability of the fraction. The first copy stays where it is; a further copy of a request arrives
    uniformly between it and the next arrival. Copies are other users': ids, sessions and parents get ``~1``,
    ``~2``, …, and their prefix blocks hashes of their own, so that doubling a trace does not double its cache
    hits.
    """
    positive("upsample", factor)
    rng = np.random.default_rng(seed)
    arrived = arrivals(trace)
    group = groups(trace.table, "session")
    chance = rng.uniform(size=int(group.max(initial=-1)) + 1) < factor - math.floor(factor)
    copies = math.floor(factor) + chance[group].astype(int)
    following = np.append(arrived[1:], arrived[-1:])
    tables = []
    for copy in range(int(copies.max(initial=0))):
        table = trace.table
        if copy:
            moved = arrived + rng.uniform(size=len(arrived)) * (following - arrived)
            table = with_column(table, "arrived_s", moved)
            table = _renamed(table, suffix=f"~{copy}")
        tables.append(table.filter(pa.array(copies > copy)))
    joined = pa.concat_tables(_blocks_apart(tables)) if tables else trace.table.slice(0, 0)
    return derived(trace, joined, "upsample", seed, factor=factor)


def groups(table: pa.Table, name: str) -> np.ndarray:
    """One number for each value of a column of texts, such as `session`, and one for each row without any."""
    rows = np.arange(len(table))
    if name not in table.column_names:
        return rows
    codes = table[name].combine_chunks().dictionary_encode()
    group = pc.fill_null(codes.indices, -1).to_numpy(zero_copy_only=False)
    return np.where(group >= 0, group, len(codes.dictionary) + rows)


@recorded("Trace.merge")
def merge(*traces: AnyTrace, share_blocks: bool | None = None) -> AnyTrace:
    """Several traces on one time axis; at one instant, those of the earlier argument come first.

    Where an id or a session occurs in two of them, the ids, parents and sessions of every trace are prefixed
    with its position (``0/``, ``1/``). Hashes of prefix blocks mean something only within their trace: they
    are renumbered, to be kept apart, unless `share_blocks`, which defaults to whether all the traces name the
    same source.
    """
    if not traces:
        raise TraceError("merge() needs a trace", remedy="merge(a, b)")
    tables = [trace.table for trace in traces]
    if _overlap(tables, "id") or _overlap(tables, "session"):
        tables = [_renamed(table, prefix=f"{index}/") for index, table in enumerate(tables)]
    sources = list(dict.fromkeys(trace.header.source for trace in traces))
    if not (len(sources) == 1 if share_blocks is None else share_blocks):
        tables = _blocks_apart(tables)
    table = pa.concat_tables(tables, promote_options="default")
    step = Transform("merge", {"others": " ".join(trace.sha256 for trace in traces[1:])})
    return type(traces[0])(table, _merged_header(traces, step))


def _merged_header(traces: Sequence[Rows], step: Transform) -> Header:
    headers = [trace.header for trace in traces]
    kinds: set[Provenance] = {header.provenance for header in headers}
    provenance: Provenance = "unknown" if "unknown" in kinds else "derived"
    licences = [header.licence for header in headers]
    offsets_s = {header.offset_s for header in headers}
    return Header(
        source=_joined([header.source for header in headers]) or "",
        licence=_joined(licences) if all(licences) else None,  # of the whole only where each part has one
        citation=_joined([header.citation for header in headers]),
        provenance="synthetic" if kinds == {"synthetic"} else provenance,
        offset_s=offsets_s.pop() if len(offsets_s) == 1 else 0.0,
        transforms=(*(t for header in headers for t in header.transforms), step),
    )


def _joined(texts: Sequence[str | None]) -> str | None:
    return " + ".join(dict.fromkeys(text for text in texts if text)) or None


def _overlap(tables: list[pa.Table], name: str) -> bool:
    columns = [pc.unique(table[name].drop_null()) for table in tables if name in table.column_names]
    return sum(map(len, columns)) > len(pc.unique(pa.chunked_array(columns, pa.string())))


def _renamed(table: pa.Table, *, prefix: str = "", suffix: str = "") -> pa.Table:
    for name in ("id", "parent", "session"):
        if name in table.column_names:
            table = with_column(table, name, pc.binary_join_element_wise(prefix, table[name], suffix, ""))
    return table


def _blocks_apart(tables: list[pa.Table]) -> list[pa.Table]:
    """Block hashes renumbered so that no two tables share one. Adding to them would not do: a hash may be any int64."""
    numbered, first = [], 0
    for unnumbered in tables:
        table = unnumbered
        if "blocks" in table.column_names:
            lists = table["blocks"].combine_chunks()
            codes = lists.flatten().dictionary_encode()
            lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("i4")
            numbers = pc.add(codes.indices.cast(pa.int64()), pa.scalar(first, pa.int64()))
            blocks = pa.ListArray.from_arrays(offsets, numbers, mask=lists.is_null())
            table = with_column(table, "blocks", blocks)
            first += len(codes.dictionary)
        numbered.append(table)
    return numbered


def arrivals(trace: Rows) -> np.ndarray:
    """`arrived_s` of every row."""
    return np.asarray(trace.table["arrived_s"].to_numpy())


def with_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray | np.ndarray) -> pa.Table:
    """`table` with this column, in the place of the one it may have had."""
    values = pa.array(values) if isinstance(values, np.ndarray) else values
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), SCHEMA.field(name), values)
    return table.append_column(SCHEMA.field(name), values)


def derived(
    trace: AnyTrace, table: pa.Table, name: str, seed: int | None = None, /, **parameters: Scalar
) -> AnyTrace:
    """What a transform returns: these rows, and its name, parameters (those that are not None) and seed on record."""
    given: dict[str, Scalar] = {key: value for key, value in parameters.items() if value is not None}
    return trace.derived(table, Transform(name, given, seed))


def finite(name: str, *values: float) -> None:
    """Raise `TraceError` unless each of the values, parameters of transform `name`, is a number with an end."""
    for value in values:
        if not math.isfinite(value):
            raise TraceError(f"{name}({value}) is not possible", remedy="give finite numbers")


def positive(name: str, value: float) -> None:
    """Raise `TraceError` unless `value`, a parameter of transform `name`, is finite and above 0."""
    if not (math.isfinite(value) and value > 0):
        raise TraceError(f"{name}({value}) is not possible", remedy="give a finite number above 0")
