"""Fault traces from files, from recordings, and from a seed."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from traces.errors import TraceError
from traces.faults import Fault, FaultKind, FaultTrace
from traces.readers import recorded_faults
from traces.source import Source


def load_faults(
    path: str | Path, *, replicas: int | None = None, time_scale: float = 1.0, notice_s: float = 0.0
) -> FaultTrace:
    """Read a fault trace: our own JSON or TOML, a recording of spot availability, or a log of GPU servers.

    Args:
        path: The file, recognised by its content; gzip and bzip2 are undone.
        replicas: For a recording: how many replicas it is laid onto (see `traces.readers.recorded_faults`).
        time_scale: Multiplies `at_s` and `for_s`; ``1 / 1440`` makes a day a minute.
        notice_s: For spot recordings: the warning before each preemption (they have none; a cloud may give
            120 s).

    Raises:
        TraceError: No such file, or not a fault trace; names the path of the field that is wrong.
    """
    if not 0 < time_scale < math.inf or (replicas is not None and replicas < 1):
        raise TraceError(f"time_scale {time_scale}, replicas {replicas}", remedy="give numbers above 0")
    source = Source(Path(path))
    recorded = recorded_faults.read(source, replicas=replicas, time_scale=time_scale, notice_s=notice_s)
    if recorded is not None:
        return recorded
    own = _decode(source)
    faults = tuple(_scaled(fault, time_scale) for fault in own.faults)
    return msgspec.structs.replace(own, faults=faults)


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
) -> FaultTrace:
    """Independent faults of `replicas` replicas, each an alternating renewal process that begins up.

    Times up are exponential of mean `mtbf_s`, times down exponential of mean `mttr_s` and given as `for_s`;
    in the long run a replica is up for ``mtbf_s / (mtbf_s + mttr_s)`` of the time. Replica k has a random
    stream of its own, so a larger fleet has the same faults and more.

    Args:
        replicas: How many; they are named ``replica/0``, ``replica/1``, ….
        duration_s: No fault starts at or after this.
        mtbf_s: Mean time between a repair and the next fault.
        mttr_s: Mean time to repair.
        seed: Of the streams.
        kind: Of every fault.
        factor: For ``slow``.
        notice_s: For ``preempt``.
    """
    import numpy as np

    if not (0 < mtbf_s < math.inf and 0 < mttr_s < math.inf and math.isfinite(duration_s)):
        remedy = "give finite times above 0"
        raise TraceError(f"mtbf_s {mtbf_s}, mttr_s {mttr_s}, duration_s {duration_s}", remedy=remedy)
    faults: list[Fault] = []
    for number in range(replicas):
        rng = np.random.default_rng([seed, number])
        at_s = rng.exponential(mtbf_s)
        while at_s < duration_s:
            down_s = rng.exponential(mttr_s)
            name = f"replica/{number}"
            faults.append(
                Fault(at_s=at_s, kind=kind, replica=name, for_s=down_s, factor=factor, notice_s=notice_s)
            )
            at_s += down_s + rng.exponential(mtbf_s)
    return FaultTrace(
        faults=tuple(faults), source=f"random_faults, mtbf_s={mtbf_s}, mttr_s={mttr_s}", seed=seed
    )


def _scaled(fault: Fault, time_scale: float) -> Fault:
    if time_scale == 1:
        return fault
    for_s = None if fault.for_s is None else fault.for_s * time_scale
    return msgspec.structs.replace(fault, at_s=fault.at_s * time_scale, for_s=for_s)


def _decode(source: Source) -> FaultTrace:
    text = source.data.lstrip()
    as_json = text.startswith((b"{", b"[{"))
    try:
        decode = msgspec.json.decode if as_json else msgspec.toml.decode
        return decode(source.data, type=FaultTrace)
    except msgspec.MsgspecError as error:
        remedy = 'expected {"faults": [{"at_s": 20.0, "kind": "crash"}]}'
        raise TraceError(f"is not a fault trace: {error}", remedy=remedy, file=source.path) from None
    except ValueError as error:  # how the TOML parser fails
        raise TraceError(f"is neither JSON nor TOML: {error}", file=source.path) from None
