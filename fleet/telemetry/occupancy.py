"""How long replicas were in which state, and so how long devices were held, by pool, and when how many were ready."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import pyarrow as pa
from msgspec import Struct

from fleet.pools import pool_of
from fleet.telemetry.sink import PoolDescription

OCCUPYING = ("provisioning", "loading", "warm", "ready", "draining")
"""States in which a replica holds its device."""
OVER = ("stopped", "failed")
"""States that nothing comes after: the next replica of that address is another one."""

Changes: TypeAlias = Sequence[tuple[float, str, str]]
"""(time, replica, state), in order."""


class ReplicaRange(Struct, frozen=True):
    """Fewest and most ready replicas at any time of the run."""

    min: int
    max: int


def changes_of(replicas: pa.Table) -> Changes:
    """The rows of a run's table of replicas."""
    return list(zip(*(replicas[name].to_pylist() for name in ("time_s", "replica", "state")), strict=True))


def transitions(rows: Changes, end_s: float) -> dict[str, float]:
    """Seconds spent in each state, over all replicas, up to `end_s`."""
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


def held_s(rows: Changes, end_s: float) -> float:
    """Seconds in which these replicas held a device."""
    spent = transitions(rows, end_s)
    return sum(spent.get(state, 0.0) for state in OCCUPYING)


def held_by_pool_s(rows: Changes, pools: Sequence[PoolDescription], end_s: float) -> list[float]:
    """Seconds in which the replicas of each of `pools` held a device."""
    of_each: list[list[tuple[float, str, str]]] = [[] for _ in pools]
    owners: dict[str, int] = {}
    for number, change in enumerate(rows):
        _, replica, state = change
        if replica not in owners:
            owners[replica] = _owner(replica, number, pools)
        if owners[replica] >= 0:
            of_each[owners[replica]].append(change)
        if state in OVER:
            del owners[replica]
    return [held_s(own, end_s) for own in of_each]


def _owner(replica: str, number: int, pools: Sequence[PoolDescription]) -> int:
    """Which pool a replica is of that is first heard of in row `number`: the last to have had the name; -1: none."""
    name = pool_of(replica)
    had = [place for place, pool in enumerate(pools) if pool.pool == name and pool.since_change <= number]
    return had[-1] if had else -1


def ready_range(rows: Changes, initial: int) -> ReplicaRange:
    """Fewest and most ready replicas, from when the `initial` ones are all there (live, they report one by one)."""
    ready: set[str] = set()
    counts: dict[float, int] = {}
    complete = False
    for time_s, replica, state in rows:
        (ready.add if state == "ready" else ready.discard)(replica)
        complete = complete or len(ready) >= initial
        if complete:
            counts[time_s] = len(ready)
    return ReplicaRange(min=min(counts.values(), default=0), max=max(counts.values(), default=0))
