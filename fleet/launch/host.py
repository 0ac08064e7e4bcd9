"""A replica's process.

It connects outward to the head, waits to be told which replica to be, becomes it, and ends with it. It is
started fresh, never forked, and ends when its head says goodbye or its standard input closes (its parent died).
"""

from __future__ import annotations

import asyncio
import functools
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
from fleet.runtime.live import LiveRuntime, RefusedError, run
from fleet.runtime.membership import MembershipOptions
from fleet.runtime.peers import Peer
from fleet.runtime.rights import role_of
from fleet.runtime.security import Security
from fleet.runtime.transport import Node, NodeOptions
from policies.base import PolicyError

log = logging.getLogger("fleet.host")

EXIT_FAILED = 1
REJOIN_S = 60.0
"""How long a head that was lost may take to come back."""


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
        rejoin_s: float,
        allowed: Sequence[str] = (),
    ) -> None:
        self._head = head
        self._rejoin_s = rejoin_s
        self._head_is: int | None = None
        """The incarnation of the head that it belongs to."""
        self._was_lost = False
        """It was without a head for a while, who may have replaced its replica meanwhile."""
        self._giving_up: asyncio.TimerHandle | None = None
        self._told_to_end = False
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
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
            log.warning("the head at %s is back", self._head)
        before, self._head_is = self._head_is, peer.incarnation
        if before not in (None, peer.incarnation) and self._host.replica is not None:
            # Another head, to which this replica means nothing.
            self._was_lost = True
            self._runtime.stop()

    def _head_lost(self, peer: Peer, reason: str, expected: bool) -> None:
        if expected:
            self._end()
        elif self._head_is is None:
            self.problem = f"no head at {self._head}: {reason}"
            self._end()
        elif self._giving_up is None:
            # A head that stood still goes on where it was, so whatever runs here runs on.
            self._was_lost = True
            gone = f"the head at {self._head} is gone: {reason}"
            log.warning("%s; waiting %g s for one to come back", gone, self._rejoin_s)
            self._giving_up = self._runtime.loop.call_later(self._rejoin_s, self._give_up, gone)

    def _give_up(self, gone: str) -> None:
        self.problem = f"{gone}; none came back in {self._rejoin_s:g} s"
        self._end()

    def _end(self) -> None:
        """For good: the head said goodbye, or is gone, or a signal came."""
        self._told_to_end = True
        self._runtime.stop()

    @property
    def anew(self) -> bool:
        """Its replica belonged to a head that is gone, or had given it up: it can be another one."""
        return self._was_lost and self._host.replica is not None and not self._told_to_end

    def _on_input(self) -> None:
        """The parent never writes; the end of the file means that it is gone."""
        if not os.read(0, 4096):
            self._runtime.loop.remove_reader(0)
            self._end()

    async def main(self, watch_input: bool) -> None:
        """Connect, and run to the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end)
        if watch_input:
            loop.add_reader(0, self._on_input)
        try:
            self._node.connect(self._head)
            await self._runtime.run()
        finally:
            if self._giving_up is not None:
                self._giving_up.cancel()
            self._node.close()  # no-op when the runtime closed it
            if watch_input:
                loop.remove_reader(0)

    @property
    def failure(self) -> str | None:
        """Why it could not be what it was told, or why its replica failed, if it did."""
        replica = self._host.replica
        if self._host.problem is not None or replica is None or replica.state != "failed":
            return self._host.problem
        return f"{replica.ctx.address} failed: {replica.failure}"


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
    rejoin_s: float = REJOIN_S,
    allow_modules: Sequence[str] = (),
) -> int:
    """Host one replica for the head at `head`; answers the exit status.

    A head that is lost has `rejoin_s` to come back. One that stood still finds the replica as it was; another one on
    the same address gets this host anew, empty. The head names what to run. It is imported from installed
    distributions, and from `allow_modules` with what is below them; nothing else is.
    """
    while True:
        process = HostProcess(
            head, name, seed=seed, security=security, insecure=insecure, lease_s=lease_s, keep_trying=keep_trying,
            rejoin_s=rejoin_s, allowed=allow_modules,
        )  # fmt: skip
        try:
            run(functools.partial(process.main, watch_input))
        except (FleetError, PolicyError) as error:
            if not (isinstance(error, RefusedError) and process.anew):
                print(f"{name}: {error}", file=sys.stderr)
                return EXIT_FAILED
        if not process.anew:
            break
        log.warning("%s offers itself anew", name)
    problem = process.problem or process.failure
    if process.problem is not None or (
        problem is not None and not watch_input
    ):  # else the head is here, and says it
        print(f"{name}: {problem}", file=sys.stderr)
    return 0 if problem is None else EXIT_FAILED
