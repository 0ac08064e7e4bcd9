"""What a run's devices cost, pool by pool, and whose requests that was for.

A pool costs what its replicas' devices cost while they hold them, busy or idle. All of it is shared among the requests
that ran there, in proportion to the service seconds of their attempts there, those that came to nothing too: so what
requests cost adds up to what pools cost, and an idle hour is paid for by whoever came. Only the cost of a pool in which
nothing ran is nobody's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fleet.pools import pool_of
from fleet.telemetry.attempts import Floats, Integers, began, only_attempts, requests_of, spent_s
from fleet.telemetry.sink import PoolDescription

POOLS = pa.schema([
    ("pool", pa.string()), ("model", pa.string()), ("version", pa.string()), ("variant", pa.string()),
    ("device", pa.string()), ("cost_per_hour", pa.float64()), ("gpu_seconds", pa.float64()), ("cost", pa.float64()),
])  # fmt: skip


def pools_table(pools: Sequence[PoolDescription], held_s: Sequence[float]) -> pa.Table:
    """What each pool was, for how long its replicas held devices, and what that cost (null: it names no price)."""
    rows = [
        (
            pool.pool, pool.model, pool.version, pool.variant, pool.device, pool.cost_per_hour, seconds,
            None if pool.cost_per_hour is None else seconds * pool.cost_per_hour / 3600.0,
        )
        for pool, seconds in zip(pools, held_s, strict=True)
    ]  # fmt: skip
    columns = zip(*rows, strict=True) if rows else [()] * len(POOLS)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, POOLS, strict=True)], schema=POOLS
    )


def total_cost(pools: pa.Table) -> float | None:
    """What the run cost; None where no pool names a price, or one that names none held a device."""
    unpriced = pc.and_(pc.is_null(pools["cost"]), pc.greater(pools["gpu_seconds"], 0.0))
    if pools["cost"].null_count == len(pools) or pc.any(unpriced).as_py():
        return None
    cost: float = pc.sum(pools["cost"]).as_py()
    return cost


def request_costs(records: pa.Table, attempts: pa.Table, pools: pa.Table, end_s: float) -> pa.Array:
    """What each request cost, in the order of `records`; null where part of it ran at no known price.

    `end_s`: attempts that have not ended ran until then.
    """
    prices = _cost_by_name(pools)
    rows, places, seconds = _usage(records, attempts, list(prices), end_s)
    totals = np.bincount(places, seconds, minlength=len(prices))
    counts = np.bincount(places, minlength=len(prices))
    # Where all took no time, all are alike.
    shares = np.where(
        totals[places] > 0.0, seconds / np.maximum(totals[places], TINY_S), 1.0 / counts[places]
    )
    costs = np.array([np.nan if price is None else price for price in prices.values()], dtype=np.float64)
    of_requests = np.bincount(rows, costs[places] * shares, minlength=len(records))
    return pa.array(of_requests, pa.float64(), mask=np.isnan(of_requests))


def unattributed_cost(records: pa.Table, attempts: pa.Table, pools: pa.Table) -> float | None:
    """What the pools cost in which nothing ran: no request's. None where no pool names a price."""
    prices = {name: price for name, price in _cost_by_name(pools).items() if price is not None}
    _, places, _ = _usage(records, attempts, list(prices), 0.0)
    used = set(places.tolist())
    idle = [price for place, price in enumerate(prices.values()) if place not in used]
    return sum(idle) if prices else None


TINY_S = 1e-300
"""Divides nothing by zero."""


def _cost_by_name(pools: pa.Table) -> dict[str, float | None]:
    """Of all that ever had the name: requests know no more than that."""
    costs: dict[str, float | None] = {}
    for name, cost in zip(pools["pool"].to_pylist(), pools["cost"].to_pylist(), strict=True):
        before = costs.get(name, 0.0)
        costs[name] = None if cost is None or before is None else before + cost
    return costs


def _usage(
    records: pa.Table, attempts: pa.Table, names: list[str], end_s: float
) -> tuple[Integers, Integers, Floats]:
    """Of each attempt that ran in a pool of `names`: its request's row, its pool's place, and its seconds."""
    only, ran = only_attempts(attempts, records), began(attempts)
    alone = records.select(["replica", "service_s"]).filter(pa.array(only))
    rows = np.concatenate([np.flatnonzero(only), requests_of(attempts, records)[ran]])
    places = np.concatenate([_pools_of(alone["replica"], names), _places(attempts["pool"], names)[ran]])
    alone_s = pc.fill_null(alone["service_s"], 0.0).to_numpy()
    seconds = np.concatenate([alone_s, spent_s(attempts, end_s)[ran]])
    known = (rows >= 0) & (places >= 0)
    return rows[known], places[known], seconds[known]


def _pools_of(replicas: pa.ChunkedArray, names: list[str]) -> Integers:
    """The place in `names` of the pool that each replica is of; -1: of none."""
    encoded = replicas.combine_chunks().dictionary_encode()
    pools = [pool_of(replica) for replica in encoded.dictionary.to_pylist()]
    return _places(pa.array(pools, pa.string()).take(encoded.indices), names)


def _places(pools: pa.Array | pa.ChunkedArray, names: list[str]) -> Integers:
    found = pc.fill_null(pc.index_in(pools, pa.array(names, pa.string())), -1)
    return np.asarray(found.to_numpy(), dtype=np.int64)
