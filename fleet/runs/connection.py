"""A connection of a program to a running head, open within ``async with``: one node, one runtime, one actor.

The one thing to know: what its actor has open when the head is lost, or refuses it, ends with the reason; nobody waits
for an answer that cannot come.
"""

from __future__ import annotations

import secrets
from abc import abstractmethod
from pathlib import Path
from typing import Self

import anyio
from anyio.abc import TaskGroup

from fleet.actor import Actor, FleetError
from fleet.runs.serve import client_security
from fleet.runtime.live import LiveRuntime
from fleet.runtime.membership import MembershipOptions
from fleet.runtime.peers import Peer
from fleet.runtime.transport import Node, NodeOptions


class Speaker(Actor):
    """The actor that speaks on a connection."""

    @abstractmethod
    def end_all(self, detail: str) -> None:
        """Nobody waits for answers any more: the head is gone, or this end is."""


class Connection:
    """To the head at `head`, as ``KIND/NAME`` with a name of its own.

    `keys` and `server_key` are as for `drive`. `timeout_s` bounds how long to wait for a head at all.
    """

    def __init__(
        self,
        head: str,
        kind: str,
        speaker: Speaker,
        *,
        keys: Path | None,
        server_key: str | None,
        insecure: bool,
        timeout_s: float,
    ) -> None:
        name = f"{kind}-{secrets.token_hex(3)}"
        self.kind, self.address = kind, f"{kind}/{name}"
        self._head = head
        options = NodeOptions(membership=MembershipOptions(connect_timeout_s=timeout_s))
        self._node = Node(
            name, options=options, security=client_security(keys, server_key), insecure=insecure
        )
        self._runtime = LiveRuntime(
            node=self._node, name=name, observers=None, on_peer_joined=self._joined, on_peer_lost=self._lost
        )
        self._speaker = speaker
        self._tasks: TaskGroup
        self._settled: anyio.Event
        self._problem: str | None = f"the {kind} is not open: it is within `async with`"

    def demand_open(self) -> None:
        """Raises `FleetError` that says why nobody hears what is said here."""
        if self._problem is not None:
            raise FleetError(self._problem)

    async def __aenter__(self) -> Self:
        self._settled = anyio.Event()
        self._tasks = await anyio.create_task_group().__aenter__()
        try:
            self._node.connect(self._head)
            self._runtime.add(self.address, self._speaker)
            self._tasks.start_soon(self._run)
            await self._settled.wait()
            self.demand_open()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._fail(f"the {self.kind} is closed")
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
        self._speaker.end_all(problem)
        self._problem = problem
        self._settled.set()
