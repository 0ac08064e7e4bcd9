"""What the attempts of a run came to: which became answers, which were for nothing, and what all of them took.

The one thing to know: a request's only attempt, shadows apart, has no row if it completed, so a run in which nothing
goes wrong and nothing is hedged pays nothing. Its record has all there is to say of it; `every_attempt` says it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from fleet.pools import pool_of
from fleet.spec import FleetSpec
from fleet.telemetry.sink import ATTEMPTS
from policies.base import RetryPolicy
from policies.resilience.no_hedge import NoHedge

Floats: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]
Integers: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]
Flags: TypeAlias = np.ndarray[tuple[int], np.dtype[np.bool_]]

HEDGES = ("hedge", "tied")
"""Roles of attempts that were added beside a live one, to be quicker."""


class AttemptFigures(Struct, frozen=True, kw_only=True):
    """What a summary says of attempts."""

    hedges: int
    retries: int
    wasted_s: float
    wasted_fraction: float | None
    """None where nothing ran."""


def several_attempts(spec: FleetSpec) -> bool:
    """Whether a request of this fleet may have more than one attempt at a time, or a choice of pools to have them in.

    One attempt after another is not enough: what came of those in a fleet of one pool is in its records.
    """
    limited = type(spec.retry).attempt_limit_s is not RetryPolicy.attempt_limit_s
    return bool(spec.pools) or limited or type(spec.hedge) is not NoHedge


def every_attempt(attempts: pa.Table, records: pa.Table, pools: pa.Table) -> pa.Table:
    """`attempts`, and after them the only attempts of requests that completed with one.

    Those have no `sent_s` and no `started_s`, and `ended_s` is when the client had the answer.
    """
    only = records.filter(pa.array(only_attempts(attempts, records)))
    replicas = only["replica"].combine_chunks().dictionary_encode()
    names = [pool_of(name) for name in replicas.dictionary.to_pylist()]
    described = {pool["pool"]: pool for pool in pools.to_pylist()}

    def of_pool(column: str) -> pa.Array:
        known = [described[name][column] if name in described else None for name in names]
        return pa.array(known, pa.string()).take(replicas.indices)

    columns: dict[str, Any] = {  # Any: Arrow arrays
        "request": only["id"],
        "role": pa.repeat("primary", len(only)),
        "attempt": pa.repeat(pa.scalar(1, pa.int32()), len(only)),
        "pool": pa.array(names, pa.string()).take(replicas.indices),
        "version": only["version"] if "version" in only.column_names else of_pool("version"),
        "variant": only["variant"] if "variant" in only.column_names else of_pool("variant"),
        "replica": only["replica"],
        "device": of_pool("device"),
        "ended_s": only["ended_s"],
        "end": pa.repeat("completed", len(only)),
        "service_s": only["service_s"],
        "tokens": only["generated_tokens"],
    }
    cells = [columns.get(field.name, pa.nulls(len(only), field.type)) for field in ATTEMPTS]
    return pa.concat_tables([attempts, pa.table(cells, schema=ATTEMPTS)]).combine_chunks()


def attempt_figures(attempts: pa.Table, records: pa.Table) -> AttemptFigures:
    """Counts, and what was for nothing; work that goes on when the run ends is not that, nor of any use yet."""
    ended = flags(pc.is_valid(attempts["end"]))
    seconds = spent_s(attempts)
    only_s = pc.sum(records["service_s"].filter(pa.array(only_attempts(attempts, records)))).as_py() or 0.0
    wasted_s = float(seconds[ended & ~answers(attempts, records)].sum())
    total_s = float(seconds[ended].sum()) + only_s
    return AttemptFigures(
        hedges=_with_role(attempts, HEDGES),
        retries=_with_role(attempts, ("retry",)),
        wasted_s=wasted_s,
        wasted_fraction=wasted_s / total_s if total_s > 0.0 else None,
    )


def answers(attempts: pa.Table, records: pa.Table) -> Flags:
    """Which attempts became the answer of a completed request: of each, one at most.

    Of several that completed, it is the one of the replica that the record names; a shadow never is.
    """
    rows = requests_of(attempts, records)
    completed = flags(pc.equal(pc.fill_null(records["outcome"], ""), "completed"))
    good = flags(pc.and_(pc.equal(pc.fill_null(attempts["end"], ""), "completed"), decides(attempts)))
    places = np.flatnonzero(good & (rows >= 0))
    places = places[completed[rows[places]]]
    named = records["replica"].take(pa.array(rows[places]))
    own = flags(pc.fill_null(pc.equal(attempts["replica"].take(pa.array(places)), named), False))
    of_request = np.full(len(records), -1)
    for chosen in (places[~own], places[own]):  # the last one that is written for a request stays
        of_request[rows[chosen]] = chosen
    result = np.zeros(len(attempts), dtype=np.bool_)
    result[of_request[of_request >= 0]] = True
    return result


def last_that_decides(attempts: pa.Table, records: pa.Table) -> Integers:
    """For each record, the row of its last attempt that is no shadow; -1 where there is none."""
    rows = requests_of(attempts, records)
    places = np.flatnonzero(flags(decides(attempts)) & (rows >= 0))
    of_request = np.full(len(records), -1)
    of_request[rows[places]] = places
    return of_request


def only_attempts(attempts: pa.Table, records: pa.Table) -> Flags:
    """Which requests completed with a single attempt, shadows apart: those of which no attempt has a row."""
    completed = pc.equal(pc.fill_null(records["outcome"], ""), "completed")
    written = attempts["request"].filter(decides(attempts))
    if not len(written):
        return flags(completed)
    return flags(pc.and_(completed, pc.invert(pc.is_in(records["id"], written.combine_chunks()))))


def requests_of(attempts: pa.Table, records: pa.Table) -> Integers:
    """The row in `records` of each attempt's request; -1 where it is another client's."""
    encoded = attempts["request"].combine_chunks().dictionary_encode()
    # Attempts with rows are few beside requests: it is their ids that are hashed, and those of requests looked for.
    places = pc.index_in(records["id"], encoded.dictionary)
    rows = np.flatnonzero(flags(pc.is_valid(places)))
    of_each = np.full(len(encoded.dictionary), -1, dtype=np.int64)
    of_each[pc.drop_null(places).to_numpy()] = rows
    return np.asarray(of_each[encoded.indices.to_numpy()])


def spent_s(attempts: pa.Table, end_s: float | None = None) -> Floats:
    """Service seconds of each attempt: as its replica said, or else from its dispatch to its end.

    The latter has the wait at the replica's door in it. One that has not ended counts up to `end_s`, or not at all; one
    that was never dispatched took none.
    """
    ended = attempts["ended_s"] if end_s is None else pc.fill_null(attempts["ended_s"], end_s)
    there_s = pc.max_element_wise(pc.subtract(ended, attempts["started_s"]), 0.0, skip_nulls=False)
    seconds = pc.fill_null(pc.coalesce(attempts["service_s"], there_s), 0.0)
    return np.asarray(seconds.to_numpy(), dtype=np.float64)


def began(attempts: pa.Table) -> Flags:
    """Which attempts were dispatched to a replica."""
    ran = pc.greater(pc.fill_null(attempts["service_s"], 0.0), 0.0)
    return flags(pc.or_(ran, pc.is_valid(attempts["started_s"])))


def flags(values: Any) -> Flags:  # Any: an Arrow array of booleans, whose stubs are partial
    """As NumPy has them, to be written to."""
    return np.array(
        values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy()
    )


def decides(attempts: pa.Table) -> Any:  # Any: an Arrow array
    """Which attempts could become the answer: all but shadows."""
    return pc.not_equal(attempts["role"], "shadow")


def _with_role(attempts: pa.Table, roles: Sequence[str]) -> int:
    return pc.sum(pc.is_in(attempts["role"], pa.array(roles))).as_py() or 0
