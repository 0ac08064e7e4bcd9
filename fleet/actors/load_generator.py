"""The load generator plays a trace and is the client: it sends each request once and gets one reply to each.

Open loop: a request is sent at its recorded time whatever became of the others, and its latency counts from that
intended arrival, so neither a slow fleet nor a late generator can hide queueing. With `sessions`, a request
that has a parent is sent `think_s` after the parent's reply, and that is its intended arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from fleet.actor import Actor, Context, FleetError
from fleet.actors.liveness import LOST, Liveness
from fleet.messages import (
    Cancel,
    Message,
    Payload,
    Reply,
    RequestsConfirmed,
    Streamed,
    Submit,
    Tick,
    Undeliverable,
)
from fleet.telemetry.sink import Telemetry
from policies.views import Outcome
from traces.schema import Request, TraceEntry

PROGRESS_EVERY = 100
"""Replies between two calls of `progress`."""


class Sent(Struct):
    """A request without a reply, and what came of it so far."""

    row: int
    arrived_s: float
    """As intended."""
    first_token_s: float | None = None
    last_tokens_s: float | None = None
    itl_max_s: float | None = None
    """The longest gap between streamed tokens."""
    received: int = 0
    """Streamed tokens."""


class LoadGenerator(Actor):
    """Sends a trace to the router and records every reply."""

    def __init__(
        self,
        entries: Iterable[TraceEntry],
        *,
        telemetry: Telemetry,
        on_done: Callable[[], None],
        sessions: bool = False,
        stream: bool = False,
        stall_timeout_s: float | None = None,
        router: str = "router",
        payload: Callable[[Request], Payload | None] | None = None,
        progress: Callable[[int], None] | None = None,
        answers: Mapping[int, tuple[int, ...]] | None = None,
    ) -> None:
        """`answers`: by row, what `traces.answer_blocks` says."""
        self._entries: Iterator[tuple[int, TraceEntry]] = enumerate(entries)
        self._answers = answers or {}
        self._telemetry = telemetry
        self._on_done = on_done
        self._progress = progress
        self._sessions = sessions
        self._liveness = None if stall_timeout_s is None else Liveness(stall_timeout_s, router)
        """Live only: virtual time knows what is left to happen."""
        self._router = router
        self._payload = payload
        self._next: tuple[int, TraceEntry] | None = None
        self._stream = stream
        self._sent: dict[str, Sent] = {}
        """Those without a reply."""
        self._followers: dict[str, list[tuple[int, TraceEntry]]] = {}
        """Sessions: what waits for a reply, by its parent's id."""
        self._following = 0
        self._scheduled: dict[int, tuple[int, TraceEntry]] = {}
        """Followers whose think time runs."""
        self._given_up: set[str] = set()
        """Requests that ended without the head's reply: it is gone, or does nothing, or has lost them."""
        self.submitted = 0
        self.replied = 0
        self._heard = 0
        """Replies, and streamed tokens."""
        self._arrive = Tick("arrive")

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        if self._sessions:
            self._entries = iter(self._hold_followers())
        self._next = next(self._entries, None)
        if self._next is not None:
            ctx.after(self._next[1].request.arrived_s, self._arrive)
        if self._liveness is not None:
            self._liveness.begin(ctx)
        if self._next is None:
            self._finish()

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            Reply: self.on_reply,
            Streamed: self.on_streamed,
            RequestsConfirmed: self.on_requests_confirmed,
            Tick: self.on_tick,
            Undeliverable: self.on_undeliverable,
        }

    def on_tick(self, message: Tick) -> None:
        if message.what == "arrive":
            self._arrivals()
        elif message.what == "think":
            row, entry = self._scheduled.pop(message.number, (0, None))
            if entry is None:
                return  # the head is gone, and nothing more is sent
            self._following -= 1
            # The intended arrival of a follower is known only now: its parent's reply plus its think time.
            self._submit(row, entry, replace(entry.request, arrived_s=self.ctx.now))
        else:
            self._check_liveness()

    def _hold_followers(self) -> list[tuple[int, TraceEntry]]:
        """Put aside what waits for a reply, now: the reply may come before the time the trace has for it."""
        first, ids = [], set()
        for row, entry in self._entries:
            ids.add(entry.request.id)
            if entry.request.parent is None:
                first.append((row, entry))
            else:
                self._followers.setdefault(entry.request.parent, []).append((row, entry))
                self._following += 1
        for parent in self._followers:
            if parent not in ids:
                raise FleetError(f"the trace has a request that follows {parent!r}, which is not in it")
        return first

    def _arrivals(self) -> None:
        now = self.ctx.now
        upcoming = self._next
        while upcoming is not None:
            row, entry = upcoming
            request = entry.request
            if request.arrived_s > now:
                self._next = upcoming
                self.ctx.after(request.arrived_s - now, self._arrive)
                return
            self._submit(row, entry, request)
            upcoming = next(self._entries, None)
        self._next = None
        if not self._sent:
            self._finish()

    def _submit(self, row: int, entry: TraceEntry, request: Request) -> None:
        if request.id in self._sent:
            raise FleetError(
                f"two requests with the id {request.id!r} are under way (row {row} of the trace)"
            )
        self._sent[request.id] = Sent(row, request.arrived_s)
        self.submitted += 1
        payload = None if self._payload is None else self._payload(request)
        self.ctx.send(
            self._router,
            Submit(
                request,
                self.ctx.address,
                entry.output_tokens,
                payload,
                self._stream,
                self._answers.get(row, ()),
            ),
        )

    def on_streamed(self, message: Streamed) -> None:
        """Tokens come in order.

        One that is missing comes later, with all after it; without streaming, the first token of the attempt that
        completes is what counts.
        """
        self._heard += 1
        sent, now = self._sent.get(message.request_id), self.ctx.now
        if sent is None:
            self._telemetry.counters["late_tokens"] += 1
        elif not self._stream:
            sent.first_token_s = now
        elif message.start > sent.received:
            self._telemetry.counters["tokens_out_of_order"] += 1
        elif message.start < sent.received:
            raise FleetError(
                f"output tokens {message.start} to {sent.received - 1} of {message.request_id!r} came twice"
            )
        else:
            sent.received += len(message.ids)
            if sent.last_tokens_s is None:
                sent.first_token_s = now
            else:
                sent.itl_max_s = max(sent.itl_max_s or 0.0, now - sent.last_tokens_s)
            sent.last_tokens_s = now

    def on_reply(self, message: Reply) -> None:
        sent = self._sent.pop(message.request_id, None)
        if sent is None:
            if message.request_id in self._given_up:
                self._telemetry.counters["late_replies"] += 1
                return
            raise FleetError(f"a second reply to {message.request_id!r}: {message.outcome}")
        self.replied += 1
        self._heard += 1
        self._demand_all(sent, message)
        if self._stream and message.usage is not None:
            # A replica does not see the gap between an attempt that failed and the one that went on after it.
            message = replace(message, usage=replace(message.usage, itl_max_s=sent.itl_max_s))
        self._telemetry.request_ended(sent.row, sent.arrived_s, self.ctx.now, message, sent.first_token_s)
        if self._following:
            for row_and_entry in self._followers.pop(message.request_id, ()):
                self._scheduled[row_and_entry[0]] = row_and_entry
                think_s = row_and_entry[1].think_s or 0.0
                self.ctx.after(think_s, Tick("think", number=row_and_entry[0]))
        if self._progress is not None and self.replied % PROGRESS_EVERY == 0:
            self._progress(self.replied)
        if self._next is None and not self._sent:
            self._finish()

    def _demand_all(self, sent: Sent, reply: Reply) -> None:
        """A completed stream has every token of its answer. What was lost on the way here is in the answer itself."""
        if not self._stream or reply.outcome != "completed" or reply.usage is None:
            return
        expected, received = reply.usage.output_tokens, sent.received
        result = reply.result
        if received < expected and result is not None and result.tensor is not None:
            self._telemetry.counters["tokens_from_answers"] += expected - received
            received = len(result.tensor)
        if received != expected:
            raise FleetError(
                f"{reply.request_id!r} completed with {expected} output tokens, "
                f"of which {received} were streamed"
            )

    def _finish(self) -> None:
        """Done, unless a session goes on. Followers that follow each other are an error, not a wait."""
        if self._scheduled:
            return
        if self._followers:
            parent = next(iter(self._followers))
            raise FleetError(f"the trace has a request that follows {parent!r}, which itself follows it")
        self._on_done()

    def unfinished(self) -> list[tuple[int, float]]:
        """Row and intended arrival of every request sent that has no reply."""
        return [(sent.row, sent.arrived_s) for sent in self._sent.values()]

    def progress(self) -> int:
        """Grows with whatever this client does and hears."""
        return self.submitted + self._heard

    def without_reply(self) -> list[str]:
        """The requests sent that have no reply."""
        return list(self._sent)

    def _check_liveness(self) -> None:
        liveness = self._liveness
        if liveness is None or not liveness.check(self.ctx, self._sent, self._heard):
            return
        self._telemetry.counters["stalled"] += len(self._sent)
        for request_id in list(self._sent):
            self.ctx.send(self._router, Cancel(request_id, self.ctx.address))
            self._give_up(request_id, liveness.why_stalled)

    def on_requests_confirmed(self, message: RequestsConfirmed) -> None:
        """The head says what it has, and whether work is being done."""
        if self._liveness is not None:
            self._liveness.confirmed(self.ctx, message)
        for request_id in message.missing:
            self._give_up(request_id, LOST)

    def head_lost(self, detail: str) -> tuple[int, int]:
        """The head is gone: nobody will answer what was sent, so it ends here, as failed, and nothing more is sent.

        Answers how many requests ended so, and how many were never sent.
        """
        ended = list(self._sent)
        unsent = (self._next is not None) + sum(1 for _ in self._entries) + self._following
        self._next, self._entries = None, iter(())
        self._followers.clear()
        self._scheduled.clear()
        self._following = 0
        counters = self._telemetry.counters
        counters["head_lost"] += 1
        counters["unsent"] += unsent
        for request_id in ended:
            self._give_up(request_id, f"the head is gone: {detail}")
        self._on_done()
        return len(ended), unsent

    def _give_up(self, request_id: str, detail: str, outcome: Outcome = "failed") -> None:
        """End a request without its reply; one that comes all the same is counted and dropped."""
        if request_id in self._sent:
            self.on_reply(Reply(request_id, outcome, detail=detail))
            self._given_up.add(request_id)

    def on_undeliverable(self, message: Undeliverable) -> None:
        """The head cannot be reached, or does not take this request: it ends here."""
        if isinstance(message.message, Submit):
            request_id = message.message.request.id
            if message.never:
                self._give_up(request_id, f"{message.reason}: {message.detail}", "rejected")
            else:
                self._give_up(request_id, f"the head is {message.reason}")
