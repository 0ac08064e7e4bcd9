"""The head's process of a live fleet: its actors, its node, and the host processes it starts.

`replay` and `serve` are both a `LiveHead`; they differ in what they do beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio

from fleet.launch.launcher import Launcher
from fleet.launch.portable import modules_in, modules_of
from fleet.launch.subprocess_hosts import SubprocessHosts
from fleet.messages import Drain
from fleet.runs.assembly import WATCHERS, Head, demand_no_oracle
from fleet.runtime.live import LiveRuntime
from fleet.runtime.membership import MembershipOptions
from fleet.runtime.peers import Peer
from fleet.runtime.security import Security
from fleet.runtime.transport import Node, NodeOptions
from fleet.spec import FleetSpec
from fleet.telemetry.sink import Telemetry, Watcher

log = logging.getLogger("fleet.head")


class LiveHead:
    """A node that listens, a launcher with its hosts, and a `Head` that the subclass hosts when it is time."""

    hosts: SubprocessHosts
    launcher: Launcher
    endpoint: str
    """All three are there once `run` has begun."""

    def __init__(
        self,
        spec: FleetSpec,
        *,
        seed: int,
        stamp_arrivals: bool = False,
        keep_rows: int | None = None,
        watcher: Watcher | None = None,
        security: Security | None = None,
        insecure: bool = False,
        allow_modules: Sequence[str] = (),
    ) -> None:
        """`allow_modules`: beside what the spec names itself, what operations on this fleet may name components of."""
        self.spec = spec = spec.replace()  # fresh policies: a spec can be run any number of times
        demand_no_oracle(spec)
        self.seed = seed
        self.modules = sorted({*modules_in(spec.to_dict()), *allow_modules})
        """What may be imported because somebody else says so, beside installed distributions."""
        self.telemetry = Telemetry(keep_rows=keep_rows, pooled=bool(spec.pools), watcher=watcher)
        self.head = Head(spec, self.telemetry, seed=seed, stamp_arrivals=stamp_arrivals, timed=True,
                         say=log.error)  # fmt: skip
        options = NodeOptions(membership=MembershipOptions(lease_s=spec.lease_s))
        self.node = Node("head", options=options, security=security, insecure=insecure)
        self.runtime = LiveRuntime(
            seed=seed,
            node=self.node,
            name="head",
            on_peer_joined=self._joined,
            on_peer_lost=self._lost,
            observers=None,
        )

    async def run(
        self,
        bind: str,
        *beside: Callable[[], Coroutine[Any, Any, None]],
        spares: int = 0,
        most: int | None = None,
    ) -> None:
        """Listen at `bind`, and run until the runtime is stopped; each of `beside` is a task that begins with it.

        `spares` and `most` bound the host processes that are children of this one. None of them outlives the call.
        """
        try:
            # What is to be run on this machine is what this process was given: its own hosts may import that.
            settings = [self.head.settings(made.pool.replica(0)) for made in self.head.pools.values()]
            modules = sorted({*self.modules, *(module for item in settings for module in modules_of(item))})
            self.endpoint = self.node.bind(bind)
            async with anyio.create_task_group() as tasks:
                self.hosts = SubprocessHosts(
                    self.node, self.endpoint, tasks, seed=self.seed, lease_s=self.spec.lease_s, most=most,
                    modules=modules,
                )  # fmt: skip
                self.launcher = self.hosts.launcher = Launcher(
                    self.head.settings, self.hosts,
                    places=self.head.places(), spares=spares,
                )  # fmt: skip
                self.head.listen(self.runtime)
                self.runtime.subscribe(WATCHERS, "launcher")
                self.runtime.add("launcher", self.launcher)
                try:
                    async with anyio.create_task_group() as running:
                        for task in beside:
                            running.start_soon(task)
                        await self.runtime.run()
                        running.cancel_scope.cancel()
                finally:
                    self.launcher.closing = True
                    with anyio.CancelScope(shield=True):
                        await self.hosts.close()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            self.node.close()  # no-op when the runtime closed it

    def _joined(self, peer: Peer) -> None:
        given_up = [address for address in sorted(peer.addresses) if address.startswith("replica/")]
        if given_up:
            # It stood still, lost its lease and was replaced; or it served a head that was here before. Now it is back.
            self.telemetry.counters["came_back_too_late"] += len(given_up)
            for address in given_up:
                self.runtime.send(address, "launcher", Drain())
            self.node.disown(peer, given_up)  # a new replica may have, or get, the same address
            return
        for address in _hosts_of(peer):
            self.hosts.joined.add(address)
            self.launcher.host_joined(address)

    def _lost(self, peer: Peer, reason: str, expected: bool) -> None:
        for address in _hosts_of(peer):
            if not self.launcher.closing:
                self.launcher.host_lost(address, reason, expected=expected)


def _hosts_of(peer: Peer) -> list[str]:
    return sorted(address for address in peer.addresses if address.startswith("host/"))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception that ended the run, out of the task groups' wrapping."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
