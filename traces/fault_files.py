"""Fault traces from files, from recordings, and from a seed."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
from msgspec.structs import replace

from traces.errors import TraceError
from traces.faults import Fault, FaultKind, FaultTrace
from traces.names import check_name
from traces.readers import recorded_faults
from traces.source import Source, decoded
from traces.values import BadValue

_EXAMPLE = '{"faults": [{"at_s": 20.0, "kind": "crash"}]}'


def load_faults(
    path: str | Path,
    *,
    start_s: float = 0.0,
    time_scale: float = 1.0,
    replicas: int | None = None,
    pool: str | None = None,
    notice_s: float = 0.0,
) -> FaultTrace:
    """Read a fault trace: our own JSON or TOML, a recording of spot availability, or a log of GPU servers.

    Args:
        path: The file, recognised by its content; gzip and bzip2 are undone.
        start_s: Begin so far into the file, in its own seconds. What began before and is not over then begins at 0,
            with what is left of it; the rest of what came before is left out.
        time_scale: Multiplies `at_s` and `for_s`; ``1 / 1440`` makes a day a minute.
        replicas: How many places it is laid onto (see `traces.readers.recorded_faults`). In a file of our own,
            ``replica/<k>`` becomes ``replica/<k mod replicas>``, and ``replica/<pool>/<k>`` stays within its pool:
            ``replica/<pool>/<k mod replicas>``.
        pool: Whose places those are that are named without a pool: ``replica/<k>`` becomes ``replica/<pool>/<k>``.
        notice_s: The warning before each preemption that has none, in seconds of the run (recordings have none; a
            cloud may give 120 s).

    What was done is said in the trace's `source`.

    Raises:
        TraceError: No such file, or not a fault trace; names the path of the field that is wrong. A `pool`, and no
            place that could be one of it.
    """
    _demand_sense(start_s, time_scale, replicas, notice_s)
    source = Source(Path(path), remedy=f"expected {_EXAMPLE}, or a log of faults")
    recorded = recorded_faults.read(source, replicas=replicas)
    trace = decoded(source, FaultTrace, "a fault trace", _EXAMPLE) if recorded is None else recorded
    faults = trace.faults
    if recorded is None and replicas is not None:
        faults = tuple(_laid(fault, replicas) for fault in faults)
    if pool is not None:
        faults = _in_pool(faults, pool, source.path)
    kept = [left for fault in faults if (left := _from(fault, start_s)) is not None]
    scaled = [_scaled(fault, time_scale) for fault in kept]
    noticed = [_noticed(fault, notice_s, shortens=recorded is not None) for fault in scaled]
    said = _said(start_s, time_scale, replicas if recorded is None else None, pool)
    return replace(trace, faults=tuple(noticed), source=trace.source + said)


def save_faults(faults: FaultTrace, path: str | Path) -> None:
    """Write a fault trace as JSON; `load_faults` gives back an equal one."""
    Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(faults), indent=2) + b"\n")


def random_faults(
    *,
    replicas: int,
    duration_s: float,
    mtbf_s: float,
    mttr_s: float,
    seed: int = 0,
    kind: FaultKind = "crash",
    factor: float = 1.0,
    notice_s: float = 0.0,
    pool: str | None = None,
) -> FaultTrace:
    """Independent faults of `replicas` replicas, each an alternating renewal process that begins up.

    Times up are exponential of mean `mtbf_s`, times down exponential of mean `mttr_s` and given as `for_s`;
    in the long run a place is in order for ``mtbf_s / (mtbf_s + mttr_s)`` of the time (with ``preempt`` a notice
    more). A replica is there for less by the time that it takes to come up. Place k of a pool has a random
    stream of its own, so a larger fleet has the same faults and more, and pools fail independently under one seed.

    Args:
        replicas: How many places; they are named ``replica/0``, ``replica/1``, …, or ``replica/<pool>/0``, ….
        duration_s: No fault starts at or after this.
        mtbf_s: Mean time between a repair and the next fault.
        mttr_s: Mean time to repair.
        seed: Of the streams.
        kind: Of every fault.
        factor: For ``slow``.
        notice_s: For ``preempt``.
        pool: Whose places they are; None: those of a fleet of one pool.
    """
    import numpy as np

    if not (0 < mtbf_s < math.inf and 0 < mttr_s < math.inf and math.isfinite(duration_s)):
        remedy = "give finite times above 0"
        raise TraceError(f"mtbf_s {mtbf_s}, mttr_s {mttr_s}, duration_s {duration_s}", remedy=remedy)
    if pool is not None:
        _demand_pool(pool)
    of_pool = [] if pool is None else [int.from_bytes(pool.encode(), "big")]
    faults: list[Fault] = []
    for number in range(replicas):
        rng = np.random.default_rng([seed, number, *of_pool])
        at_s = rng.exponential(mtbf_s)
        while at_s < duration_s:
            down_s = rng.exponential(mttr_s)
            name = _place(pool, number)
            faults.append(
                Fault(at_s=at_s, kind=kind, replica=name, for_s=down_s, factor=factor, notice_s=notice_s)
            )
            at_s += down_s + rng.exponential(mtbf_s) + (notice_s if kind == "preempt" else 0.0)
    source = f"random_faults, mtbf_s={mtbf_s}, mttr_s={mttr_s}" + ("" if pool is None else f", pool={pool}")
    return FaultTrace(faults=tuple(faults), source=source, seed=seed)


def _demand_sense(start_s: float, time_scale: float, replicas: int | None, notice_s: float) -> None:
    if not 0 < time_scale < math.inf or (replicas is not None and replicas < 1):
        raise TraceError(f"time_scale {time_scale}, replicas {replicas}", remedy="give numbers above 0")
    if not (0 <= start_s < math.inf and 0 <= notice_s < math.inf):
        raise TraceError(f"start_s {start_s}, notice_s {notice_s}", remedy="give finite numbers from 0 up")


def _demand_pool(pool: str) -> None:
    try:
        check_name("pool", pool)
    except BadValue as error:
        raise TraceError(f"pool={pool!r} is not possible", remedy=error.problem) from None


def _place(pool: str | None, number: int, kind: str = "replica") -> str:
    return f"{kind}/{number}" if pool is None else f"{kind}/{pool}/{number}"


def _named(fault: Fault) -> tuple[str, str | None, int] | None:
    """`replica` or `place`, the pool and the number that it names; None: it names no place."""
    if fault.replica is None or fault.replica.startswith("client/"):
        return None
    kind, *pool, number = fault.replica.split("/")
    return kind, pool[0] if pool else None, int(number)


def _laid(fault: Fault, replicas: int) -> Fault:
    """The fault on one of `replicas` places, of the pool that it is of."""
    named = _named(fault)
    if named is None:
        return fault
    kind, pool, number = named
    return replace(fault, replica=_place(pool, number % replicas, kind))


def _in_pool(faults: tuple[Fault, ...], pool: str, file: Path) -> tuple[Fault, ...]:
    """The faults, those of places without a pool being of places of `pool`."""
    _demand_pool(pool)
    moved = tuple(_moved(fault, pool) for fault in faults)
    if faults and not any((named := _named(fault)) and named[1] == pool for fault in moved):
        remedy = "lay a log of servers on its places with replicas; in a file of our own, name replica/0"
        raise TraceError(f"names no place that could be one of pool {pool}", remedy=remedy, file=file)
    return moved


def _moved(fault: Fault, pool: str) -> Fault:
    named = _named(fault)
    if named is None or named[1] is not None:
        return fault
    return replace(fault, replica=_place(pool, named[2], named[0]))


def _from(fault: Fault, start_s: float) -> Fault | None:
    """What is left of it when the trace begins at `start_s`; None: nothing."""
    at_s = fault.at_s - start_s
    if at_s >= 0.0:
        return replace(fault, at_s=at_s) if start_s else fault
    notice_s = fault.notice_s if fault.kind == "preempt" else 0.0
    left_s = (fault.for_s or 0.0) + notice_s + at_s
    if left_s <= 0.0:
        return None
    notice_left_s = max(0.0, notice_s + at_s)
    for_s = None if fault.for_s is None else min(fault.for_s, left_s)
    return replace(fault, at_s=0.0, for_s=for_s, notice_s=notice_left_s)


def _scaled(fault: Fault, time_scale: float) -> Fault:
    if time_scale == 1:
        return fault
    for_s = None if fault.for_s is None else fault.for_s * time_scale
    return replace(fault, at_s=fault.at_s * time_scale, for_s=for_s)


def _noticed(fault: Fault, notice_s: float, *, shortens: bool) -> Fault:
    """With a warning; a recording says when a machine was away, so what is left of that is shorter by the notice."""
    if fault.kind != "preempt" or fault.notice_s or not notice_s:
        return fault
    for_s = fault.for_s
    if for_s is not None and shortens:
        for_s = max(0.0, for_s - notice_s)
    return replace(fault, notice_s=notice_s, for_s=for_s)


def _said(start_s: float, time_scale: float, replicas: int | None, pool: str | None) -> str:
    parts = [f"from {start_s:,.6g} s on"] if start_s else []
    parts += [f"times multiplied by {time_scale:.6g}"] if time_scale != 1 else []
    parts += [f"laid on {replicas} places, k mod {replicas}"] if replicas is not None else []
    parts += [f"laid on pool {pool}"] if pool is not None else []
    return f" ({', '.join(parts)})" if parts else ""
