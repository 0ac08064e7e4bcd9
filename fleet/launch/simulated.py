"""How a replica comes to be in virtual time: after `provision_s`, as an actor of the same kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from fleet.actor import Actor
from fleet.actors.replica import Replica, ReplicaSettings
from fleet.messages import (
    KillReplica,
    Message,
    ReplicaExited,
    ReplicaReported,
    StartReplica,
    Tick,
    TrustChanged,
)
from fleet.runtime.simulated import SimulatedRuntime


class SimulatedLauncher(Actor):
    """Adds replicas to the kernel and takes them out of it."""

    def __init__(
        self,
        runtime: SimulatedRuntime,
        settings: Callable[[str], ReplicaSettings],
        *,
        provision_s: float,
        observers: str = "observers",
    ) -> None:
        self._runtime = runtime
        self._settings = settings
        self._provision_s = provision_s
        self._observers = observers
        self._pending: dict[str, StartReplica] = {}
        self.failing_loads: list[str | None] = []
        """Faults not yet used up: addresses whose next load fails; None means the next one, whoever it is."""

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            StartReplica: self.on_start_replica,
            KillReplica: self.on_kill_replica,
            ReplicaReported: self.on_replica_reported,
            ReplicaExited: self.ignore,
            TrustChanged: self.ignore,
            Tick: self.on_tick,
        }

    def on_start_replica(self, message: StartReplica) -> None:
        self._pending[message.replica] = message
        self.ctx.after(self._provision_s, Tick("provisioned", message.replica))

    def on_tick(self, message: Tick) -> None:
        request = self._pending.pop(message.key, None)
        if request is not None:
            self.bring_up(request.replica, activate=request.activate)

    def bring_up(self, address: str, *, activate: bool = True, preloaded: bool = False) -> None:
        """Start the replica now; `preloaded` ones are ready at once, as if they had been there before."""
        fail = address in self.failing_loads or None in self.failing_loads
        if fail:
            self.failing_loads.remove(address if address in self.failing_loads else None)
        settings = replace(self._settings(address), activate=activate, preloaded=preloaded, fail_load=fail)
        self._runtime.add(address, Replica(settings, observers=self._observers))

    def on_kill_replica(self, message: KillReplica) -> None:
        self.kill(message.replica, "killed by the autoscaler", expected=True)

    def kill(self, address: str, detail: str, *, expected: bool = False) -> None:
        """SIGKILL: the replica is gone, and its launcher sees that at once."""
        was_pending = self._pending.pop(address, None) is not None
        if was_pending or address in self._runtime.contexts:
            self._runtime.remove(address)
            self.ctx.send(self._observers, ReplicaExited(address, detail, expected))

    def on_replica_reported(self, message: ReplicaReported) -> None:
        if message.state in ("stopped", "failed"):
            self._runtime.remove(message.replica)

    def ignore(self, message: Message) -> None:
        """Not for the launcher."""
