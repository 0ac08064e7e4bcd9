"""What a run writes down while it runs: rows in columns, converted in blocks so that memory stays flat.

Actors call the methods of `Telemetry`; nothing here looks at a clock or at an actor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import pyarrow as pa
from msgspec import Struct, structs

from fleet.messages import Reply, Timing
from fleet.pools import Pool
from fleet.telemetry.engine_time import EngineTime
from policies.base import RoutingPolicy
from policies.decisions import Route
from policies.views import PoolView, ReplicaState, Role

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
SERVED_BY = pa.schema([("row", pa.int64()), ("serving", pa.int32()), ("quality", pa.float64())])
ATTEMPTS = pa.schema([
    ("request", pa.string()), ("role", pa.string()), ("attempt", pa.int32()), ("pool", pa.string()),
    ("version", pa.string()), ("variant", pa.string()), ("replica", pa.string()), ("device", pa.string()),
    ("sent_s", pa.float64()), ("started_s", pa.float64()), ("ended_s", pa.float64()), ("end", pa.string()),
    ("service_s", pa.float64()), ("tokens", pa.int64()),
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
POOLED_SERIES = SERIES.append(pa.field("pool", pa.string()))
"""Of a fleet with several pools: a row for each of them."""
REPLICAS = pa.schema([
    ("time_s", pa.float64()), ("replica", pa.string()), ("state", pa.string()), ("detail", pa.string()),
])  # fmt: skip
DISPATCHES = pa.schema([
    ("time_s", pa.float64()), ("replica", pa.string()), ("size", pa.int32()), ("queue_depth", pa.int64()),
    ("reason", pa.string()),
])  # fmt: skip

TIMINGS = pa.schema([
    ("ended_s", pa.float64()), ("replica", pa.string()), ("service_s", pa.float64()),
    ("batch_size", pa.int32()), ("tokens", pa.int64()),
    ("prefills", pa.int32()), ("prefill_tokens", pa.int64()), ("prefill_context_tokens", pa.int64()),
    ("decodes", pa.int32()), ("decode_context_tokens", pa.int64()),
])  # fmt: skip
"""`ended_s` on the head's clock, late by a message's way; what follows `service_s` as in `Timing`."""


def scores_text(scores: Mapping[str, float] | None) -> str | None:
    """Scores as text for the log, best first."""
    if not scores:
        return None
    return " ".join(
        f"{name}={value:.6g}" for name, value in sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    )


class Serving(NamedTuple):
    """What serves requests, and the number that it has in `served_by`."""

    pool: str | None
    version: str | None
    variant: str | None
    number: int


class PoolDescription(Struct, frozen=True):
    """What a run keeps of a pool."""

    pool: str
    model: str
    version: str
    variant: str
    device: str | None
    cost_per_hour: float | None
    since_change: int = 0
    """Changes of replicas' states that were written before it. A name may be used again when its pool is gone: a
    replica is of the pool that had the name when the replica was first heard of."""


class Watcher(Protocol):
    """Stands between a router and its routing policies."""

    def watch(self, pool: str, policy: RoutingPolicy) -> RoutingPolicy:
        """Whom the router asks in place of `policy`, which chooses for the variant that `pool` is the first of."""

    def tables(self) -> dict[str, pa.Table]:
        """What it has to say of the run when that is over, by name."""


class Telemetry:
    """The sink of one run."""

    def __init__(
        self, *, keep_rows: int | None = None, pooled: bool = False, watcher: Watcher | None = None
    ) -> None:
        """`keep_rows` bounds each table, for a head that serves and serves; None keeps all, as a run's result needs.

        `pooled`: the fleet names pools, so the series says of which one a row is.
        """
        self.watcher = watcher
        self._bounded = keep_rows is not None
        self.pooled = pooled
        self.ended = Columns(ENDED, keep_rows)
        self.served = Columns(SERVED, keep_rows)
        """What more there is to say of those that were served token by token."""
        self.served_by = Columns(SERVED_BY, keep_rows)
        """And of those of which it is known by what, or how well; `serving` is a place in `servings`."""
        self.servings: list[Serving] = []
        self._last_served: dict[str | None, Serving] = {}
        """By pool: a name may be used again, of another version."""
        self.attempts = Columns(ATTEMPTS, keep_rows)
        self.pools: list[PoolDescription] = []
        self.decisions = Columns(DECISIONS, keep_rows)
        self.dispatches = Columns(DISPATCHES, keep_rows)
        self.series = Columns(POOLED_SERIES if pooled else SERIES, keep_rows)
        self.replicas = Columns(REPLICAS, keep_rows)
        self.timings = Columns(TIMINGS, keep_rows)
        self.counters: Counter[str] = Counter()
        """Things worth knowing that are no outcome: late answers, retries, lost messages, drops."""
        self.engines = EngineTime()
        self._states: dict[str, str] = {}

    def watched(self, pool: Pool) -> Pool:
        """The pool as the router is to have it, when it is the first of its variant."""
        if self.watcher is None:
            return pool
        return structs.replace(pool, routing=self.watcher.watch(pool.name, pool.routing))

    def describe_pool(self, pool: Pool) -> None:
        """A pool is there: from the beginning, or deployed later. Before the first of its replicas is."""
        if self._bounded:  # nobody asks what it cost
            self.pools = [known for known in self.pools if known.pool != pool.name]
        self.pools.append(
            PoolDescription(
                pool.name, pool.model, pool.version, pool.variant, pool.device, pool.cost_per_hour,
                len(self.replicas) + self.replicas.dropped,
            )
        )  # fmt: skip

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
        pool, quality = reply.pool, reply.quality
        if pool is not None or quality is not None:
            known = self._last_served.get(pool)
            if known is None or known.version != reply.version or known.variant != reply.variant:
                known = self._serving(pool, reply.version, reply.variant)
            self.served_by.append((row, known.number, quality))

    def _serving(self, pool: str | None, version: str | None, variant: str | None) -> Serving:
        """These three, under the number that they had before, or a new one."""
        known = next((one for one in self.servings if one[:3] == (pool, version, variant)), None)
        if known is None:
            known = Serving(pool, version, variant, len(self.servings))
            self.servings.append(known)
        self._last_served[pool] = known
        return known

    def attempt_ended(  # noqa: PLR0917  # in the order of the table's columns
        self,
        request_id: str,
        role: Role,
        attempt: int,
        pool: str,
        version: str,
        variant: str,
        replica: str | None,
        device: str | None,
        sent_s: float,
        started_s: float | None,
        ended_s: float | None,
        end: str | None,
        service_s: float | None,
        tokens: int | None,
    ) -> None:
        """An attempt ended: `end` is ``completed``, or why it came to nothing; None: the run ended first.

        Not told of: a request's only attempt, shadows apart, if it completed.
        """
        self.attempts.append(
            (request_id, role, attempt, pool, version, variant, replica, device, sent_s, started_s, ended_s, end,
             service_s, tokens)
        )  # fmt: skip

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

    def dispatched(self, now_s: float, replica: str, size: int, queue_depth: int, reason: str | None) -> None:
        """A batch went to a replica, and left `queue_depth` waiting."""
        self.dispatches.append((now_s, replica, size, queue_depth, reason))

    def timed(self, now_s: float, replica: str, timings: Iterable[Timing]) -> None:
        """A replica said how long its engine took, and for what."""
        for item in timings:
            ago_s, service_s, *shape = structs.astuple(item)
            self.timings.append((now_s - ago_s, replica, service_s, *shape))

    def pool_sampled(self, now_s: float, pool: PoolView) -> None:
        """What the control loop of one pool saw."""
        row = (
            now_s, pool.starting, pool.warm, pool.ready, pool.draining, pool.queue_depth, pool.in_flight,
            pool.queue_depth_mean, pool.in_flight_mean, pool.arrivals_per_s, pool.completions_per_s, pool.attainment,
            pool.busy_fraction, pool.gpu_utilization, pool.memory_used_fraction, pool.kv_utilization,
        )  # fmt: skip
        self.series.append((*row, pool.name) if self.pooled else row)

    def replica_changed(
        self, now_s: float, replica: str, state: RecordedState, detail: str | None = None
    ) -> None:
        """A replica entered a state; repeats are dropped."""
        if self._states.get(replica) != state:
            self._states[replica] = state
            self.replicas.append((now_s, replica, state, detail))
            if self._bounded and state in ("stopped", "failed"):
                del self._states[replica]
