"""Everything that crosses an actor boundary, grouped by receiver.

Events are past tense (`BatchFinished`), commands imperative (`RunBatch`). Messages are frozen and carry
no references to actors or sockets, so that whether one is delivered in-process or over ZeroMQ cannot be told.
On the wire each is a msgpack array that starts with its class name.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from msgspec import Struct

from policies.views import FailureKind, Outcome, ProbeLevel, ProbeStatus, ReplicaState, TokenSignals, Trust
from traces.schema import Request

Reason = Literal["unreachable", "overloaded", "too-large", "refused"]
"""Why a message came back."""
OUTCOMES: tuple[Outcome, ...] = ("completed", "rejected", "shed", "expired", "failed", "cancelled")


UNBOUNDED = 1 << 60


def replica_number(address: str) -> int:
    """3 for ``replica/3``: replicas are ordered by number, so ``replica/10`` comes after ``replica/9``."""
    return int(address.rpartition("/")[2])


class Message(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """Base of all messages."""


# --- content -----------------------------------------------------------------------------------------------


class Payload(Struct, frozen=True, array_like=True, gc=False):
    """What a request carries in or out: bytes, or a tensor that travels as a frame of its own."""

    data: bytes | None = None
    tensor: np.ndarray | None = None


class Work(Struct, frozen=True, array_like=True, gc=False):
    """One attempt at one request."""

    request: Request
    attempt: int
    output_tokens: int | None = None
    """The recorded output length: for engines only, never for a policy."""
    payload: Payload | None = None
    ticket: int = 0
    """Names this attempt among all that its router ever made. `attempt` counts within one request, and begins anew
    when a client uses an id again."""
    stream: bool = False
    """Send every output token as it comes; False: tell of the first one only."""
    resume: tuple[int, ...] = ()
    """Output tokens that the client has of an earlier attempt: go on after them."""
    answer_blocks: tuple[int, ...] = ()
    """Hashes of the blocks that the answer fills, after the full ones of the prompt, where the trace has them because a
    later prompt contains the answer: for engines only, like the output length."""


class Usage(Struct, frozen=True, array_like=True, gc=False):
    """What serving one attempt token by token came to, as its replica counts it."""

    output_tokens: int
    """Of the whole answer, those of an earlier attempt that was resumed included."""
    itl_max_s: float | None = None
    """The longest gap between two of its tokens; None when it had fewer than two."""
    cached_tokens: int = 0
    """Of its prompt, found in the cache when it was first admitted."""
    preemptions: int = 0
    queue_s: float = 0.0
    """From coming to the replica to its first step."""


class Timing(Struct, frozen=True, array_like=True, gc=False):
    """How long an engine took, by its own clock, for one batch or for one step, and how large that was.

    A batch has `batch_size` and `tokens`, as a profile of batches counts them; a step has the others, as one of steps.
    """

    ago_s: float
    """Since it ended, when this was sent."""
    service_s: float
    batch_size: int | None = None
    """Requests in it."""
    tokens: int | None = None
    """Of its longest prompt; 0: without tokens."""
    prefills: int | None = None
    """Sequences that prefill in this step; the next two are sums over them."""
    prefill_tokens: int | None = None
    prefill_context_tokens: int | None = None
    decodes: int | None = None
    """Sequences that compute one token each; the next is the sum of their contexts."""
    decode_context_tokens: int | None = None


class Tokens(Struct, frozen=True, array_like=True, gc=False):
    """Output tokens of one attempt, from number `start` (from 0) of its answer on."""

    request_id: str
    ticket: int
    start: int
    ids: tuple[int, ...]
    """Empty where nobody wants them, or the engine only emulates: the message says when, not what."""


# --- to the router -----------------------------------------------------------------------------------------


class Submit(Message, frozen=True, gc=False):
    """A client asks for an answer; `reply_to` gets exactly one `Reply`."""

    request: Request
    reply_to: str
    output_tokens: int | None = None
    payload: Payload | None = None
    stream: bool = False
    """Send `Streamed` for every output token; False: for the first one only."""
    answer_blocks: tuple[int, ...] = ()
    """See `Work`."""


class Cancel(Message, frozen=True, gc=False):
    """The client no longer wants the answer."""

    request_id: str
    reply_to: str | None = None
    """Who submitted it: a request of somebody else goes on. None, which no other process may say: whoever it was."""


class ConfirmRequests(Message, frozen=True, gc=False):
    """Do you have these, and is work being done? Answer with `RequestsConfirmed` to `reply_to`.

    Sent after them, and messages keep their order: what did not come before this was lost.
    """

    requests: tuple[str, ...]
    reply_to: str


class Dispatched(Message, frozen=True, gc=False):
    """The batcher sent these attempts to `replica`, as one batch."""

    replica: str
    work: list[Work]


class AttemptsEnded(Message, frozen=True, gc=False):
    """The batcher reports attempts that ended together; `failure` is None when they completed."""

    work: list[Work]
    replica: str | None
    dispatched: bool
    """False: they ended while they waited."""
    failure: FailureKind | Literal["moved"] | None = None
    """`withdrawn`: the router asked for it back. `moved`: its replica drains; place it anew."""
    detail: str | None = None
    service_s: float | None = None
    """How long the engine ran the batch, on the replica's clock, 0 if not at all; None: the replica did not say."""
    cold: bool = False
    """True: the first batch of a replica's life."""
    results: list[Payload | None] | None = None
    """One for each attempt, or None when the engine returns nothing."""
    usage: list[Usage] | None = None
    """One for each attempt, or None when the engine answers whole requests."""
    quality: list[float | None] | None = None
    """One for each attempt, or None where nobody can say how good an answer is."""


class LoadAnswered(Message, frozen=True, gc=False):
    """A replica was asked for its load: see `ReplicaLoad`."""

    replica: str
    asked_s: float
    """As the question had it: on the router's clock."""
    in_flight: int
    latency_s: float | None


class StartFailed(Message, frozen=True, gc=False):
    """The autoscaler says that a replica did not come up; it will try again."""

    detail: str
    hopeless: bool
    """So many have failed one after the other that nobody should wait for the next (`failed_starts_limit`)."""
    pool: str = "default"


class TokensGenerated(Message, frozen=True, gc=False):
    """A step of `replica` gave these attempts output tokens: first ones, and all of those that are streamed."""

    replica: str
    tokens: list[Tokens]


# --- to the batcher ----------------------------------------------------------------------------------------


class AskLoad(Message, frozen=True, gc=False):
    """How much does `replica` have to do? The batcher passes it on, with what waits for that replica alone.

    The replica answers `reply_to` with `LoadAnswered`.
    """

    replica: str
    reply_to: str
    asked_s: float
    waiting: int = 0


class Enqueue(Message, frozen=True, gc=False):
    """Wait for a replica: this one (early binding), or any (None: late binding)."""

    work: Work
    replica: str | None = None
    room: int = UNBOUNDED
    """A new request is turned away where so many wait already. One that was let in before stays."""


class Dequeue(Message, frozen=True, gc=False):
    """The attempt is not wanted any more.

    One that waits is forgotten; of one that was dispatched its replica is told, which may end it early.
    """

    request_id: str
    ticket: int
    replica: str | None = None


class BatchFinished(Message, frozen=True, gc=False):
    """A replica ran a batch, or failed to (`error`); or so ended some of its attempts, and has the others still."""

    replica: str
    batch: int
    service_s: float
    cold: bool = False
    error: str | None = None
    results: list[Payload | None] | None = None
    tickets: tuple[int, ...] = ()
    """Those of the batch that ended, where they do not end together; empty: all that are left of it."""
    refused: bool = False
    """With `error`: this replica can never serve it."""
    busy_s: float = 0.0
    """How long the replica's engine has run since its start, as in `ReplicaReported`."""
    usage: list[Usage] | None = None
    quality: list[float | None] | None = None
    """One for each attempt, or None where nobody can say how good an answer is."""
    timings: list[Timing] | None = None
    """Of what the engine ran since the answer before; None where nobody asks (`ReplicaSettings.timed`)."""


class BatchesMissing(Message, frozen=True, gc=False):
    """A replica answers `ConfirmBatches`: these it neither runs nor has at its door."""

    replica: str
    batches: tuple[int, ...]


class DemandReport(Struct, frozen=True, kw_only=True, gc=False):
    """What the router has counted of a pool's requests, each once.

    Counters only grow, so that a report that is lost loses nothing; what lies between two reports is their difference.
    """

    queue_depth: int
    """Let in, and with no replica."""
    oldest_wait_s: float
    """For how long the first of those has been in, from its intended arrival."""
    in_flight: int
    """Let in and not ended."""
    arrived: int
    """Ever let in."""
    ended: int
    completed: int
    judged: int
    """Ended, and had an objective."""
    met: int
    """Met it."""
    in_flight_s: float
    """Request seconds in flight: the integral of `in_flight`."""
    queue_s: float
    """The integral of `queue_depth`."""
    ttft_s: tuple[float, ...] = ()
    """Of the requests that completed since the last report, and no counter: the values themselves."""
    e2e_s: tuple[float, ...] = ()


class DescribeReplicas(Message, frozen=True, gc=False):
    """Somebody is new in the head: send it the last report of each replica."""

    reply_to: str
    pool: str | None = None
    """Of this pool only; None: of all."""


class StartHeld(Message, frozen=True, gc=False):
    """From the launcher, to the autoscaler: a start waits for a place that is in order, or waits no longer."""

    replica: str
    held: bool


class ReportPool(Message, frozen=True, gc=False):
    """Ask for a `PoolReport`: the router says what is asked of the pool, and the batcher what its replicas do."""

    reply_to: str
    demand: DemandReport | None = None
    """Filled in by the router, which passes this on to the pool's batcher."""
    pool: str = "default"


# --- to a replica ------------------------------------------------------------------------------------------


class RunBatch(Message, frozen=True, gc=False):
    """Run these attempts together; answer with `BatchFinished` to `reply_to`."""

    batch: int
    work: list[Work]
    reply_to: str


class CancelBatch(Message, frozen=True, gc=False):
    """The batch, or some of it, is not wanted any more.

    It is answered all the same, so that its sender knows when its room is free.
    """

    batch: int
    tickets: tuple[int, ...] = ()
    """Which of its attempts; empty: all."""


class ConfirmBatches(Message, frozen=True, gc=False):
    """Do you have these? Sent after them, and messages keep their order: what did not come before this was lost."""

    batches: tuple[int, ...]
    reply_to: str


class Activate(Message, frozen=True, gc=False):
    """Warm -> ready: start taking traffic."""


class Deactivate(Message, frozen=True, gc=False):
    """Ready -> warm once its batches are done: stay loaded, take no traffic."""


class Drain(Message, frozen=True, gc=False):
    """Finish what is there, then stop."""


class Probe(Message, frozen=True, gc=False):
    """Are you there? Answer with `ProbeAnswered` to `reply_to`."""

    probe: int
    level: ProbeLevel
    reply_to: str


class InjectSlowness(Message, frozen=True, gc=False):
    """Fault: take `factor` times as long from now on (1.0 ends it)."""

    factor: float


# --- from a replica, to all who observe the fleet -----------------------------------------------------------


class ReplicaReported(Message, frozen=True, gc=False):
    """A replica's own account of itself: on every change of state, and every `report_interval_s`."""

    replica: str
    state: ReplicaState
    incarnation: int
    weight: float = 1.0
    max_inflight_batches: int = 1
    batches: int = 0
    """Running or waiting at its door."""
    busy_fraction: float | None = None
    """Since the report before this one."""
    gpu_utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    detail: str | None = None
    number: int = 0
    """Counts this replica's reports, so that one overtaken on the way is known to be old."""
    holds: tuple[int, ...] = ()
    """The numbers of the batches it runs or has at its door."""
    tokens: TokenSignals | None = None
    busy_s: float = 0.0
    """How long its engine has run since it started, what runs now included: a counter, of which no report that is lost
    or overtaken takes anything away."""


class ReplicaExited(Message, frozen=True, gc=False):
    """The launcher, or the transport, saw it end."""

    replica: str
    detail: str
    expected: bool = False


class TrustChanged(Message, frozen=True, gc=False):
    """The health checker's verdict."""

    replica: str
    trust: Trust
    reason: str | None = None


# --- to the autoscaler, the health checker, the launcher ----------------------------------------------------


class PoolReport(Message, frozen=True, gc=False):
    """What is asked of a pool, and what its replicas' engines have done."""

    demand: DemandReport
    engines: dict[str, float]
    """Engine seconds of each replica since its start, up to now."""


class Told(Message, frozen=True, gc=False):
    """The router tells policies that live in another actor what came of attempts. Within the head only."""

    calls: list[tuple[str, tuple[Any, ...]]]  # Any: each hook has arguments of its own
    """Hooks by name with their arguments, short of the time, in the order of what happened."""


class ProbeAnswered(Message, frozen=True, gc=False):
    """A replica's answer to a probe."""

    replica: str
    probe: int
    status: ProbeStatus
    detail: str | None = None


class StartReplica(Message, frozen=True, gc=False):
    """Bring up a replica under this address."""

    replica: str
    activate: bool = True
    """False: it stays warm until told."""
    places: int = 0
    """How many replicas the fleet may have now, spares included; 0: as many as before."""


class KillReplica(Message, frozen=True, gc=False):
    """End it at once; what it has is lost (and retried)."""

    replica: str


# --- to the operator ---------------------------------------------------------------------------------------


class Operate(Message, frozen=True, gc=False):
    """Change the running fleet, or say how it stands; `reply_to` gets one `Operated`."""

    id: str
    operation: bytes
    """JSON: ``{"kind": "deploy", "pool": ..., "spec": {...}}``, and so on; see `fleet.runs.operator`."""
    reply_to: str


# --- to a replica host ------------------------------------------------------------------------------------


class HostReplica(Message, frozen=True, gc=False):
    """Become this replica. `settings` is JSON: engine and parameters by name and defining module."""

    replica: str
    settings: bytes


# --- to a client -------------------------------------------------------------------------------------------


class Reply(Message, frozen=True, gc=False):
    """How a request ended. There is exactly one for each `Submit`."""

    request_id: str
    outcome: Outcome
    attempts: int = 0
    replica: str | None = None
    batch_size: int = 0
    service_s: float | None = None
    cold: bool = False
    detail: str | None = None
    result: Payload | None = None
    usage: Usage | None = None
    """None when the engine answers whole requests."""
    pool: str | None = None
    """What served it, or was to serve it when it ended; None in a fleet of one pool, where there is nothing to say."""
    version: str | None = None
    variant: str | None = None
    quality: float | None = None
    """How good the answer is, 0..1; None where nobody can say."""


class Operated(Message, frozen=True, gc=False):
    """To whoever sent `Operate`: what came of it."""

    id: str
    error: str | None = None
    """None: it was done, or has begun where it takes time."""
    status: bytes | None = None
    """JSON: how the fleet stands, where that was asked."""


class Streamed(Message, frozen=True, gc=False):
    """Output tokens of a request, from number `start` of its answer on: in order, each exactly once."""

    request_id: str
    start: int
    ids: tuple[int, ...]


class RequestsConfirmed(Message, frozen=True, gc=False):
    """The router answers `ConfirmRequests`."""

    missing: tuple[str, ...]
    """These have no reply to come: they, or their replies, were lost."""
    working: bool
    """Some replica runs or loads something."""


# --- to anyone ---------------------------------------------------------------------------------------------


class Tick(Message, frozen=True, gc=False):
    """A timer that an actor set for itself ran out; `what` tells its timers apart."""

    what: str = ""
    key: str = ""
    number: int = 0


class Undeliverable(Message, frozen=True, gc=False):
    """A message could not be handed over, or was not taken.

    `unreachable`: nobody has that address. `overloaded`: its queue is full. `too-large`: no process would take it.
    `refused`: its receiver may not get it from this sender, or it holds what cannot be.
    """

    to: str
    reason: Reason
    message: Message
    detail: str | None = None
    """Of the last two: why."""

    @property
    def never(self) -> bool:
        """Sent again, it would come back again."""
        return self.reason in {"too-large", "refused"}


class LoadFinished(Message, frozen=True, gc=False):
    """An engine tells its replica that the model is loaded, or why not."""

    error: str | None = None


class RunFinished(Message, frozen=True, gc=False):
    """An engine tells its replica that a batch ran, and for how long."""

    batch: int
    service_s: float
    error: str | None = None
    results: list[Payload | None] | None = None


class StepRan(Message, frozen=True, gc=False):
    """A `StepEngine` tells its replica that it ran `steps` steps of the work with this number."""

    number: int
    steps: int
    service_s: float
    """All of them together."""
    first_step_s: float
    last_step_s: float
    ended: tuple[int, ...] = ()
    """Sequences that got their last token in the last of these steps."""
    error: str | None = None
    tokens: list[tuple[int, tuple[int, ...]]] | None = None
    """Sequence and its new output tokens; None when the engine only emulates."""


WIRE_MESSAGES = (
    Submit, Cancel, ConfirmRequests, RequestsConfirmed,
    RunBatch, CancelBatch, ConfirmBatches, BatchFinished, BatchesMissing, Activate, Deactivate, Drain,
    Probe, ProbeAnswered, AskLoad, LoadAnswered, InjectSlowness, ReplicaReported, Reply, Streamed, TokensGenerated,
    HostReplica, Operate, Operated,
)  # fmt: skip
"""Those that may arrive from another process; anything else on the wire is an error."""
