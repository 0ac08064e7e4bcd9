"""Operations as recorded data: what somebody does to a running fleet, and when.

An operations trace stands beside a trace of requests as a fault trace does, so that a deploy at 10:05 is part of a
replay. What a `deploy` and a `rollout` say is kept as plain values here; the fleet that they are done to checks them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from traces.names import check_name
from traces.source import Source, decoded
from traces.values import BadValue, checked, fields_of

OperationKind = Literal["deploy", "retire", "scale", "rollout", "promote", "rollback"]
_Count = Annotated[int, Meta(ge=0, le=1_000_000)]

_NEEDS: dict[OperationKind, tuple[str, ...]] = {
    "deploy": ("pool", "spec"),
    "retire": ("pool",),
    "scale": ("pool",),
    "rollout": ("model", "policy"),
    "promote": ("model",),
    "rollback": ("model",),
}
_MAY_HAVE: dict[str, tuple[str, ...]] = {"scale": ("replicas", "min_replicas", "max_replicas")}


class Operation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One operation. Which of the fields matter is said beside each kind; the others must be absent.

    * ``deploy``: start the pool `pool`, whose table is `spec`, as in ``[pools.NAME]`` of a fleet.
    * ``retire``: the pool takes nothing new; what waits there goes elsewhere, what runs ends there.
    * ``scale``: `replicas` (both bounds), or `min_replicas` and `max_replicas`, each by itself or both.
    * ``rollout``: `policy`, a table such as ``{policy = "canary", ...}``, chooses the versions of `model` from now on.
    * ``promote``, ``rollback``: the rollout of `model` goes a stage on, or back for good.

    Raises `BadValue` that names the field of what is missing, out of its bounds, or of another kind.
    """

    at_s: Annotated[float, Meta(ge=0)]
    kind: OperationKind
    pool: str | None = None
    spec: dict[str, Any] | None = None  # Any: TOML values, checked by the fleet
    replicas: _Count | None = None
    min_replicas: _Count | None = None
    max_replicas: _Count | None = None
    model: str | None = None
    policy: dict[str, Any] | None = None  # Any: likewise

    def __post_init__(self) -> None:
        for field in fields_of(type(self)):
            checked(field.type, getattr(self, field.name), field.name)
        needs = _NEEDS[self.kind]
        for name in needs:
            if getattr(self, name) is None:
                raise BadValue(name, f"missing; {self.kind} needs {' and '.join(needs)}")
        may_have = ("at_s", "kind", *needs, *_MAY_HAVE.get(self.kind, ()))
        for name in self.__struct_fields__:
            if name not in may_have and getattr(self, name) is not None:
                raise BadValue(name, f"{self.kind} has no {name}; it has {', '.join(may_have)}")
        if self.pool is not None:
            check_name("pool", self.pool)
        if self.model is not None:
            check_name("model", self.model)
        if self.kind == "scale":
            self._check_scale()

    def _check_scale(self) -> None:
        low, high = self.min_replicas, self.max_replicas
        if self.replicas is None and low is None and high is None:
            raise BadValue("replicas", "missing; scale needs replicas, or min_replicas or max_replicas")
        if self.replicas is not None and (low is not None or high is not None):
            raise BadValue(
                "replicas", "is both bounds at once; give it alone, or min_replicas and max_replicas"
            )
        if low is not None and high is not None and low > high:
            raise BadValue("min_replicas", f"{low} is above max_replicas, {high}")


class OperationsTrace(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operations in the order of their time, and where they come from."""

    operations: tuple[Operation, ...] = ()
    source: str = "hand-written"

    def __post_init__(self) -> None:
        operations = checked(tuple[Operation, ...], self.operations, "operations")
        force_setattr(self, "operations", tuple(sorted(operations, key=lambda item: item.at_s)))


_EXAMPLE = '{"operations": [{"at_s": 20.0, "kind": "retire", "pool": "old"}]}'


def sniff(source: Source) -> bool:
    """Whether a file begins as an operations trace does."""
    return source.head[:4096].replace(b" ", b"").lstrip().startswith((b'{"operations"', b"[[operations]]"))


def load_operations(path: str | Path) -> OperationsTrace:
    """Read an operations trace, JSON or TOML. Raises `TraceError` that names the file and what is wrong in it."""
    source = Source(Path(path), remedy=f"expected {_EXAMPLE}")
    return decoded(source, OperationsTrace, "an operations trace", _EXAMPLE)
