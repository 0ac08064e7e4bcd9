"""Faults as recorded data: what goes wrong, to whom, when.

A fault trace is replayed like a request trace. The simulated runtime and the live one (signals to real
processes) inject the same file, so a failure that mattered can be studied again.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from traces.names import POOL
from traces.values import BadValue, checked, fields_of

_STRIKABLE = re.compile(rf"(replica|place)/({POOL}/)?(0|[1-9][0-9]{{0,8}})|client/\S+")
"""A place, of a pool or of the one that has no name; or a client that is to be cut off."""

FaultKind = Literal["crash", "hang", "slow", "partition", "drop", "fail-load", "preempt"]


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault. Which of the optional fields matter is said beside each.

    * ``crash``: the replica's process dies (SIGKILL). With `for_s` its place is out of order for so long: no replica
      can come up there, and the fleet has room for one fewer. Without, it can be replaced at once.
    * ``hang``: it stops (SIGSTOP), and continues after `for_s` if given.
    * ``slow``: its batches take `factor` times as long, for `for_s`.
    * ``partition``: no message to or from it passes, for `for_s`.
    * ``drop``: each message to or from it is lost with `probability`, for `for_s`.
    * ``fail-load``: the next replica to load (or the one named) fails to load its engine.
    * ``preempt``: it is told to drain, and killed `notice_s` later. With `for_s` its place is out of order from the
      notice on, until `for_s` after the kill.

    Raises `BadValue` that names the field of what is out of its bounds, or not finite.
    """

    at_s: Annotated[float, Meta(ge=0)]
    kind: FaultKind
    replica: str | None = None
    """A place, such as ``replica/0`` or ``place/0``: whoever holds it at `at_s` is hit, replica 0 or what succeeded
    it. A fleet has as many places as it may have replicas; ``replica/<n>`` with a number beyond them is the place
    which that replica held first. Each pool has places of its own: ``replica/large/0`` or ``place/large/0`` is one of
    pool `large`, and without a pool it is one of the pool ``default``. `None`: the replica of all pools that has been
    ready longest; while none is, an outage (``crash`` or ``preempt`` with `for_s`) is one of the lowest place in order
    of the first pool that has one."""
    for_s: Annotated[float, Meta(ge=0)] | None = None
    """How long it lasts; 0 is over at once (within the clock of a recording), `None` says of no end: of a crash or
    preemption, that what was lost is replaced as fast as a replica can start."""
    factor: Annotated[float, Meta(ge=1)] = 1.0
    probability: Annotated[float, Meta(ge=0, le=1)] = 1.0
    notice_s: Annotated[float, Meta(ge=0)] = 0.0

    def __post_init__(self) -> None:
        for field in fields_of(type(self)):
            checked(field.type, getattr(self, field.name), field.name)
        if self.replica is not None and _STRIKABLE.fullmatch(self.replica) is None:
            raise BadValue(
                "replica",
                f"{self.replica!r} is no place; write replica/0, place/0, replica/POOL/0, or client/NAME",
            )


class FaultTrace(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Faults in the order of their time, and where they come from."""

    faults: tuple[Fault, ...] = ()
    source: str = "hand-written"
    seed: int | None = None

    def __post_init__(self) -> None:
        faults = checked(tuple[Fault, ...], self.faults, "faults")
        force_setattr(self, "faults", tuple(sorted(faults, key=lambda fault: fault.at_s)))
