"""Recorded failures of real fleets as fault traces: spot availability, and faults of GPU servers.

A recording names machines and days; an experiment has replicas and minutes. `replicas` bridges the one (here), a time
scale the other, and what each event becomes is said beside each reader. A fault trace has no room for what a recording
says besides: fields that no reader knows, and ends of faults that began before it, are named in the trace's `source`.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from traces.errors import TraceError
from traces.faults import Fault, FaultTrace
from traces.source import Source

DAY_S = 86_400.0
LATEST_DAY = 36_500.0
"""A log of a hundred years has its times in another unit than days."""


class _Spacing(msgspec.Struct):
    gap_seconds: Annotated[float, Meta(gt=0)]


class _Spot(msgspec.Struct):
    metadata: _Spacing
    data: list[Annotated[int, Meta(ge=0)]]


class _Event(msgspec.Struct):
    node_id: str
    event_time: Annotated[float, Meta(ge=0, le=LATEST_DAY)]
    event_type: Literal["fault_start", "fault_end"]
    fault_type: dict[str, str] = {}


def sniff(source: Source) -> bool:
    """Whether a file begins as one of the two recorded formats, or as a fault trace of this project's own."""
    head = source.head[:4096].replace(b" ", b"").replace(b"\n", b"")
    log = head.startswith(b"[{") and b'"event_type":"fault_' in head
    return log or head.startswith((b'{"metadata":{"gap_seconds"', b'{"faults"'))


def read(source: Source, *, replicas: int | None) -> FaultTrace | None:
    """The fault trace of a recorded file, on its own clock; `None` if it is in neither format.

    Raises:
        TraceError: A field of it is missing, of the wrong type or out of bounds; names its path.
    """
    head = source.head[:4096].lstrip()
    try:
        if head.startswith(b"{") and b'"gap_seconds"' in head:
            spot = msgspec.json.decode(source.data, type=_Spot)
            faults, laid = _from_spot(spot, replicas)
            besides = _unknown([msgspec.json.decode(source.data, type=_Fields)], _Spot)
        elif head.startswith(b"[") and b'"event_type"' in head:
            events = msgspec.json.decode(source.data, type=list[_Event])
            faults, laid, ends = _from_events(events, replicas)
            besides = _unknown(msgspec.json.decode(source.data, type=list[_Fields]), _Event)
            if ends:
                besides.append(f"{ends:,} ends of faults that began before it")
        else:
            return None
    except msgspec.MsgspecError as error:
        hint = "; are its times in days?" if f"<= {LATEST_DAY:g}" in str(error) else ""
        raise TraceError(f"{error}{hint}", file=source.path) from None
    left_out = f" (left out: {', '.join(besides)})" if besides else ""
    return FaultTrace(faults=tuple(faults), source=source.path.name + laid + left_out)


_Fields = dict[str, msgspec.Raw]


def _unknown(objects: list[_Fields], kind: type[msgspec.Struct]) -> list[str]:
    """The fields that `kind` does not have, each with how many of the objects have it."""
    count = Counter(name for fields in objects for name in fields if name not in kind.__struct_fields__)
    return [f"{name} of {number:,}" for name, number in sorted(count.items())]


def _from_spot(spot: _Spot, replicas: int | None) -> tuple[list[Fault], str]:
    """The faults, and how the instances were laid on replicas.

    A fall in the number of available instances preempts replicas.

    The most instances ever available stand for `replicas` (default: one each): with `n` of `most` available
    the fleet may have `round(replicas * n / most)`. Each step down is one preemption a replica lost, of
    whichever has been ready longest; a step up ends the earliest of those, and the recording's end the rest.
    """
    most = max(spot.data, default=0)
    fleet = most if replicas is None else replicas
    allowed = [round(fleet * count / most) if most else 0 for count in spot.data]
    gap_s = spot.metadata.gap_seconds
    faults: list[Fault] = []
    ended = 0
    for tick, (before, after) in enumerate(zip([fleet, *allowed], allowed, strict=False)):
        faults += [Fault(at_s=tick * gap_s, kind="preempt") for _ in range(before - after)]
        for _ in range(after - before):
            faults[ended] = _until(faults[ended], tick * gap_s)
            ended += 1
    faults[ended:] = [_until(fault, len(allowed) * gap_s) for fault in faults[ended:]]
    laid = (
        "" if replicas is None else f" (at most {most} instances laid on {replicas} replicas, in proportion)"
    )
    return faults, laid


def _until(fault: Fault, end_s: float) -> Fault:
    return msgspec.structs.replace(fault, for_s=end_s - fault.at_s)


def _from_events(events: list[_Event], replicas: int | None) -> tuple[list[Fault], str, int]:
    """The faults, how the servers were laid on places, and how many ends there are of no fault.

    A server's ``fault_start`` crashes a replica; `for_s` is the time until its ``fault_end``.

    Servers are numbered in the order of their first fault; server k is ``replica/<k mod replicas>``. Without
    `replicas` no replica is named, and the one ready longest is hit. An end belongs to the server's earliest
    open fault of the same type, which only this pairing uses. A fault whose end never came has no `for_s`; one whose
    end has the same stamp has 0.
    """
    number: dict[str, int] = {}
    began: dict[tuple[str, ...], list[int]] = {}
    faults: list[Fault] = []
    ends = 0
    for event in sorted(events, key=lambda event: event.event_time):
        at_s = event.event_time * DAY_S
        open_faults = began.setdefault((event.node_id, *event.fault_type.values()), [])
        if event.event_type == "fault_start":
            server = number.setdefault(event.node_id, len(number))
            open_faults.append(len(faults))
            name = None if replicas is None else f"replica/{server % replicas}"
            faults.append(Fault(at_s=at_s, kind="crash", replica=name))
        elif open_faults:
            index = open_faults.pop(0)
            faults[index] = _until(faults[index], at_s)
        else:
            ends += 1
    laid = "" if replicas is None else f" ({len(number)} servers laid on {replicas} places, k mod {replicas})"
    return faults, laid, ends
