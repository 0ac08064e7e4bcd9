"""The launcher of a live fleet: it gives each wanted replica a host process that has joined.

Hosts join by themselves (`fleet join`), or are asked of a `HostSource`: child processes of the head. Spare hosts
have started and imported everything but hold no model, so that provisioning a replica costs its model's load and
nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from msgspec.structs import replace

from fleet.actor import Context
from fleet.actors.replica import ReplicaSettings
from fleet.actors.roster import REMEMBERED
from fleet.launch.places import PlacedLauncher
from fleet.launch.portable import encode_settings
from fleet.messages import (
    HostReplica,
    KillReplica,
    Message,
    ReplicaExited,
    ReplicaReported,
    StartReplica,
    Undeliverable,
)


class HostSource(Protocol):
    """Where host processes come from. None of its methods blocks."""

    def request(self) -> bool:
        """Start one more, which joins when it is up; False when this source has no more."""

    def kill(self, host: str) -> None:
        """End it at once."""


class Launcher(PlacedLauncher):
    """Matches wanted replicas with hosts, in the order of both."""

    def __init__(
        self,
        settings: Callable[[str], ReplicaSettings],
        source: HostSource,
        *,
        places: Mapping[str, int],
        spares: int,
        observers: str = "observers",
    ) -> None:
        super().__init__(places=places, observers=observers)
        self._settings = settings
        self._source = source
        self._spares = spares
        self._wanted: deque[StartReplica] = deque()
        self._free: list[str] = []
        self._starting = 0
        self.assigned: dict[str, str] = {}
        """The host of each replica."""
        self.last_report: dict[str, ReplicaReported] = {}
        self.on_change: Callable[[], None] = lambda: None
        """Called when a replica reported a new state or ended."""
        self.exits: dict[str, str] = {}
        """Why each replica that is gone went."""
        self.closing = False

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        self._provide()

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            **super().handlers(),
            KillReplica: self.on_kill_replica,
            ReplicaReported: self.on_replica_reported,
            ReplicaExited: self.on_replica_exited,
            Undeliverable: self.on_undeliverable,
        }

    # --- hosts -------------------------------------------------------------------------------------------------

    def host_joined(self, host: str) -> None:
        """A host said Hello."""
        if host in self.assigned.values() or host in self._free:
            return
        self._starting = max(0, self._starting - 1)
        self._free.append(host)
        self._match()

    def host_lost(self, host: str, detail: str, *, expected: bool) -> None:
        """A host ended, fell silent or was killed. What still runs of it is ended: no replica is there twice."""
        if host in self._free:
            self._free.remove(host)
        for replica, holder in list(self.assigned.items()):
            if holder == host:
                del self.assigned[replica]
                report = self.last_report.pop(replica, None)
                if report is not None and report.state in ("stopped", "failed"):
                    detail, expected = report.detail or detail, report.state == "stopped"
                self.ctx.send(self._observers, ReplicaExited(replica, detail, expected))
                self.left(replica)
        if not expected:
            self._source.kill(host)
        self._provide()

    def host_never_joined(self, detail: str) -> None:
        """A host ended before it could join: the replica that waits for one fails to start."""
        self._starting = max(0, self._starting - 1)
        if self._wanted and not self.closing:
            replica = self._wanted.popleft().replica
            self.ctx.send(self._observers, ReplicaExited(replica, f"its process did not come up: {detail}"))
            self.left(replica)

    def _provide(self) -> None:
        """Have a host for every wanted replica, and the spares."""
        missing = len(self._wanted) + self._spares - len(self._free) - self._starting
        for _ in range(missing if not self.closing else 0):
            if not self._source.request():
                break
            self._starting += 1

    def _match(self) -> None:
        while self._wanted and self._free:
            request = self._wanted.popleft()
            host = self._free.pop(0)
            self.assigned[request.replica] = host
            fail = self.load_fails(request.replica)
            settings = replace(self._settings(request.replica), activate=request.activate, fail_load=fail)
            self.ctx.send(host, HostReplica(request.replica, encode_settings(settings)))
        self._provide()

    # --- replicas ----------------------------------------------------------------------------------------------

    def begin(self, request: StartReplica) -> None:
        self._wanted.append(request)
        self._match()

    def on_kill_replica(self, message: KillReplica) -> None:
        host = self.assigned.get(message.replica)
        if host is not None:
            self._source.kill(host)
            self.host_lost(host, "killed by the autoscaler", expected=True)
        elif not self.call_off(message.replica):
            self._give_up(message.replica, "no longer wanted", expected=True)

    def crash(self, replica: str) -> None:
        """A fault: SIGKILL to its process, or the end of a start that has none yet."""
        host = self.assigned.get(replica)
        if host is not None:
            self._source.kill(host)
        else:
            self._give_up(replica, "killed by a fault before its process came up", expected=False)

    def _give_up(self, replica: str, detail: str, *, expected: bool) -> None:
        """End a start that waits for a host."""
        for request in list(self._wanted):
            if request.replica == replica:
                self._wanted.remove(request)
                self.ctx.send(self._observers, ReplicaExited(replica, detail, expected))
                self.left(replica)

    def on_replica_reported(self, message: ReplicaReported) -> None:
        if message.replica not in self.assigned:
            return  # it was given up
        before = self.last_report.get(message.replica)
        self.last_report[message.replica] = message
        self.vacates(message)
        if before is None or before.state != message.state:
            self.on_change()

    def on_replica_exited(self, message: ReplicaExited) -> None:
        self.exits[message.replica] = message.detail
        if len(self.exits) > REMEMBERED:
            del self.exits[next(iter(self.exits))]
        self.on_change()

    def on_undeliverable(self, message: Undeliverable) -> None:
        if isinstance(message.message, HostReplica):
            self.host_lost(message.to, f"{message.to} is {message.reason}", expected=False)
