"""What policies may look at: read-only snapshots with the age of every signal.

A view is valid during the call it is given to. `as_of_s` says when its reported signals were measured;
`in_flight` is exact, because the actor that asks counts it itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

from msgspec import Struct

from traces.schema import Request

ReplicaState = Literal["provisioning", "loading", "warm", "ready", "draining", "stopped", "failed"]
Trust = Literal["healthy", "suspect", "failed"]
ProbeLevel = Literal["live", "ready", "deep"]
ProbeStatus = Literal["ok", "failed", "timeout"]
FailureKind = Literal[
    "replica-lost", "message-lost", "engine-error", "timeout", "unreachable", "overloaded", "withdrawn"
]
"""Why an attempt came to nothing. `message-lost`: it, or its answer, was lost on the way. `withdrawn`: its request
ended first, or it was moved to another replica; no retry policy is asked about that."""


class ReplicaView(Struct, frozen=True, kw_only=True, gc=False):
    """One replica as its observer knows it."""

    id: str
    """Its address, such as ``replica/3``."""
    in_flight: int = 0
    """Attempts sent to it and not yet ended: the observer's own exact count."""
    capacity: int = 1
    """Batches it can still take now (0: full)."""
    weight: float = 1.0
    """Relative speed, as the fleet's specification says."""
    state: ReplicaState = "ready"
    trust: Trust = "healthy"
    ready_since_s: float = 0.0
    as_of_s: float = 0.0
    """When the signals below were reported; what is older than this view is the policy's risk to weigh."""
    busy_fraction: float | None = None
    """Fraction of the last report interval in which its engine ran."""
    gpu_utilization: float | None = None
    """0..1 as the device's own counters say; None where there are none."""
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None


class QueueView(Protocol):
    """A queue of waiting requests."""

    @property
    def oldest_s(self) -> float:
        """When the request that waits longest was queued; only when not empty."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Request]:
        """The waiting requests in the order they were queued."""


class FleetView(Struct, frozen=True, kw_only=True, gc=False):
    """The fleet as the router counts it; every number is exact at the time of the call."""

    in_flight: int = 0
    """Requests let in and not ended."""
    queue_depth: int = 0
    """Those of them that wait for a replica."""
    ready_replicas: int = 0


class PoolView(Struct, frozen=True, kw_only=True):
    """A pool as the autoscaler knows it."""

    name: str = "default"
    ready: int = 0
    warm: int = 0
    starting: int = 0
    """Provisioning or loading."""
    draining: int = 0
    requested: int = 0
    """Replicas asked for and not stopped, failed or draining: starting + warm + ready."""
    min_replicas: int = 1
    max_replicas: int = 1
    queue_depth: int = 0
    oldest_wait_s: float = 0.0
    in_flight: int = 0
    arrivals_per_s: float = 0.0
    """Over the last control interval."""
    completions_per_s: float = 0.0
    busy_fraction: float | None = None
    """Mean over ready replicas of their last report; None before the first."""
    gpu_utilization: float | None = None
    memory_used_fraction: float | None = None
    as_of_s: float = 0.0
    """Age of the oldest report used in the means above."""
    replicas: tuple[ReplicaView, ...] = ()


class ProbeOutcome(Struct, frozen=True, kw_only=True, gc=False):
    """What came of one health probe."""

    replica: str
    level: ProbeLevel
    status: ProbeStatus
    sent_s: float
    round_trip_s: float | None = None
    """None when it timed out."""
    detail: str | None = None


class Failure(Struct, frozen=True, kw_only=True, gc=False):
    """Why an attempt failed."""

    kind: FailureKind
    attempt: int
    """1 for the first."""
    replica: str | None
    detail: str | None = None


class Completion(Struct, frozen=True, kw_only=True, gc=False):
    """How an attempt ended."""

    request: Request
    replica: str
    attempt: int
    failure: FailureKind | None = None
    """None: it completed."""
    service_s: float | None = None
    e2e_s: float | None = None
    """Since the intended arrival."""
