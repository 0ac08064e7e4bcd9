"""Fault traces from files, from recordings, and from a seed."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
from msgspec.structs import replace

from traces.errors import TraceError
from traces.faults import Fault, FaultKind, FaultTrace
from traces.readers import recorded_faults
from traces.source import Source


def load_faults(
    path: str | Path,
    *,
    start_s: float = 0.0,
    time_scale: float = 1.0,
    replicas: int | None = None,
    notice_s: float = 0.0,
) -> FaultTrace:
    """Read a fault trace: our own JSON or TOML, a recording of spot availability, or a log of GPU servers.

    Args:
        path: The file, recognised by its content; gzip and bzip2 are undone.
        start_s: Begin so far into the file, in its own seconds. What began before and is not over then begins at 0,
            with what is left of it; the rest of what came before is left out.
        time_scale: Multiplies `at_s` and `for_s`; ``1 / 1440`` makes a day a minute.
        replicas: How many places it is laid onto (see `traces.readers.recorded_faults`). In a file of our own,
            ``replica/<k>`` becomes ``replica/<k mod replicas>``.
        notice_s: The warning before each preemption that has none, in seconds of the run (recordings have none; a
            cloud may give 120 s).

    What was done is said in the trace's `source`.

    Raises:
        TraceError: No such file, or not a fault trace; names the path of the field that is wrong.
    """
    _demand_sense(start_s, time_scale, replicas, notice_s)
    source = Source(Path(path))
    recorded = recorded_faults.read(source, replicas=replicas)
    trace = _decode(source) if recorded is None else recorded
    if recorded is None and replicas is not None:
        trace = replace(trace, faults=tuple(_laid(fault, replicas) for fault in trace.faults))
    kept = [left for fault in trace.faults if (left := _from(fault, start_s)) is not None]
    scaled = [_scaled(fault, time_scale) for fault in kept]
    noticed = [_noticed(fault, notice_s, shortens=recorded is not None) for fault in scaled]
    said = _said(start_s, time_scale, replicas if recorded is None else None)
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
) -> FaultTrace:
    """Independent faults of `replicas` replicas, each an alternating renewal process that begins up.

    Times up are exponential of mean `mtbf_s`, times down exponential of mean `mttr_s` and given as `for_s`;
    in the long run a place is in order for ``mtbf_s / (mtbf_s + mttr_s)`` of the time (with ``preempt`` a notice
    more). A replica is there for less by the time that it takes to come up. Place k has a random
    stream of its own, so a larger fleet has the same faults and more.

    Args:
        replicas: How many places; they are named ``replica/0``, ``replica/1``, ….
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
            at_s += down_s + rng.exponential(mtbf_s) + (notice_s if kind == "preempt" else 0.0)
    return FaultTrace(
        faults=tuple(faults), source=f"random_faults, mtbf_s={mtbf_s}, mttr_s={mttr_s}", seed=seed
    )


def _demand_sense(start_s: float, time_scale: float, replicas: int | None, notice_s: float) -> None:
    if not 0 < time_scale < math.inf or (replicas is not None and replicas < 1):
        raise TraceError(f"time_scale {time_scale}, replicas {replicas}", remedy="give numbers above 0")
    if not (0 <= start_s < math.inf and 0 <= notice_s < math.inf):
        raise TraceError(f"start_s {start_s}, notice_s {notice_s}", remedy="give finite numbers from 0 up")


def _laid(fault: Fault, replicas: int) -> Fault:
    kind, _, number = (fault.replica or "").partition("/")
    if kind not in ("replica", "place") or not number.isdecimal():
        return fault
    return replace(fault, replica=f"{kind}/{int(number) % replicas}")


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


def _said(start_s: float, time_scale: float, replicas: int | None) -> str:
    parts = [f"from {start_s:,.6g} s on"] if start_s else []
    parts += [f"times multiplied by {time_scale:.6g}"] if time_scale != 1 else []
    parts += [f"laid on {replicas} places, k mod {replicas}"] if replicas is not None else []
    return f" ({', '.join(parts)})" if parts else ""


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
