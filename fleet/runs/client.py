"""A client for programs: connect to a running head, ask, and read the answer while it is written.

    async with FleetClient("tcp://127.0.0.1:5555") as client:
        async for tokens in client.stream(Request("hello", 0.0), Payload(...)):
            ...

The one thing to know: a reader that is slow holds up nobody. What comes meanwhile waits in the client, and what did
not fit on the way there is taken from the answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

from fleet.actor import Context, FleetError
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
from fleet.runs.connection import Connection, Speaker
from traces.schema import Request


class Answer:
    """What has come of one answer. The actor writes here, the program's task reads."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        """All output tokens so far."""
        self.reply: Reply | None = None
        """How it ended; None while it goes on."""
        self.news = anyio.Event()

    async def more(self) -> None:
        """Return when something came since the last call."""
        await self.news.wait()
        self.news = anyio.Event()


class ClientActor(Speaker):
    """Sends requests to the router, and sorts what comes back by request."""

    def __init__(self, stall_timeout_s: float) -> None:
        self._liveness = Liveness(stall_timeout_s)
        self._answers: dict[str, Answer] = {}
        """By the request's id, until its reply has come."""
        self._heard = 0

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        self._liveness.begin(ctx)

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            Streamed: self.on_streamed,
            Reply: self.on_reply,
            RequestsConfirmed: self.on_requests_confirmed,
            Tick: self.on_tick,
            Undeliverable: self.on_undeliverable,
        }

    def on_tick(self, message: Tick) -> None:
        """Look whether anything is being done."""
        if self._liveness.check(self.ctx, self._answers, self._heard):
            self.end_all(self._liveness.why_stalled)

    def on_requests_confirmed(self, message: RequestsConfirmed) -> None:
        """The head says what it has, and whether work is being done."""
        self._liveness.confirmed(self.ctx, message)
        for request_id in message.missing:
            self.on_reply(Reply(request_id, "failed", detail=LOST))

    def submit(self, message: Submit) -> Answer:
        """Ask. Raises `FleetError` when a request of that id has no reply yet, even if nobody waits for that."""
        if message.request.id in self._answers:
            raise FleetError(f"request {message.request.id!r} has no reply yet; two at a time need two ids")
        self._answers[message.request.id] = answer = Answer()
        self.ctx.send("router", message)
        return answer

    def cancel(self, request_id: str) -> None:
        """Nobody reads this answer any more: unless it has ended, it gives up what it holds."""
        if request_id in self._answers:
            self.ctx.send("router", Cancel(request_id, self.ctx.address))

    def on_streamed(self, message: Streamed) -> None:
        self._heard += 1
        answer = self._answers.get(message.request_id)
        # A gap means that something was lost on the way here: from there on the answer has it.
        if answer is not None and message.ids and message.start == len(answer.tokens):
            answer.tokens += message.ids
            answer.news.set()

    def on_reply(self, message: Reply) -> None:
        self._heard += 1
        answer = self._answers.pop(message.request_id, None)
        if answer is None:
            return
        result = message.result
        if result is not None and result.tensor is not None and message.usage is not None:
            answer.tokens += result.tensor[len(answer.tokens) :].tolist()
        answer.reply = message
        answer.news.set()

    def on_undeliverable(self, message: Undeliverable) -> None:
        """The head cannot be reached, or does not take this request."""
        lost = message.message
        if isinstance(lost, Submit) and message.never:
            self.on_reply(Reply(lost.request.id, "rejected", detail=f"{message.reason}: {message.detail}"))
        elif isinstance(lost, Submit):
            self.on_reply(Reply(lost.request.id, "failed", detail=f"the head is {message.reason}"))

    def end_all(self, detail: str) -> None:
        """The head is gone or does nothing, or this client ends: nobody waits for replies any more."""
        for request_id in list(self._answers):
            self.cancel(request_id)
            self.on_reply(Reply(request_id, "failed", detail=detail))


class FleetClient(Connection):
    """A connection to the head at `head`, open within ``async with``.

    `keys` and `server_key` are as for `drive`. `timeout_s` bounds how long to wait for a head at all, and then how long
    nothing may be done there while requests wait: a long answer takes the time it takes, as long as it is worked on.
    Bound a single request by its `deadline_s`.
    """

    def __init__(
        self,
        head: str,
        *,
        keys: Path | None = None,
        server_key: str | None = None,
        insecure: bool = False,
        timeout_s: float = 120.0,
    ) -> None:
        self._actor = ClientActor(timeout_s)
        super().__init__(
            head,
            "client",
            self._actor,
            keys=keys,
            server_key=server_key,
            insecure=insecure,
            timeout_s=timeout_s,
        )

    async def stream(
        self, request: Request, payload: Payload | None = None, *, output_tokens: int | None = None
    ) -> AsyncIterator[tuple[int, ...]]:
        """Output tokens as they come: each exactly once, in order, as many at a time as there are.

        Leaving the loop early cancels the request; to have that happen at once, use `contextlib.aclosing`. Raises
        `FleetError` with the outcome and its detail when the request does not complete. `output_tokens` is the
        length to write, for engines that know no end of their own.
        """
        given = 0
        with self._asked(request, payload, output_tokens, stream=True) as answer:
            while answer.reply is None or given < len(answer.tokens):
                tokens = tuple(answer.tokens[given:])
                if tokens:
                    given += len(tokens)
                    yield tokens
                else:
                    await answer.more()
            usage = _completed(answer.reply).usage
            if usage is not None and usage.output_tokens != given:
                raise FleetError(
                    f"request {request.id!r}: {given} of {usage.output_tokens} output tokens came"
                )

    async def ask(
        self, request: Request, payload: Payload | None = None, *, output_tokens: int | None = None
    ) -> Reply:
        """The reply of a request that completes; `FleetError` with the outcome and its detail otherwise."""
        with self._asked(request, payload, output_tokens, stream=False) as answer:
            while answer.reply is None:
                await answer.more()
            return _completed(answer.reply)

    @contextmanager
    def _asked(
        self, request: Request, payload: Payload | None, output_tokens: int | None, *, stream: bool
    ) -> Iterator[Answer]:
        """One that is cancelled with the block, if it has not ended."""
        self.demand_open()
        answer = self._actor.submit(Submit(request, self.address, output_tokens, payload, stream))
        try:
            yield answer
        finally:
            if answer.reply is None:
                self._actor.cancel(request.id)


def _completed(reply: Reply) -> Reply:
    if reply.outcome != "completed":
        raise FleetError(f"request {reply.request_id!r} {reply.outcome}: {reply.detail or 'no detail'}")
    return reply
