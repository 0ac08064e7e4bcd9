"""Telling the policies of a queue what became of what left it: each attempt, and each batch as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

from msgspec import Struct

from fleet.actors.hearing import Hooks
from fleet.actors.waiting import WaitingQueue
from fleet.blame import tell
from fleet.messages import Usage, Work, replica_number
from policies.base import Policy
from policies.views import BatchCompletion, Completion, FailureKind, ReplicaView
from traces.schema import Request


class Batch(Struct):
    """One that was dispatched, as long as an attempt of it has not ended."""

    replica: str
    work: Sequence[Work]
    sent_s: float
    left: int
    service_s: float | None = None
    failure: FailureKind | None = None
    completed: bool = False


class Sent(Struct):
    """An attempt with a replica."""

    batch: Batch
    first_token_s: float | None = None
    tokens: int = 0
    """Output tokens that were told of."""
    withdrawn: bool = False


class QueueHearing:
    """Keeps what was sent and has not ended, where a queueing or batching policy listens; else it does nothing."""

    def __init__(self, *policies: Policy) -> None:
        wanted = Hooks(*policies).wanted()
        self.listens = bool(wanted)
        self.replicas = "on_replicas" in wanted
        self.from_router = wanted & {"on_first_token", "on_tokens"}
        """What the router must tell of: tokens do not pass through the batcher."""
        if "on_completed" in wanted:
            self.from_router |= {"on_first_token"}
        self._serving: dict[int, dict[str, ReplicaView]] = {}
        """By queue: the replicas that may take from it."""
        self._sent: dict[int, Sent] = {}
        """By ticket."""
        self._tickets: dict[tuple[str, str], int] = {}
        """By request and replica, of its last attempt there: it may have one at each of several."""

    def is_empty(self) -> bool:
        """Nothing was sent that has not ended."""
        return not self._sent and not self._tickets

    def dispatched(self, queue: WaitingQueue, replica: str, work: Sequence[Work], now_s: float) -> None:
        """These left their queue together."""
        batch = Batch(replica, tuple(work), now_s, len(work))
        for item in work:
            self._sent[item.ticket] = Sent(batch)
            self._tickets[item.request.id, replica] = item.ticket
            tell(queue.hooks.on_dispatched, now_s, item.request, replica)

    def offered(self, queue: WaitingQueue, view: ReplicaView, takes_work: bool, now_s: float) -> None:
        """Whether this replica may take from this queue, as it is now."""
        serving = self._serving.setdefault(queue.number, {})
        if (view.id in serving) == takes_work:
            return
        if takes_work:
            serving[view.id] = view
        else:
            del serving[view.id]
        views = tuple(sorted(serving.values(), key=lambda view: replica_number(view.id)))
        tell(queue.hooks.on_replicas, now_s, views)

    def withdrawn(self, ticket: int) -> None:
        """Nobody wants this one any more; it ends when its replica says so."""
        sent = self._sent.get(ticket)
        if sent is not None:
            sent.withdrawn = True

    def told(self, queue: WaitingQueue | None, name: str, arguments: tuple[Any, ...], now_s: float) -> None:
        """The router tells of tokens."""
        sent = self._sent.get(self._tickets.get((arguments[0].id, arguments[1]), 0))
        if queue is None or sent is None or sent.batch.replica != arguments[1]:
            return
        if name == "on_first_token":
            _first_token(queue, sent, arguments[0], now_s)
        else:
            sent.tokens = arguments[2]
            tell(queue.hooks.on_tokens, now_s, *arguments)

    def ended(
        self,
        queue: WaitingQueue | None,
        work: Sequence[Work],
        now_s: float,
        *,
        failure: FailureKind | None = None,
        service_s: float | None = None,
        usage: Sequence[Usage] | None = None,
        **_: object,
    ) -> None:
        """These ended together, at their replica or with it: the fields of their `AttemptsEnded`."""
        usages: Iterable[Usage | None] = usage or repeat(None)
        for item, used in zip(work, usages, strict=False):
            sent = self._sent.pop(item.ticket, None)
            if sent is None:
                continue
            batch = sent.batch
            if self._tickets.get((item.request.id, batch.replica)) == item.ticket:
                del self._tickets[item.request.id, batch.replica]
            batch.left -= 1
            if failure is None:
                batch.completed = True
                batch.service_s = max(batch.service_s or 0.0, service_s or 0.0)
            else:
                batch.failure = "withdrawn" if sent.withdrawn else failure
            if queue is None:
                continue
            if used is not None:
                _last_tokens(queue, item, sent, used.output_tokens, now_s)
            if queue.hooks.on_completed:
                completion = _completion(item, sent, now_s, failure=failure, service_s=service_s, usage=used)
                tell(queue.hooks.on_completed, now_s, completion)
            if batch.left == 0 and queue.hooks.on_batch_completed:
                tell(queue.hooks.on_batch_completed, now_s, _batch_completion(batch, now_s))


def _first_token(queue: WaitingQueue, sent: Sent, request: Request, now_s: float) -> None:
    sent.first_token_s = now_s
    tell(queue.hooks.on_first_token, now_s, request, sent.batch.replica)


def _last_tokens(queue: WaitingQueue, work: Work, sent: Sent, tokens: int, now_s: float) -> None:
    """Those of its last step, and such as were lost on the way: the router's word of them comes after the answer."""
    request = work.request
    if sent.first_token_s is None and tokens > len(work.resume):
        _first_token(queue, sent, request, now_s)
    if tokens > max(sent.tokens, len(work.resume)):
        tell(queue.hooks.on_tokens, now_s, request, sent.batch.replica, tokens)


def _completion(
    work: Work,
    sent: Sent,
    now_s: float,
    *,
    failure: FailureKind | None,
    service_s: float | None,
    usage: Usage | None,
) -> Completion:
    arrived_s = work.request.arrived_s
    return Completion(
        request=work.request, replica=sent.batch.replica, attempt=work.attempt,
        failure="withdrawn" if sent.withdrawn else failure, service_s=service_s, e2e_s=now_s - arrived_s,
        ttft_s=None if sent.first_token_s is None else sent.first_token_s - arrived_s,
        output_tokens=None if usage is None else usage.output_tokens, resumed_tokens=len(work.resume),
    )  # fmt: skip


def _batch_completion(batch: Batch, now_s: float) -> BatchCompletion:
    return BatchCompletion(
        replica=batch.replica, requests=tuple(work.request for work in batch.work), service_s=batch.service_s,
        elapsed_s=now_s - batch.sent_s, failure=None if batch.completed else batch.failure,
    )  # fmt: skip
