"""A replica's process.

It connects outward to the head, waits to be told which replica to be, becomes it, and ends with it. It is
started fresh, never forked, and ends when its head says goodbye or its standard input closes (its parent died).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from fleet.actor import Actor, FleetError
from fleet.actors.replica import Replica
from fleet.launch.making import make_replica
from fleet.launch.portable import decode_settings
from fleet.messages import HostReplica, Message, ReplicaReported, Undeliverable
from fleet.runtime.live import LiveRuntime, run
from fleet.runtime.membership import MembershipOptions
from fleet.runtime.peers import Peer
from fleet.runtime.rights import role_of
from fleet.runtime.security import Security
from fleet.runtime.transport import Node, NodeOptions
from policies.base import PolicyError

log = logging.getLogger("fleet.host")

EXIT_FAILED = 1


class ReplicaHost(Actor):
    """Waits for `HostReplica`, and hosts that one replica."""

    def __init__(self, runtime: LiveRuntime, allowed: Sequence[str] = ()) -> None:
        self._runtime = runtime
        self._allowed = allowed
        """Modules that may be imported beside those of installed distributions."""
        self.replica: Replica | None = None
        self.problem: str | None = None
        """Why it could not become what it was told."""

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {HostReplica: self.on_host_replica, Undeliverable: self.on_undeliverable}

    def on_host_replica(self, message: HostReplica) -> None:
        if self.replica is not None:
            log.error("%s is asked to be %s too; refused", self.ctx.address, message.replica)
            return
        if role_of(message.replica) != "replica":
            log.error("%s is asked to be %r, which is no replica; refused", self.ctx.address, message.replica)
            return
        try:
            replica = make_replica(
                decode_settings(message.settings, self._allowed), on_end=self._replica_ended
            )
        except Exception as error:  # what a component's own code raises when it is built may be anything
            self._cannot_be(message.replica, str(error))
            return
        self.replica = replica
        self._runtime.add(message.replica, replica)

    def _cannot_be(self, replica: str, why: str) -> None:
        """Report it as the replica that it should have been, since nobody reports another, and end."""
        log.error("%s cannot be %s: %s", self.ctx.address, replica, why)
        self.problem = f"it cannot be {replica}: {why}"
        if self._runtime.node is not None:
            self._runtime.node.host(replica)
        self._runtime.send("observers", replica, ReplicaReported(replica, "failed", 0, detail=why))
        self._runtime.loop.call_later(0.2, self._runtime.stop)

    def _replica_ended(self) -> None:
        # Once round the loop, so that the last report leaves first.
        self._runtime.loop.call_later(0.05, self._runtime.stop)

    def on_undeliverable(self, message: Undeliverable) -> None:
        """The head is away; its lease decides."""


class HostProcess:
    """One process that hosts one replica."""

    def __init__(
        self,
        head: str,
        name: str,
        *,
        seed: int,
        security: Security | None,
        insecure: bool,
        lease_s: float,
        keep_trying: bool,
        allowed: Sequence[str] = (),
    ) -> None:
        self._head = head
        self._keep_trying = keep_trying
        self._joined = False
        membership = MembershipOptions(lease_s=lease_s, connect_timeout_s=3600.0 if keep_trying else 15.0)
        options = NodeOptions(membership=membership)
        self._node = Node(name, options=options, security=security, insecure=insecure)
        self._runtime = LiveRuntime(
            seed=seed,
            node=self._node,
            name=name,
            observers=None,
            on_peer_joined=self._head_joined,
            on_peer_lost=self._head_lost,
        )
        self._host = ReplicaHost(self._runtime, allowed)
        self._runtime.add(f"host/{name}", self._host)
        self.problem: str | None = None

    def _head_joined(self, peer: Peer) -> None:
        self._joined = True

    def _head_lost(self, peer: Peer, reason: str, expected: bool) -> None:
        if not expected:
            self.problem = (
                f"the head at {self._head} is gone: {reason}"
                if self._joined
                else f"no head at {self._head}: {reason}"
            )
        self._runtime.stop()

    def _on_input(self) -> None:
        """The parent never writes; the end of the file means that it is gone."""
        if not os.read(0, 4096):
            self._runtime.loop.remove_reader(0)
            self._runtime.stop()

    async def main(self, watch_input: bool) -> None:
        """Connect, and run to the end."""
        import asyncio

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._runtime.stop)
        if watch_input:
            loop.add_reader(0, self._on_input)
        try:
            self._node.connect(self._head)
            await self._runtime.run()
        finally:
            self._node.close()  # no-op when the runtime closed it
            if watch_input:
                loop.remove_reader(0)

    def problems(self) -> list[str]:
        """What did not go as it should, for people."""
        return [problem for problem in (self._host.problem, self.problem) if problem is not None]

    def exit_code(self) -> int:
        """0 when it ended in good order."""
        replica = self._host.replica
        if (
            self.problem is not None
            or self._host.problem is not None
            or (replica is not None and replica.state == "failed")
        ):
            return EXIT_FAILED
        return 0


def host(
    head: str,
    name: str,
    *,
    seed: int = 0,
    security: Security | None = None,
    insecure: bool = False,
    lease_s: float = 3.0,
    watch_input: bool = False,
    keep_trying: bool = False,
    allow_modules: Sequence[str] = (),
) -> int:
    """Host one replica for the head at `head`; answers the exit status.

    The head names what to run. It is imported from installed distributions, and from `allow_modules` with what is below
    them; nothing else is.
    """
    process = HostProcess(
        head, name, seed=seed, security=security, insecure=insecure, lease_s=lease_s, keep_trying=keep_trying,
        allowed=allow_modules,
    )  # fmt: skip
    try:
        run(lambda: process.main(watch_input))
    except (FleetError, PolicyError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_FAILED
    for problem in process.problems():
        print(f"{name}: {problem}", file=sys.stderr)
    return process.exit_code()
