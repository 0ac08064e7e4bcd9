"""Who may send what to whom, and what it may hold: checked on arrival, for every message from another process.

The one thing to know: a right belongs to the *peer*, never to what a message says of itself. A peer's role comes from
the addresses that it hosts, which its key allows it (`security.py`) and which nobody else has (`membership.py`); only
a connection that we opened ourselves leads to a head.
"""

from __future__ import annotations

import re
import types
import typing
from typing import Annotated, Any, Literal, Union

import msgspec
import numpy as np
from msgspec import Meta, Struct

from fleet.messages import (
    Activate,
    AskLoad,
    BatchesMissing,
    BatchFinished,
    Cancel,
    CancelBatch,
    ConfirmBatches,
    ConfirmRequests,
    Deactivate,
    Drain,
    HostReplica,
    InjectSlowness,
    LoadAnswered,
    Message,
    Operate,
    Operated,
    Probe,
    ProbeAnswered,
    ReplicaReported,
    Reply,
    RequestsConfirmed,
    RunBatch,
    Streamed,
    Submit,
    TokensGenerated,
)
from fleet.runtime.wire import text_of

Role = Literal["head", "host", "replica", "client", "operator"]
Kind = Literal[
    "router", "batcher/", "health", "observers", "operator", "host/", "replica/", "client/", "operator/"
]
"""What an address is of: all of it, or where a name follows, the part up to its first slash."""

ROLES: tuple[Role, ...] = ("head", "host", "replica", "client", "operator")


class Right(Struct, frozen=True):
    """The one role that may send a message, and the one kind of address that it may be sent to."""

    sender: Role
    receiver: Kind
    own: str | None = None
    """The field that must hold the sender's own address."""


RIGHTS: dict[type[Message], Right] = {
    # A client acts on its own requests.
    Submit: Right("client", "router", own="reply_to"),
    Cancel: Right("client", "router", own="reply_to"),
    ConfirmRequests: Right("client", "router", own="reply_to"),
    # A replica reports itself.
    ReplicaReported: Right("replica", "observers", own="replica"),
    BatchFinished: Right("replica", "batcher/", own="replica"),
    BatchesMissing: Right("replica", "batcher/", own="replica"),
    TokensGenerated: Right("replica", "router", own="replica"),
    ProbeAnswered: Right("replica", "health", own="replica"),
    LoadAnswered: Right("replica", "router", own="replica"),
    # Only the head commands.
    RunBatch: Right("head", "replica/"),
    CancelBatch: Right("head", "replica/"),
    ConfirmBatches: Right("head", "replica/"),
    Activate: Right("head", "replica/"),
    Deactivate: Right("head", "replica/"),
    Drain: Right("head", "replica/"),
    Probe: Right("head", "replica/"),
    AskLoad: Right("head", "replica/"),
    InjectSlowness: Right("head", "replica/"),
    HostReplica: Right("head", "host/"),
    # Only the head answers.
    Reply: Right("head", "client/"),
    Streamed: Right("head", "client/"),
    RequestsConfirmed: Right("head", "client/"),
    # An operator changes the fleet.
    Operate: Right("operator", "operator", own="reply_to"),
    Operated: Right("head", "operator/"),
}
"""All that may come from another process; what is not here may not."""

_THE = {
    "head": "the head", "host": "a host", "replica": "a replica", "client": "a client", "operator": "an operator",
}  # fmt: skip


def refusal(role: str, sender: str, to: str, message: Message) -> str | None:
    """Why a message from `sender`, whose peer has this role, is refused; None when it may be delivered."""
    right = RIGHTS.get(type(message))
    if right is None:
        return "no process may send it to another"
    if right.sender != role:
        return f"only {_THE[right.sender]} may send it, and this is {_THE.get(role, role)}"
    receiver = right.receiver
    if to != receiver and not (receiver[-1] == "/" and to.startswith(receiver)):
        name = "NAME" if receiver[-1] == "/" else ""
        return f"it is not for {text_of(to)!r}, only for {receiver}{name}"
    if right.own is not None and getattr(message, right.own) != sender:
        return f"its {right.own} is {text_of(getattr(message, right.own))!r}, not its sender"
    return fault(message)


# --- addresses -------------------------------------------------------------------------------------------------

_ADDRESS = re.compile(
    r"(?P<role>client|host|operator)/(?!/)[^\s\x00-\x1f\x7f]{1,255}|"
    r"replica/(?:(?!default/)[A-Za-z0-9][A-Za-z0-9._-]{0,62}/)?(?:0|[1-9][0-9]{0,17})"
)
"""A replica of the pool `default` has no pool in its address: an actor has one address, not two."""


def role_of(address: str) -> str | None:
    """The role of who hosts this address; None where no peer may host it: it is the head's, or not an address."""
    match = _ADDRESS.fullmatch(address)
    return None if match is None else match["role"] or "replica"


# --- values ----------------------------------------------------------------------------------------------------

MOST_TOKENS = 100_000_000
"""Of one request: ten times the longest context there is."""
LONGEST_S = 1e9
"""Of any duration: 30 years."""
MOST_TEXT = 1_024
"""Characters of an id or a name."""
MOST_SAID = 1 << 20
"""Characters of a detail or an error."""

_Bounds = dict[str, Any]  # Any: keyword arguments of `Meta`

_BY_FIELD: dict[str, _Bounds] = {
    "Request.arrived_s": {"ge": -1e12, "le": 1e12},
    "Request.work": {"ge": 0.0, "le": 1e6},
    "Request.block_tokens": {"ge": 1, "le": MOST_TOKENS},
    "Request.priority": {"ge": -(2**31), "le": 2**31},
    "Request.turn": {"ge": 0, "le": 2**31},
    "TokenSignals.waiting_tokens": {"ge": 0, "le": 2**60},  # of all together
    "ReplicaReported.weight": {"gt": 0.0, "le": 1e9},
    "ReplicaReported.max_inflight_batches": {"ge": 1, "le": 1_000_000},
    "BatchFinished.quality": {"ge": 0.0, "le": 1.0},
    "AskLoad.waiting": {"ge": 0, "le": 2**31},
    "LoadAnswered.in_flight": {"ge": 0, "le": 2**31},
    "Timing.batch_size": {"ge": 0, "le": 1_000_000},
    "Timing.prefills": {"ge": 0, "le": 1_000_000},
    "Timing.decodes": {"ge": 0, "le": 1_000_000},
    "Timing.tokens": {"ge": 0, "le": MOST_TOKENS},
    "Timing.prefill_tokens": {"ge": 0, "le": 2**60},  # of all sequences of a step together, and the next two
    "Timing.prefill_context_tokens": {"ge": 0, "le": 2**60},
    "Timing.decode_context_tokens": {"ge": 0, "le": 2**60},
    "Reply.quality": {"ge": 0.0, "le": 1.0},
    "InjectSlowness.factor": {"ge": 0.0, "le": 1e6},
    "Operate.operation": {"max_length": MOST_SAID},
}
"""Where the unit does not say it."""
_BY_UNIT: dict[str, _Bounds] = {
    "_s": {"ge": 0.0, "le": LONGEST_S},
    "_tokens": {"ge": 0, "le": MOST_TOKENS},
    "_blocks": {"ge": 0, "le": 2**48},
    "_bytes": {"ge": 0, "le": 2**60},
    "_fraction": {"ge": 0.0, "le": 1.0 + 1e-6},
    "_utilization": {"ge": 0.0, "le": 1.0 + 1e-6},
    "detail": {"max_length": MOST_SAID},
    "error": {"max_length": MOST_SAID},
}
_BY_TYPE: dict[type, _Bounds] = {
    float: {"ge": -1e300, "le": 1e300},  # so neither infinite nor NaN, which is in no range
    int: {"ge": -(2**63), "le": 2**63 - 1},
    str: {"max_length": MOST_TEXT},
}


def _bounds(cls: str, name: str, kind: type) -> _Bounds:
    """What this field of this struct may hold, where it is a number or text."""
    special = _BY_FIELD.get(f"{cls}.{name}")
    if special is not None:
        return special
    for unit, bounds in _BY_UNIT.items():
        if name.endswith(unit) and ("max_length" in bounds) == (kind is str):
            return bounds
    return _BY_TYPE[kind]


def _bounded(annotation: Any, cls: str, name: str) -> Any:  # Any: whatever a field's type may be
    """A field's type with the bounds that its name and unit give it; what needs none is `Any`, and not looked at."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:  # the unit's bounds say as much, and more
        annotation, origin = arguments[0], None
    if annotation in _BY_TYPE or (f"{cls}.{name}" in _BY_FIELD and annotation is bytes):
        return Annotated[annotation, Meta(**_bounds(cls, name, annotation))]
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return _twin(annotation)
    if origin in (Union, types.UnionType):
        alternatives = tuple(_bounded(item, cls, name) for item in arguments)
        return Any if Any in alternatives else Union[alternatives]  # noqa: UP007  # made at run time
    if origin is dict:
        return dict[_bounded(arguments[0], cls, name), _bounded(arguments[1], cls, name)]  # type: ignore[misc]
    if origin in (list, tuple):
        item = arguments[0]
        # The decoder has seen to it that an integer is one of 64 bits, and more is asked of none of these.
        return Any if item is int else list[_bounded(item, cls, name)]  # type: ignore[misc]
    return Any if annotation in (np.ndarray, bytes) else annotation


_TWINS: dict[type[Struct], type[Struct]] = {}


def _twin(cls: type[Struct]) -> type[Struct]:
    """The same fields with bounds. The classes themselves have none: they are made in every hot path."""
    if cls not in _TWINS:
        fields = msgspec.structs.fields(cls)
        _TWINS[cls] = msgspec.defstruct(
            cls.__name__,
            [(field.name, _bounded(field.type, cls.__name__, field.name)) for field in fields],
            gc=False,
        )
    return _TWINS[cls]


_CHECKED: dict[type[Message], type[Struct]] = {kind: _twin(kind) for kind in RIGHTS}
_convert = msgspec.convert


def fault(message: Message) -> str | None:
    """What of a message's values cannot be, with its path; None when all may be."""
    try:
        _convert(message, _CHECKED[type(message)], from_attributes=True)
    except msgspec.ValidationError as error:
        said, _, path = str(error).partition(" - at ")
        return f"{path.strip('`') or '$'}: {said[0].lower()}{said[1:]}"
    return None
