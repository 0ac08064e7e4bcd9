"""One request, as recorded and as a policy sees it.

The schema holds every public serving-trace format without loss. The one thing to know: what a policy
may see is on `Request`; what only the recording knows (the true output length, what the recording system
measured) is on `TraceEntry`. That split *is* the oracle boundary.

Absent is `None`, never 0. Times are float seconds from the start of the trace.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

RequestKind = Literal["online", "batch"]
Provenance = Literal["recorded", "derived", "fitted", "synthetic", "unknown"]
Scalar = str | int | float | bool | None
Seconds = Annotated[float, Meta(ge=0)]
"""A duration."""


class Slo(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Service-level objective of one request; an absent bound is not checked."""

    e2e_s: Seconds | None = None
    ttft_s: Seconds | None = None
    tpot_s: Seconds | None = None


class Request(Struct, frozen=True, array_like=True, gc=False):
    """What the fleet and its policies know of a request. It has no output length, on purpose."""

    id: str
    arrived_s: float
    """Intended arrival, seconds from the start of the trace."""
    prompt_tokens: int | None = None
    blocks: tuple[int, ...] | None = None
    """Hash of each started prompt block of `block_tokens` tokens; equal prefixes share hashes."""
    block_tokens: int | None = None
    session: str | None = None
    turn: int | None = None
    """Position in its session, from 0."""
    parent: str | None = None
    """Id of the request whose answer this one follows."""
    model: str | None = None
    adapter: str | None = None
    tenant: str | None = None
    user: str | None = None
    kind: RequestKind = "online"
    priority: int | None = None
    """A larger number is more urgent; `None` counts as 0."""
    deadline_s: float | None = None
    """Seconds after arrival when an answer stops being useful: the request then expires."""
    slo: Slo | None = None
    work: float | None = None
    """Cost of a request without tokens, relative to an ordinary one (1.0)."""
    extra: dict[str, Scalar] | None = None


class Observed(Struct, frozen=True, array_like=True, gc=False):
    """What the recording system measured; never visible to a policy."""

    queue_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    failed: bool | None = None


class TraceEntry(Struct, frozen=True, array_like=True, gc=False):
    """One row of a trace: the request and what only the recording knows."""

    request: Request
    output_tokens: int | None = None
    observed: Observed | None = None
    think_s: float | None = None
    """Closed-loop sessions: seconds between the parent's answer and this request."""


class Transform(Struct, frozen=True):
    """One step that a trace went through, enough to do it again."""

    name: str
    parameters: dict[str, Scalar] = {}
    seed: int | None = None


class Header(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a trace comes from, as far as that is known: licence, citation and provenance are never guessed."""

    source: str
    licence: str | None = None
    citation: str | None = None
    provenance: Provenance = "unknown"
    offset_s: float = 0.0
    """Time 0 of the trace on the clock of the recording (Unix time where that gives dates): readers shift the first
    arrival to 0, a slice moves it on. A merge of traces that differ in it has 0."""
    transforms: tuple[Transform, ...] = ()
