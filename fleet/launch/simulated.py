"""How a replica comes to be in virtual time: after `provision_s`, as an actor of the same kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from fleet.actors.replica import ReplicaSettings
from fleet.launch.making import make_replica
from fleet.launch.places import PlacedLauncher
from fleet.messages import (
    KillReplica,
    LoadFinished,
    Message,
    ReplicaExited,
    ReplicaReported,
    StartReplica,
    Tick,
    Undeliverable,
)
from fleet.runtime.simulated import SimulatedRuntime


class SimulatedLauncher(PlacedLauncher):
    """Adds replicas to the kernel and takes them out of it."""

    def __init__(
        self,
        runtime: SimulatedRuntime,
        settings: Callable[[str], ReplicaSettings],
        *,
        places: Mapping[str, int],
        provision_s: Callable[[str], float],
        lease_s: float = 3.0,
        observers: str = "observers",
        reveal: Callable[[str], int | None] | None = None,
    ) -> None:
        super().__init__(places=places, observers=observers)
        self._reveal = reveal
        self._runtime = runtime
        self._settings = settings
        self._provision_s, self._lease_s = provision_s, lease_s
        self._pending: dict[str, StartReplica] = {}
        self._reasons: dict[str, set[str]] = {}
        """Why nothing is heard of a replica: its hang, its partition, its end."""
        self._silences: dict[str, int] = {}
        """The number of the silence it is in."""
        self._last_silence = 0

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {
            **super().handlers(),
            KillReplica: self.on_kill_replica,
            ReplicaReported: self.on_replica_reported,
            ReplicaExited: self.ignore,
            Undeliverable: self.ignore,
        }

    def begin(self, request: StartReplica) -> None:
        self._pending[request.replica] = request
        self.ctx.after(self._provision_s(request.replica), Tick("provisioned", request.replica))

    def on_tick(self, message: Tick) -> None:
        replica, silence = message.key, message.number
        if message.what == "provisioned":
            request = self._pending.pop(replica, None)
            if request is not None:
                self.bring_up(replica, activate=request.activate)
        elif message.what in ("broken", "room"):
            super().on_tick(message)
        elif self._silences.get(replica) != silence:
            return  # it was heard again
        elif message.what == "silent":
            self.ctx.after(self._lease_s, Tick("lease", replica, silence))
        elif message.what == "lease":
            # Heard again at this very instant it keeps its lease: all else of now goes first.
            self.ctx.after(0.0, Tick("lost", replica, silence))
        else:
            self.kill(replica, f"silent for {self._lease_s:g} s")

    # --- leases ------------------------------------------------------------------------------------------------

    def fall_silent(self, replica: str, why: str) -> None:
        """Nothing is heard of it from now on. Live, the head's node notices that, and a lease later ends it."""
        if replica not in self._runtime.contexts:
            return
        self._reasons.setdefault(replica, set()).add(why)
        if replica not in self._silences:
            self._last_silence += 1
            self._silences[replica] = self._last_silence
            self.ctx.send(self.ctx.address, Tick("silent", replica, self._last_silence))

    def be_heard(self, replica: str, why: str) -> None:
        """One reason for its silence is over."""
        reasons = self._reasons.get(replica, set())
        reasons.discard(why)
        if not reasons:
            self._take_out_of_silence(replica)

    def _take_out_of_silence(self, replica: str) -> None:
        self._reasons.pop(replica, None)
        self._silences.pop(replica, None)

    # --- replicas ----------------------------------------------------------------------------------------------

    def bring_up(self, address: str, *, activate: bool = True, preloaded: bool = False) -> None:
        """Start the replica now; `preloaded` ones are ready at once, as if they had been there before."""
        self.places.of(address).take(address)
        settings = replace(
            self._settings(address),
            activate=activate,
            preloaded=preloaded,
            fail_load=self.load_fails(address),
        )
        # When its last words are lost, its silence tells.
        replica = make_replica(
            settings,
            observers=self._observers,
            on_end=lambda: self.fall_silent(address, "end"),
            reveal=self._reveal,
        )
        self._runtime.add(address, replica)
        if preloaded:
            # Its load, good or bad, was over before the run began.
            self._runtime.hasten(address, LoadFinished)

    def on_kill_replica(self, message: KillReplica) -> None:
        if not self.call_off(message.replica):
            self.kill(message.replica, "killed by the autoscaler", expected=True)

    def kill(self, address: str, detail: str, *, expected: bool = False) -> None:
        """SIGKILL: the replica is gone, and its launcher sees that at once."""
        was_pending = self._pending.pop(address, None) is not None
        if was_pending or address in self._runtime.contexts:
            self._remove(address)
            self.ctx.send(self._observers, ReplicaExited(address, detail, expected))

    def on_replica_reported(self, message: ReplicaReported) -> None:
        if message.state in ("stopped", "failed"):
            self._remove(message.replica)
        else:
            self.vacates(message)

    def _remove(self, replica: str) -> None:
        self._runtime.remove(replica)
        self._take_out_of_silence(replica)
        self.left(replica)

    def ignore(self, message: Message) -> None:
        """Not for the launcher."""
