"""The figures of the requests of a run that are alike in something: by version, by model and tenant, by pool.

Two costs are told apart. `cost` is what the requests of a group cost: their shares of the pools that they ran in,
wherever that was. `pool_cost` is what the pools of a group cost, whoever came, and is there where groups are of pools.
Over all groups the two differ by the cost of pools in which nothing ran. By model, a pool that answers for models which
no other names is of the model ``default``, beside the rows of the models that it was asked for; where all pools are
such, groups by model are of no pools.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from fleet.pools import DEFAULT
from fleet.telemetry.costs import total_cost
from fleet.telemetry.groups import OF_POOLS, Group, keys_of, null_last, rows_by_group
from fleet.telemetry.summary import cost_of, distribution, over, quality_mean

FIGURES = pa.schema([
    ("requests", pa.int64()), ("completed", pa.int64()), ("error_fraction", pa.float64()),
    ("slo_attainment", pa.float64()), ("e2e_p50_s", pa.float64()), ("e2e_p99_s", pa.float64()),
    ("quality_mean", pa.float64()), ("cost", pa.float64()), ("cost_per_request", pa.float64()),
    ("cost_per_1k_tokens", pa.float64()), ("gpu_seconds", pa.float64()), ("pool_cost", pa.float64()),
])  # fmt: skip
"""`error_fraction`: of the requests that ended, those apart that their clients cancelled, the fraction that did not
complete. Latencies and quality are of completed requests, `slo_attainment` of all that had an objective; a cost per
request, or per 1,000 tokens, is the group's cost over what completed. Null: there is none."""


def breakdown(records: pa.Table, pools: pa.Table, columns: Sequence[str]) -> pa.Table:
    """A row for each combination of values of `columns` that there is; pools without requests are there too.

    Pools come in the order in which they were declared, everything else in the order of its values, null last.
    """
    keys = keys_of(columns, records, pools)
    rows_of, pools_of = rows_by_group(keys), _pools_by_group(pools, columns)
    others = sorted(set(rows_of) - set(pools_of), key=null_last)
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
    cost = cost_of(records)
    tokens = pc.sum(done["generated_tokens"]).as_py() or 0
    return (
        len(records), completed, (judged - completed) / judged if judged else None,
        pc.mean(records["slo_met"]).as_py(), e2e_s.p50, e2e_s.p99, quality_mean(records),
        cost, over(cost, completed), over(cost, tokens / 1000.0),
    )  # fmt: skip


def _of_pools(pools: pa.Table | None) -> tuple[float | None, float | None]:
    """Those of `FIGURES` that are of pools."""
    return (None, None) if pools is None else (pc.sum(pools["gpu_seconds"]).as_py(), total_cost(pools))


def _pools_by_group(pools: pa.Table, columns: Sequence[str]) -> dict[Group, pa.Table]:
    """The pools of each combination of values, if these are what pools say of themselves."""
    if not set(columns) <= set(OF_POOLS):
        return {}
    if "model" in columns and set(pools["model"].to_pylist()) <= {DEFAULT}:
        return {}  # all answer for models that they do not name
    return {
        group: pools.take(rows)
        for group, rows in rows_by_group({name: pools[name] for name in columns}).items()
    }
