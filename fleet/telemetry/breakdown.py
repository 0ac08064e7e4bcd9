"""The figures of the requests of a run that are alike in something: by version, by model and tenant, by pool.

Two costs are told apart. `cost` is what the requests of a group cost: their shares of the pools that they ran in,
wherever that was. `pool_cost` is what the pools of a group cost, whoever came, and is there where groups are of pools.
Over all groups the two differ by the cost of pools in which nothing ran. By model, a pool that answers for models which
no other names is of the model ``default``, beside the rows of the models that it was asked for; where all pools are
such, groups by model are of no pools.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fleet.pools import DEFAULT, pool_of
from fleet.telemetry.costs import total_cost
from fleet.telemetry.summary import distribution, over, quality_mean

OF_POOLS = ("pool", "model", "version", "variant", "device")
"""What pools say of themselves."""
FIGURES = pa.schema([
    ("requests", pa.int64()), ("completed", pa.int64()), ("error_fraction", pa.float64()),
    ("slo_attainment", pa.float64()), ("e2e_p50_s", pa.float64()), ("e2e_p99_s", pa.float64()),
    ("quality_mean", pa.float64()), ("cost", pa.float64()), ("cost_per_request", pa.float64()),
    ("cost_per_1k_tokens", pa.float64()), ("gpu_seconds", pa.float64()), ("pool_cost", pa.float64()),
])  # fmt: skip
"""`error_fraction`: of the requests that ended, those apart that their clients cancelled, the fraction that did not
complete. Latencies and quality are of completed requests, `slo_attainment` of all that had an objective; a cost per
request, or per 1,000 tokens, is the group's cost over what completed. Null: there is none."""

Group: TypeAlias = tuple[Any, ...]  # Any: texts, numbers, or None
Values: TypeAlias = Any  # an Arrow array, whose stubs are partial


def breakdown(records: pa.Table, pools: pa.Table, columns: Sequence[str]) -> pa.Table:
    """A row for each combination of values of `columns` that there is; pools without requests are there too.

    Pools come in the order in which they were declared, everything else in the order of its values, null last.
    """
    keys = {name: _key(name, records, pools) for name in columns}
    if not keys:
        raise ValueError(f"name at least one column; there are {', '.join(_known(records, pools))}")
    rows_of, pools_of = _grouped(keys), _grouped_pools(pools, columns)
    others = sorted(set(rows_of) - set(pools_of), key=_null_last)
    rows = [
        (*group, *_figures(records.take(rows_of.get(group, NO_ROWS))), *_of_pools(pools_of.get(group)))
        for group in (*pools_of, *others)
    ]
    schema = pa.schema([*((name, values.type) for name, values in keys.items()), *FIGURES])
    cells = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(cells, schema, strict=True)], schema
    )


NO_ROWS = pa.array([], pa.int64())


def _figures(records: pa.Table) -> tuple[float | None, ...]:
    """Those of `FIGURES` that are of requests."""
    outcomes = records["outcome"]
    completed, cancelled = (
        pc.sum(pc.equal(outcomes, name)).as_py() or 0 for name in ("completed", "cancelled")
    )
    judged = len(records) - outcomes.null_count - cancelled
    done = records.filter(pc.equal(outcomes, "completed"))
    e2e_s = distribution(done["e2e_s"])
    cost = None
    if "cost" in records.column_names and not records["cost"].null_count:
        cost = pc.sum(records["cost"]).as_py() or 0.0
    tokens = pc.sum(done["generated_tokens"]).as_py() or 0
    return (
        len(records), completed, (judged - completed) / judged if judged else None,
        pc.mean(records["slo_met"]).as_py(), e2e_s.p50, e2e_s.p99, quality_mean(records),
        cost, over(cost, completed), over(cost, tokens / 1000.0),
    )  # fmt: skip


def _of_pools(pools: pa.Table | None) -> tuple[float | None, float | None]:
    """Those of `FIGURES` that are of pools."""
    return (None, None) if pools is None else (pc.sum(pools["gpu_seconds"]).as_py(), total_cost(pools))


# --- groups ----------------------------------------------------------------------------------------------------


def _grouped(keys: dict[str, Values]) -> dict[Group, pa.Array]:
    """The rows of each combination of values."""
    first = next(iter(keys.values()))
    numbered = pa.table({**keys, "row": pa.array(np.arange(len(first)))})
    grouped = numbered.group_by(list(keys), use_threads=False).aggregate([("row", "list")])
    groups = zip(*(grouped[name].to_pylist() for name in keys), strict=True)
    return {group: rows.values for group, rows in zip(groups, grouped["row_list"], strict=True)}


def _grouped_pools(pools: pa.Table, columns: Sequence[str]) -> dict[Group, pa.Table]:
    """The pools of each combination of values, if these are what pools say of themselves."""
    if not set(columns) <= set(OF_POOLS):
        return {}
    if "model" in columns and set(pools["model"].to_pylist()) <= {DEFAULT}:
        return {}  # all answer for models that they do not name
    return {
        group: pools.take(rows) for group, rows in _grouped({name: pools[name] for name in columns}).items()
    }


def _null_last(group: Group) -> tuple[tuple[bool, Any], ...]:  # Any: see `Group`
    return tuple((value is None, "" if value is None else value) for value in group)


# --- keys ------------------------------------------------------------------------------------------------------


def _key(name: str, records: pa.Table, pools: pa.Table) -> Values:
    """What each request is grouped by."""
    known = _known(records, pools)
    if name not in known:
        raise ValueError(f"{name!r} is nothing to group requests by; there are {', '.join(known)}")
    if name == "model":
        return models_of(records, pools)
    if name == "pool":
        return _pool(records)
    return records[name].combine_chunks() if name in records.column_names else _said(name, records, pools)


def _known(records: pa.Table, pools: pa.Table) -> list[str]:
    """What can be grouped by: what is no measurement, of requests and of pools."""
    measured = [field.name for field in records.schema if pa.types.is_floating(field.type)]
    there = [name for name in records.column_names if name not in (*measured, "id", "detail")]
    return list(dict.fromkeys([*there, "pool", *(OF_POOLS if len(pools) else ())]))


def _pool(records: pa.Table) -> Values:
    """Which pool served each request, or was to; null: none."""
    if "pool" in records.column_names:
        return records["pool"].combine_chunks()
    replicas = records["replica"].combine_chunks().dictionary_encode()
    names = [pool_of(replica) for replica in replicas.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(replicas.indices)


def _said(name: str, records: pa.Table, pools: pa.Table) -> Values:
    """What the pool of each request says of itself; of several that had its name, the last."""
    last = {pool["pool"]: pool[name] for pool in pools.to_pylist()}
    values = pa.array(list(last.values()), pools[name].type)
    return values.take(pc.index_in(_pool(records), pa.array(list(last), pa.string())))


def models_of(records: pa.Table, pools: pa.Table) -> Values:
    """The model that served each request where its pool names one, else the one that was asked for."""
    asked: Values = pa.nulls(len(records), pa.string())
    if "model" in records.column_names:
        asked = records["model"].combine_chunks()
        if "pool" in records.column_names:  # a client may have asked for `model@version`
            asked = pc.list_element(pc.split_pattern(asked, "@", max_splits=1), 0)
    if not len(pools):
        return asked
    served = _said("model", records, pools)
    named = pc.if_else(pc.equal(served, DEFAULT), pa.scalar(None, pa.string()), served)
    return pc.coalesce(named, asked, served)
