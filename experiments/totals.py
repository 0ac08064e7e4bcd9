"""The series of a fleet of several pools as one: what all of them had, at every time that any of them looked."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Floats: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]

SUMS = ("starting", "warm", "ready", "draining", "queue_depth", "in_flight")
MEANS = ("busy_fraction", "kv_utilization")
"""Over ready replicas, of the pools that have it."""


def fleet_series(series: pa.Table) -> pa.Table:
    """`time_s`, `SUMS` and `MEANS` of the whole fleet; the series of one pool is that already."""
    if "pool" not in series.column_names:
        return series
    times_s = np.unique(series["time_s"].to_numpy())
    of_pools = [
        _held(series.filter(pc.equal(series["pool"], name)), times_s)
        for name in series["pool"].unique().to_pylist()
    ]
    columns = {name: _sum([pool[name] for pool in of_pools], len(times_s)) for name in SUMS}
    for name in MEANS:
        known = [np.isfinite(pool[name]) for pool in of_pools]
        weights = [np.where(there, pool["ready"], 0.0) for there, pool in zip(known, of_pools, strict=True)]
        values = [np.where(there, pool[name], 0.0) for there, pool in zip(known, of_pools, strict=True)]
        total = _sum(weights, len(times_s))
        weighted = _sum([w * v for w, v in zip(weights, values, strict=True)], len(times_s))
        columns[name] = np.divide(weighted, total, out=np.full(len(times_s), np.nan), where=total > 0.0)
    return pa.table(
        {"time_s": times_s, **{name: pa.array(v, mask=np.isnan(v)) for name, v in columns.items()}}
    )


def _held(pool: pa.Table, times_s: Floats) -> dict[str, Floats]:
    """What one pool last saw at each of `times_s`: nothing before its first look, and after its last one was over."""
    looks_s = pool["time_s"].to_numpy()
    last = np.searchsorted(looks_s, times_s, side="right") - 1
    over_s = looks_s[-1] + (looks_s[-1] - looks_s[-2] if len(looks_s) > 1 else np.inf)
    there = (last >= 0) & (times_s < over_s)
    held = {}
    for name in (*SUMS, *MEANS):
        values = pool[name].to_numpy().astype(float)
        held[name] = np.where(there, values[np.maximum(last, 0)], 0.0 if name in SUMS else np.nan)
    return held


def _sum(parts: list[Floats], length: int) -> Floats:
    return np.sum(parts, axis=0) if parts else np.zeros(length)
