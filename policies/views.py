"""What policies may look at: read-only snapshots with the age of every signal.

A view is valid during the call it is given to. `as_of_s` says when its reported signals were measured;
`in_flight` is exact, because the actor that asks counts it itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, Protocol

from msgspec import Struct

from traces.schema import Request as Request  # noqa: PLC0414  # `policies` exports it among the views

ReplicaState = Literal["provisioning", "loading", "warm", "ready", "draining", "stopped", "failed"]
Trust = Literal["healthy", "suspect", "failed"]
ProbeLevel = Literal["live", "ready", "deep"]
ProbeStatus = Literal["ok", "failed", "timeout"]
FailureKind = Literal[
    "replica-lost",
    "message-lost",
    "engine-error",
    "refused",
    "unreachable",
    "overloaded",
    "withdrawn",
    "timed-out",
]
"""Why an attempt came to nothing. `message-lost`: it, or its answer, was lost on the way. `refused`: its replica can
never serve it, such as a prompt longer than the cache. `withdrawn`: its request ended first, or another attempt was
heard first, or it was moved to another replica; no retry policy is asked about that. `timed-out`: it took longer than
the retry policy gives one attempt."""
Role = Literal["primary", "retry", "hedge", "tied", "shadow", "escalation", "handover"]
"""What an attempt is for. `primary`: the first. `retry`: after one that failed. `hedge`: beside one that is slow.
`tied`: beside one that waits, and withdrawn when that begins to run, or the other way round. `shadow`: its answer is
recorded and dropped. `escalation`: after an answer that was not good enough. `handover`: goes on decoding where another
one prefilled."""
Outcome = Literal["completed", "rejected", "shed", "expired", "failed", "cancelled"]
"""How a request ends; there is no other way."""


class TokenSignals(Struct, frozen=True, array_like=True, gc=False):
    """What a replica that serves token by token reports of itself."""

    waiting: int = 0
    """Sequences without a place in the batch."""
    running: int = 0
    waiting_tokens: int = 0
    """Tokens that the waiting ones have yet to prefill."""
    used_blocks: int = 0
    """Key-value blocks that sequences hold."""
    cached_blocks: int = 0
    """Blocks that nobody holds, kept for reuse until evicted."""
    total_blocks: int = 0
    block_tokens: int = 0
    """Tokens in each of these blocks; 0: not reported."""

    @property
    def kv_utilization(self) -> float:
        """Used blocks over all, 0..1."""
        return self.used_blocks / self.total_blocks if self.total_blocks else 0.0


class ReplicaView(Struct, frozen=True, kw_only=True, gc=False):
    """One replica as its observer knows it."""

    id: str
    """Its address, such as ``replica/3``; of a pool with a name ``replica/large/3``."""
    in_flight: int = 0
    """Attempts sent to it and not yet ended: the observer's own exact count."""
    capacity: int = 1
    """Batches it can still take (0: full): the batcher's own exact count."""
    weight: float = 1.0
    """Relative speed among the replicas of its pool, as the fleet's specification makes it (`weights`)."""
    state: ReplicaState = "ready"
    trust: Trust = "healthy"
    ready_since_s: float = 0.0
    as_of_s: float = 0.0
    """When the signals below were reported; what is older than this view is the policy's risk to weigh."""
    busy_fraction: float | None = None
    """Fraction of the time in which its engine ran: between its last two reports; in a `PoolView`, since the policy
    was last asked."""
    gpu_utilization: float | None = None
    """0..1 as the device's own counters said in its last report; None where there are none."""
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    tokens: TokenSignals | None = None
    """None: it serves whole requests, or has not reported."""
    pool: str = "default"
    device: str | None = None
    """What it runs on, as its pool says; None: it does not say."""
    cost_per_hour: float | None = None
    """Of its device; None: its pool names no price."""
    expected_service_s: float | None = None
    """What one ordinary request takes it, alone, as its engine's latency model says, with its `weight` in it; None
    where there is none."""
    zone: str | None = None
    """Where it is, as its pool says; None: it does not say."""


class ReplicaLoad(Struct, frozen=True, kw_only=True, gc=False):
    """What a replica answered when it was asked for its load."""

    replica: str
    in_flight: int
    """Attempts that it had, or that waited for it alone, when it answered: from whomever."""
    latency_s: float | None
    """Median time that the last attempts took from coming to it to their end; None: none has ended there yet."""
    asked_s: float
    """When it was asked."""


class QueueView(Protocol):
    """A queue of waiting requests."""

    @property
    def oldest_s(self) -> float:
        """When the request that waits longest was queued; only when not empty."""

    def queued_s(self, request_id: str) -> float:
        """When this one was queued. Raises `KeyError` where it does not wait here."""

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
    delayed: int = 0
    """Requests that admission has told to wait, and that are not let in yet."""


class Latencies(Struct, frozen=True, gc=False):
    """Latencies of the requests that completed in an interval, from their intended arrivals."""

    values_s: tuple[float, ...] = ()
    """One for each, in the order they ended."""

    @property
    def count(self) -> int:
        return len(self.values_s)

    @property
    def mean(self) -> float | None:
        """None where nothing completed."""
        return math.fsum(self.values_s) / len(self.values_s) if self.values_s else None

    def quantile(self, share: float) -> float | None:
        """Linear interpolation between the values around it; `share` 0.99 is the 99th percentile. O(n log n)."""
        if not self.values_s:
            return None
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"a quantile is a share from 0 to 1, not {share:g}")
        ordered = sorted(self.values_s)
        place = share * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    @property
    def p50(self) -> float | None:
        return self.quantile(0.50)

    @property
    def p90(self) -> float | None:
        return self.quantile(0.90)

    @property
    def p99(self) -> float | None:
        return self.quantile(0.99)


NO_LATENCIES = Latencies()


class PoolView(Struct, frozen=True, kw_only=True):
    """A pool as the autoscaler knows it.

    Demand is what the router counts, where requests come in: a request counts once, however often it is held, moved or
    tried again. Capacity is what the replicas' engines did. *The interval* is the time since the policy was last
    asked; what has no other time is of now.
    """

    name: str = "default"
    interval_s: float = 0.0
    """Length of the interval; 0 when asked for the first time."""
    ready: int = 0
    warm: int = 0
    starting: int = 0
    """Provisioning or loading."""
    draining: int = 0
    """Told to end, or given notice by their host, or given up, and not gone yet."""
    requested: int = 0
    """Replicas asked for and not stopped, failed or draining: starting + warm + ready."""
    desired: int | None = None
    """Replicas that the scaling policy has just asked for, within the bounds: for the warm pool's policy, which is
    asked after it. None: it has not been asked."""
    min_replicas: int = 1
    max_replicas: int = 1
    queue_depth: int = 0
    """Requests let in that wait, wherever they do: those that no replica has, and token by token those without a place
    in a replica's batch, as it last reported."""
    oldest_wait_s: float = 0.0
    """Of those that no replica has, for how long the first one has been in, from its intended arrival."""
    in_flight: int = 0
    """Requests let in and not ended."""
    queue_depth_mean: float = 0.0
    """Time average of `queue_depth` over the interval."""
    in_flight_mean: float = 0.0
    """Time average of `in_flight` over the interval."""
    arrivals_per_s: float = 0.0
    """Requests let in during the interval."""
    completions_per_s: float = 0.0
    """Requests that completed in the interval."""
    ends_per_s: float = 0.0
    """Requests that ended in the interval, well or badly."""
    ttft_s: Latencies = NO_LATENCIES
    """To the first output token, of the requests that completed in the interval; to the reply, where whole requests
    are answered."""
    e2e_s: Latencies = NO_LATENCIES
    """To the reply, of the requests that completed in the interval."""
    attainment: float | None = None
    """Of the requests that ended in the interval, however they did, and had an objective, the fraction that met it;
    None where there was none."""
    busy_fraction: float | None = None
    """Engine seconds over ready seconds in the interval, of the replicas that are ready; None where there are none."""
    gpu_utilization: float | None = None
    """Mean of what the devices of ready replicas reported during the interval, for their counters know no integral."""
    memory_used_fraction: float | None = None
    """Mean over ready replicas, by their last reports."""
    kv_utilization: float | None = None
    """Likewise, over those that serve token by token."""
    kv_utilization_mean: float | None = None
    """Mean of all that these reported during the interval."""
    as_of_s: float = 0.0
    """When the oldest of the last reports of ready replicas was made."""
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
    completions: int = 0
    """Requests that have completed since the run began: what a budget of retries is reckoned from."""


class Completion(Struct, frozen=True, kw_only=True, gc=False):
    """How an attempt ended."""

    request: Request
    replica: str
    attempt: int
    failure: FailureKind | None = None
    """None: it completed."""
    service_s: float | None = None
    e2e_s: float | None = None
    """Since the intended arrival; on a replica, since it came there."""
    ttft_s: float | None = None
    """Likewise, to its first token; None before one, and when the engine answers whole requests."""
    output_tokens: int | None = None
    """Tokens that were generated, by a failed attempt too where that is known, those of an attempt that it resumed
    included; None when the engine answers whole requests."""
    resumed_tokens: int = 0
    """Of them, those of an earlier attempt."""
    role: Role = "primary"
    pool: str = "default"
    version: str = "1"
    variant: str = "default"
    """Of the pool that it was sent to."""
    quality: float | None = None
    """How good the answer is, 0..1; None where nobody can say."""


class BatchCompletion(Struct, frozen=True, kw_only=True, gc=False):
    """How a batch ended: the requests that were dispatched together, whether or not each was still wanted."""

    replica: str
    requests: tuple[Request, ...]
    service_s: float | None
    """How long the engine ran it, on the replica's clock; None: it did not run to its end. Token by token, where
    its attempts end one by one: the longest of theirs."""
    elapsed_s: float
    """From its dispatch to the end of its last attempt, waiting at the replica's door included."""
    failure: FailureKind | None = None
    """None: at least one of its attempts completed."""

    @property
    def size(self) -> int:
        """How many ran together."""
        return len(self.requests)


class StepCompletion(Struct, frozen=True, kw_only=True, gc=False):
    """A step of continuous batching that ran, or several in a row that were alike (see `Step.repeat`)."""

    replica: str
    prefill_tokens: int
    """Prompt tokens, or tokens computed anew, in it."""
    decodes: int
    """Sequences that got one token each in each of the steps."""
    service_s: float
    """What the steps took together, on the replica's clock."""
    steps: int = 1


class Ending(Struct, frozen=True, kw_only=True, gc=False):
    """How a request that was let in ended, after all its attempts; it may have had none."""

    request: Request
    outcome: Outcome
    attempts: int
    e2e_s: float
    """Since the intended arrival."""
    ttft_s: float | None = None
    """Likewise, to its first token; None before one, and when the engine answers whole requests."""
    output_tokens: int | None = None
    """Tokens of its answer; None when it has none, or when the engine answers whole requests."""
    pool: str = "default"
    version: str = "1"
    variant: str = "default"
    """What served it, or was to serve it when it ended."""
    quality: float | None = None
    """How good its answer is, 0..1; None when it has none, or where nobody can say."""
    slo_met: bool | None = None
    """Whether it met its objectives, the fleet's where it brought none; None where there are none."""


class AttemptView(Struct, frozen=True, kw_only=True, gc=False):
    """One live attempt at a request, as the router knows it."""

    role: Role
    replica: str
    pool: str
    sent_s: float
    """When the router sent it to wait there."""
    started_s: float | None = None
    """When it was dispatched to the replica itself; None: it waits."""
    first_token: bool = False


class AnswerView(Struct, frozen=True, kw_only=True, gc=False):
    """A good answer that the client has not been given yet."""

    variant: str
    replica: str
    e2e_s: float
    """Since the intended arrival."""
    quality: float | None = None
    """0..1; None where nobody can say."""
    output_tokens: int | None = None
    """None when the engine answers whole requests."""


class ServedView(Struct, frozen=True, kw_only=True, gc=False):
    """What is known of one version of a model, or of one variant of a version, over all pools that serve it.

    Counts are exact at the time of the call. What has no other time is of the *window*: requests that ended between the
    last two looks, one `control_interval_s` apart at least; a look is taken when a policy is asked.
    """

    model: str
    ready: int = 0
    """Replicas that may be chosen now."""
    in_flight: int = 0
    """Requests let in for it and not ended."""
    queue_depth: int = 0
    """Those of them that wait for a replica."""
    completions: int = 0
    """Requests that it has ever completed, and..."""
    failures: int = 0
    """...that it was to serve and that ended any other way, cancelled by their clients apart."""
    e2e_s: Latencies = NO_LATENCIES
    """Of requests that completed in the window, from their intended arrivals."""
    ttft_s: Latencies = NO_LATENCIES
    """Likewise, to the first output token; to the reply, where whole requests are answered."""
    error_fraction: float | None = None
    """Of the requests that ended in the window, those that did not complete; None where none ended."""
    attainment: float | None = None
    """Of those that had an objective, the fraction that met it; None where there was none."""
    quality: float | None = None
    """Mean over the last 500 of its answers that were rated, what its pools say counting as 50 of them; None: nobody
    says anything. A window alone may have three answers, whose mean is chance."""
    cost_per_hour: float | None = None
    """Of one of its replicas, the dearest; None: no price is named."""
    expected_service_s: float | None = None
    """See `ReplicaView`; the smallest of its pools."""
    as_of_s: float = 0.0
    """When the last request of the window ended; where none did, when the last look was taken."""


class VersionView(ServedView, frozen=True, kw_only=True, gc=False):
    """One version of a model, as a rollout policy sees it."""

    version: str


class VariantView(ServedView, frozen=True, kw_only=True, gc=False):
    """One variant of the version that was chosen, as a variants policy sees it."""

    variant: str
    version: str = "1"
    """Of which it is one: variants of several versions may bear one name."""
    capabilities: tuple[str, ...] = ()
    """What its pools say that it can do."""


class SequenceView(Protocol):
    """One request on a replica that serves token by token. Valid, and to be read only, during the call."""

    @property
    def id(self) -> int:
        """Its number on this replica, in the order of arrival: what a `Step` names it by."""

    @property
    def request(self) -> Request: ...

    @property
    def queued_s(self) -> float:
        """When it came to this replica."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def generated_tokens(self) -> int:
        """Output tokens so far, those of an earlier attempt that it resumes included."""

    @property
    def total_tokens(self) -> int:
        """Prompt and generated."""

    @property
    def computed_tokens(self) -> int:
        """Of `total_tokens`, those whose keys and values are in the cache; 0 while it waits, unless swapped out."""

    @property
    def remaining_tokens(self) -> int:
        """`total_tokens` less computed.

        Computing the last of them yields the next output token, so a sequence that decodes has 1 remaining. 0: its last
        token comes with the step that runs, while this plan is for the one after it; it has its place until then.
        """

    @property
    def cached_tokens(self) -> int:
        """Of its prompt, how many the prefix cache spared it when it was last admitted."""

    @property
    def blocks(self) -> int:
        """Key-value blocks it holds."""

    @property
    def preemptions(self) -> int:
        """How often it lost its place."""

    @property
    def swapped(self) -> bool:
        """It waits, and its keys and values are in host memory."""


class KvView(Protocol):
    """The paged key-value cache of one replica.

    `free_blocks` counts both what is empty and what is cached and nobody holds: both can be had.

    A plan is written on the account: what a policy takes and gives up while it plans is done at once, so that every
    later question is answered with it. The `Step` that it answers with must say the same. `StepDraft` does both. A
    policy may as well only ask, and leave all of it to the step.
    """

    @property
    def block_tokens(self) -> int:
        """Tokens a block holds."""

    @property
    def total_blocks(self) -> int: ...

    @property
    def free_blocks(self) -> int:
        """Blocks that can be had now: empty ones, and cached ones that would be evicted."""

    @property
    def watermark_blocks(self) -> int:
        """Blocks that a policy should leave free when it admits a sequence, so that running ones can grow."""

    def cached_tokens(self, sequence: SequenceView) -> int:
        """Of a waiting sequence's tokens, how many it would find in the cache; 0 for one that runs.

        A multiple of `block_tokens`, and less than `total_tokens`: the last token is always computed. What another
        sequence computes in the same step counts, once it has taken the blocks for it.
        """

    def blocks_for(self, sequence: SequenceView, tokens: int) -> int:
        """How many of `free_blocks` it takes to compute `tokens` more of this sequence.

        For one that waits, after its cached ones, and counting those cached blocks that nobody holds yet.
        """

    def blocks_held_alone(self, sequence: SequenceView) -> int:
        """How many blocks would become free if this running sequence were preempted."""

    def take(self, sequence: SequenceView, tokens: int) -> None:
        """Give it the blocks to compute `tokens` more; one that waits gets what the cache has of it first.

        To take the same twice is to take it once. There must be room: see `blocks_for`.
        """

    def give_up(self, sequence: SequenceView, *, swap: bool = False) -> None:
        """Take from a running sequence all that it holds; with `swap` it is kept in host memory, if there is room."""
