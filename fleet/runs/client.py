"""A client for programs: connect to a running head, ask, and read the answer while it is written.

    async with FleetClient("tcp://127.0.0.1:5555") as client:
        async for tokens in client.stream(Request("hello", 0.0), Payload(...)):
            ...

The one thing to know: a reader that is slow holds up nobody. What comes meanwhile waits in the client, and what did
not fit on the way there is taken from the answer.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from fleet.actor import Actor, FleetError
from fleet.messages import Cancel, Message, Payload, Reply, Streamed, Submit, Undeliverable
from fleet.runs.serve import client_security
from fleet.runtime.live import LiveRuntime
from fleet.runtime.membership import MembershipOptions
from fleet.runtime.peers import Peer
from fleet.runtime.transport import Node, NodeOptions
from traces.schema import Request


class Answer:
    """What has come of one answer. The actor writes here, the program's task reads."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        """All output tokens so far."""
        self.reply: Reply | None = None
        """How it ended; None while it goes on."""
        self._news = anyio.Event()

    def tell(self) -> None:
        """Wake whoever waits for more."""
        self._news.set()

    async def more(self, timeout_s: float) -> None:
        """Return when something came since the last call; raise `TimeoutError` when nothing does."""
        with anyio.fail_after(timeout_s):
            await self._news.wait()
        self._news = anyio.Event()


class ClientActor(Actor):
    """Sends requests to the router, and sorts what comes back by request."""

    def __init__(self, router: str = "router") -> None:
        self._router = router
        self._answers: dict[str, Answer] = {}

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            Streamed: self.on_streamed,
            Reply: self.on_reply,
            Undeliverable: self.on_undeliverable,
        }

    def ask(
        self, request: Request, payload: Payload | None, output_tokens: int | None, *, stream: bool
    ) -> Answer:
        """Submit a request. Raises `FleetError` when one of that id has no reply yet."""
        if request.id in self._answers:
            raise FleetError(f"request {request.id!r} has no reply yet; two at a time need two ids")
        self._answers[request.id] = answer = Answer()
        self.ctx.send(self._router, Submit(request, self.ctx.address, output_tokens, payload, stream))
        return answer

    def forget(self, request_id: str) -> None:
        """Nobody reads this answer any more: unless it has ended, it is cancelled, which frees what it holds."""
        answer = self._answers.pop(request_id, None)
        if answer is not None and answer.reply is None:
            self.ctx.send(self._router, Cancel(request_id))

    def on_streamed(self, message: Streamed) -> None:
        answer = self._answers.get(message.request_id)
        if answer is None:
            return  # cancelled
        # A gap means that something was lost on the way here: from there on the answer has it.
        if message.ids and message.start == len(answer.tokens):
            answer.tokens += message.ids
            answer.tell()

    def on_reply(self, message: Reply) -> None:
        answer = self._answers.get(message.request_id)
        if answer is None or answer.reply is not None:
            return
        result = message.result
        if result is not None and result.tensor is not None and message.usage is not None:
            answer.tokens += result.tensor[len(answer.tokens) :].tolist()
        answer.reply = message
        answer.tell()

    def on_undeliverable(self, message: Undeliverable) -> None:
        """The head cannot be reached."""
        if isinstance(message.message, Submit):
            self.on_reply(Reply(message.message.request.id, "failed", detail=f"the head is {message.reason}"))

    def end_all(self, detail: str) -> None:
        """Nobody will answer what was sent: the head is gone, or this client ends."""
        for request_id in list(self._answers):
            self.on_reply(Reply(request_id, "failed", detail=detail))

    def close(self) -> None:
        """Cancel what has no reply yet."""
        for request_id, answer in self._answers.items():
            if answer.reply is None:
                self.ctx.send(self._router, Cancel(request_id))
        self.end_all("the client was closed")


class FleetClient:
    """A connection to the head at `head`, open within ``async with``.

    `keys` and `server_key` are as for `drive`. `timeout_s` bounds every wait: for the head to answer at all, and then
    for the next token or the reply.
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
        name = f"client-{secrets.token_hex(3)}"
        self._head, self._timeout_s = head, timeout_s
        options = NodeOptions(membership=MembershipOptions(connect_timeout_s=timeout_s))
        self._node = Node(
            name, options=options, security=client_security(keys, server_key), insecure=insecure
        )
        self._runtime = LiveRuntime(
            node=self._node, name=name, observers=None, on_peer_joined=self._joined, on_peer_lost=self._lost
        )
        self._actor = ClientActor()
        self._address = f"client/{name}"
        self._tasks: TaskGroup
        self._settled = anyio.Event()
        self._problem: str | None = "a client is open within `async with`"

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        try:
            self._node.connect(self._head)
            self._runtime.add(self._address, self._actor)
            self._tasks.start_soon(self._run)
            await self._settled.wait()
            if self._problem is not None:
                raise FleetError(self._problem)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._problem is None:
            self._actor.close()
        self._fail("the client is closed")
        self._runtime.stop()
        # Not told of an error in the block: it would wrap it in a group.
        await self._tasks.__aexit__(None, None, None)

    async def _run(self) -> None:
        try:
            await self._runtime.run()
        except FleetError as error:
            self._fail(str(error))
        finally:
            self._node.close()  # no-op when the runtime closed it

    def _joined(self, peer: Peer) -> None:
        self._problem = None
        self._settled.set()

    def _lost(self, peer: Peer, reason: str, expected: bool) -> None:
        self._fail(f"the head is gone: {reason}" if self._settled.is_set() else f"no head answered: {reason}")

    def _fail(self, problem: str) -> None:
        self._problem = problem
        self._actor.end_all(problem)
        self._settled.set()

    async def stream(
        self, request: Request, payload: Payload | None = None, *, output_tokens: int | None = None
    ) -> AsyncIterator[tuple[int, ...]]:
        """Output tokens as they come: each exactly once, in order, as many at a time as there are.

        Leaving the loop early cancels the request; to have that happen at once, use `contextlib.aclosing`. Raises
        `FleetError` with the outcome and its detail when the request does not complete. `output_tokens` is the
        length to write, for engines that know no end of their own.
        """
        answer = self._ask(request, payload, output_tokens, stream=True)
        given = 0
        try:
            while answer.reply is None or given < len(answer.tokens):
                tokens = tuple(answer.tokens[given:])
                if tokens:
                    given += len(tokens)
                    yield tokens
                else:
                    await self._more(request, answer)
            _demand_completed(answer.reply)
        finally:
            self._actor.forget(request.id)

    async def ask(
        self, request: Request, payload: Payload | None = None, *, output_tokens: int | None = None
    ) -> Reply:
        """The reply of a request that completes; `FleetError` with the outcome and its detail otherwise."""
        answer = self._ask(request, payload, output_tokens, stream=False)
        try:
            while answer.reply is None:
                await self._more(request, answer)
            _demand_completed(answer.reply)
            return answer.reply
        finally:
            self._actor.forget(request.id)

    def _ask(
        self, request: Request, payload: Payload | None, output_tokens: int | None, *, stream: bool
    ) -> Answer:
        if self._problem is not None:
            raise FleetError(self._problem)
        return self._actor.ask(request, payload, output_tokens, stream=stream)

    async def _more(self, request: Request, answer: Answer) -> None:
        try:
            await answer.more(self._timeout_s)
        except TimeoutError:
            raise FleetError(
                f"request {request.id!r}: nothing came for {self._timeout_s:g} s; it was cancelled"
            ) from None


def _demand_completed(reply: Reply) -> None:
    if reply.outcome != "completed":
        raise FleetError(f"request {reply.request_id!r} {reply.outcome}: {reply.detail or 'no detail'}")
