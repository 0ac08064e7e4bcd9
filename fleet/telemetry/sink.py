"""What a run writes down while it runs: rows in columns, converted in blocks so that memory stays flat.

Actors call the methods of `Telemetry`; nothing here looks at a clock or at an actor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from fleet.messages import Reply
from fleet.telemetry.engine_time import EngineTime
from policies.decisions import Route
from policies.views import PoolView, ReplicaState

RecordedState: TypeAlias = ReplicaState | Literal["waiting"]
"""As the table of replicas has it: `waiting` is one that was asked for, and has no place in order yet."""
BLOCK_ROWS = 4_096
"""Rows held as Python objects before they become columns: few enough to stay in the processor's cache."""


class Columns:
    """Append-only rows of one schema; a row is a tuple in the order of the schema's fields.

    With `keep`, the oldest are dropped, a block at a time, when there are more.
    """

    __slots__ = ("_batches", "_cells", "_full", "_keep", "_schema", "dropped")

    def __init__(self, schema: pa.Schema, keep: int | None = None) -> None:
        self._keep = keep
        self.dropped = 0
        """Rows that are here no longer."""
        self._schema = schema
        self._batches: list[pa.RecordBatch] = []
        # Row after row in one flat list: it costs no object a row, and a column of it is a slice.
        self._cells: list[Any] = []  # Any: a cell has the type its schema says
        self._full = BLOCK_ROWS * len(schema)

    def __len__(self) -> int:
        converted: int = sum(batch.num_rows for batch in self._batches)
        return len(self._cells) // len(self._schema) + converted

    def append(self, row: tuple[Any, ...]) -> None:
        """Add a row."""
        cells = self._cells
        cells += row
        if len(cells) >= self._full:
            self._flush()

    def _flush(self) -> None:
        width = len(self._schema)
        if len(self._cells) % width:
            raise ValueError(f"a row did not have the {width} fields of {self._schema.names}")
        arrays = [_array(self._cells[index::width], field.type) for index, field in enumerate(self._schema)]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._cells.clear()
        if self._keep is not None:
            while len(self) > self._keep:
                self.dropped += self._batches.pop(0).num_rows

    def take(self) -> pa.Table:
        """All rows so far, in one chunk; they are here no longer, so that a long run is in memory once."""
        if self._cells:
            self._flush()
        batches, self._batches = self._batches, []
        table = pa.Table.from_batches(batches, schema=self._schema).combine_chunks()
        del batches
        pa.default_memory_pool().release_unused()  # the blocks: too small for what comes next
        return table


def _array(cells: list[Any], kind: pa.DataType) -> pa.Array:
    """A column; one that holds the same value throughout, as many do, is not converted cell by cell."""
    first = cells[0]
    if first is cells[-1] and cells.count(first) == len(cells):
        return pa.nulls(len(cells), kind) if first is None else pa.repeat(pa.scalar(first, kind), len(cells))
    return pa.array(cells, type=kind)


ENDED = pa.schema([
    ("row", pa.int64()), ("arrived_s", pa.float64()), ("ended_s", pa.float64()), ("outcome", pa.string()),
    ("replica", pa.string()), ("attempts", pa.int32()), ("batch_size", pa.int32()), ("service_s", pa.float64()),
    ("cold", pa.bool_()), ("detail", pa.string()),
])  # fmt: skip
SERVED = pa.schema([
    ("row", pa.int64()), ("first_token_s", pa.float64()), ("generated_tokens", pa.int64()), ("itl_max_s", pa.float64()),
    ("cached_tokens", pa.int64()), ("preemptions", pa.int32()),
])  # fmt: skip
DECISIONS = pa.schema([
    ("time_s", pa.float64()), ("slot", pa.string()), ("subject", pa.string()), ("decision", pa.string()),
    ("choice", pa.string()), ("value", pa.float64()), ("signal_age_s", pa.float64()), ("reason", pa.string()),
    ("scores", pa.string()),
])  # fmt: skip
SERIES = pa.schema([
    ("time_s", pa.float64()), ("starting", pa.int32()), ("warm", pa.int32()), ("ready", pa.int32()),
    ("draining", pa.int32()), ("queue_depth", pa.int64()), ("in_flight", pa.int64()),
    ("queue_depth_mean", pa.float64()), ("in_flight_mean", pa.float64()),
    ("arrivals_per_s", pa.float64()), ("completions_per_s", pa.float64()), ("attainment", pa.float64()),
    ("busy_fraction", pa.float64()), ("gpu_utilization", pa.float64()), ("memory_used_fraction", pa.float64()),
    ("kv_utilization", pa.float64()),
])  # fmt: skip
ATTEMPTS = pa.schema([
    ("request", pa.string()), ("role", pa.string()), ("attempt", pa.int32()), ("pool", pa.string()),
    ("version", pa.string()), ("variant", pa.string()), ("replica", pa.string()), ("device", pa.string()),
    ("sent_s", pa.float64()), ("started_s", pa.float64()), ("ended_s", pa.float64()), ("end", pa.string()),
    ("service_s", pa.float64()), ("tokens", pa.int64()),
])  # fmt: skip
REPLICAS = pa.schema([
    ("time_s", pa.float64()), ("replica", pa.string()), ("state", pa.string()), ("detail", pa.string()),
])  # fmt: skip
DISPATCHES = pa.schema([
    ("time_s", pa.float64()), ("replica", pa.string()), ("size", pa.int32()), ("queue_depth", pa.int64()),
    ("reason", pa.string()),
])  # fmt: skip


def scores_text(scores: Mapping[str, float] | None) -> str | None:
    """Scores as text for the log, best first."""
    if not scores:
        return None
    return " ".join(
        f"{name}={value:.6g}" for name, value in sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    )


class Telemetry:
    """The sink of one run."""

    def __init__(self, *, keep_rows: int | None = None, pooled: bool = False) -> None:
        """`keep_rows` bounds each table, for a head that serves and serves; None keeps all, as a run's result needs."""
        self._bounded = keep_rows is not None
        self.ended = Columns(ENDED, keep_rows)
        self.served = Columns(SERVED, keep_rows)
        """What more there is to say of those that were served token by token."""
        self.decisions = Columns(DECISIONS, keep_rows)
        self.dispatches = Columns(DISPATCHES, keep_rows)
        self.series = Columns(SERIES, keep_rows)
        self.replicas = Columns(REPLICAS, keep_rows)
        self.attempts = Columns(ATTEMPTS, keep_rows)
        self.counters: Counter[str] = Counter()
        """Things worth knowing that are no outcome: late answers, retries, lost messages, drops."""
        self.engines = EngineTime()
        self._states: dict[str, str] = {}

    def request_ended(
        self, row: int, arrived_s: float, now_s: float, reply: Reply, first_token_s: float | None = None
    ) -> None:
        """A client got its one final reply, and its first output token before, if it was served token by token."""
        self.ended.append(
            (row, arrived_s, now_s, reply.outcome, reply.replica, reply.attempts, reply.batch_size, reply.service_s,
             reply.cold, reply.detail)
        )  # fmt: skip
        usage = reply.usage
        if usage is not None:
            self.served.append(
                (
                    row,
                    first_token_s,
                    usage.output_tokens,
                    usage.itl_max_s,
                    usage.cached_tokens,
                    usage.preemptions,
                )
            )

    def routed(self, now_s: float, request_id: str, route: Route, signal_age_s: float) -> None:
        """The routing policy chose; the short form of `decided` for the decision made most often."""
        self.decisions.append(
            (now_s, "routing", request_id, "Route", route.replica, None, signal_age_s, route.reason,
             None if route.scores is None else scores_text(route.scores))
        )  # fmt: skip

    def decided(
        self,
        now_s: float,
        slot: str,
        subject: str,
        decision: str,
        *,
        choice: str | None = None,
        value: float | None = None,
        signal_age_s: float | None = None,
        reason: str | None = None,
        scores: Mapping[str, float] | None = None,
    ) -> None:
        """A policy decided; `subject` is what about, `choice` or `value` what."""
        self.decisions.append(
            (now_s, slot, subject, decision, choice, value, signal_age_s, reason, scores_text(scores))
        )

    def attempt_ended(self, *row: Any) -> None:
        """One attempt."""
        self.attempts.append(row)

    def describe_pool(self, pool: Any) -> None:
        """One pool."""

    def dispatched(self, now_s: float, replica: str, size: int, queue_depth: int, reason: str | None) -> None:
        """A batch went to a replica, and left `queue_depth` waiting."""
        self.dispatches.append((now_s, replica, size, queue_depth, reason))

    def pool_sampled(self, now_s: float, pool: PoolView) -> None:
        """What the control loop saw."""
        self.series.append(
            (now_s, pool.starting, pool.warm, pool.ready, pool.draining, pool.queue_depth, pool.in_flight,
             pool.queue_depth_mean, pool.in_flight_mean, pool.arrivals_per_s, pool.completions_per_s, pool.attainment,
             pool.busy_fraction, pool.gpu_utilization, pool.memory_used_fraction, pool.kv_utilization)
        )  # fmt: skip

    def replica_changed(
        self, now_s: float, replica: str, state: RecordedState, detail: str | None = None
    ) -> None:
        """A replica entered a state; repeats are dropped."""
        if self._states.get(replica) != state:
            self._states[replica] = state
            self.replicas.append((now_s, replica, state, detail))
            if self._bounded and state in ("stopped", "failed"):
                del self._states[replica]


def transitions(rows: Sequence[tuple[float, str, str]], end_s: float) -> dict[str, float]:
    """Seconds spent in each state, over all replicas, up to `end_s`; `rows` are (time, replica, state) in order."""
    spent: dict[str, float] = {}
    current: dict[str, tuple[float, str]] = {}
    for time_s, replica, state in rows:
        if replica in current:
            since, before = current[replica]
            spent[before] = spent.get(before, 0.0) + min(time_s, end_s) - min(since, end_s)
        current[replica] = (time_s, state)
    for since, state in current.values():
        spent[state] = spent.get(state, 0.0) + max(0.0, end_s - since)
    return spent
