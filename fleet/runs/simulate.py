"""`simulate`: play a trace against a fleet in exact virtual time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from fleet.actor import FleetError
from fleet.actors.load_generator import LoadGenerator
from fleet.launch.places import FleetPlaces, Place
from fleet.launch.simulated import SimulatedLauncher
from fleet.runs.arguments import demand_seconds, demand_seed
from fleet.runs.assembly import WATCHERS, Head, generates, initial_replicas
from fleet.runs.deadlock import DeadlockWatch
from fleet.runs.faults import FaultInjector
from fleet.runs.invariants import InvariantChecker, audit
from fleet.runs.operator import OPERATOR, Operator
from fleet.runtime.simulated import SimulatedRuntime
from fleet.spec import FleetSpec
from fleet.telemetry.calls import CallLog
from fleet.telemetry.run import Run, finish_run
from fleet.telemetry.sink import Telemetry, Watcher
from traces import FaultTrace, OperationsTrace, Trace
from traces.answers import answer_blocks

CLIENT = "client/trace"


def simulate(
    trace: Trace,
    spec: FleetSpec,
    *,
    seed: int = 0,
    faults: FaultTrace | None = None,
    operations: OperationsTrace | None = None,
    sessions: bool = False,
    stream: bool = False,
    check: bool = True,
    until_s: float | None = None,
    log_views: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Run:
    """Play `trace` against the fleet of `spec` in virtual time.

    `operations` changes the fleet at the times that they say, as a person would change one that runs.
    The run ends when every request has ended, or at `until_s` (virtual seconds): what is then in flight is
    reported as such. `sessions` plays requests with a parent closed-loop, after their parent's reply. `stream` has
    every output token sent as it comes, which makes each step an event, and lets a failed attempt be resumed where
    its client is; otherwise it begins anew. `check` runs the invariant checker. `log_views` keeps what the routing
    policies were asked, shown and told (`Run.calls`, `Run.views`), for `experiments.regret`. `on_progress` gets the
    number of replies, now and then.

    The same arguments give the same `Run.digest`, in every process. Raises `PolicyError` when a policy breaks
    its contract, `FleetError` when the fleet cannot go on (the message ends with how to see it again): a
    `DeadlockError` says who waits for what when requests wait and nothing is left that could end them.
    """
    simulation = Simulation(trace, spec, seed=seed, faults=faults, operations=operations, sessions=sessions,
                            stream=stream, check=check, watcher=CallLog() if log_views else None,
                            on_progress=on_progress)  # fmt: skip
    return simulation.run(until_s)


class Simulation:
    """One simulated run, with its parts at hand; `simulate` is what most callers want."""

    def __init__(
        self,
        trace: Trace,
        spec: FleetSpec,
        *,
        seed: int = 0,
        faults: FaultTrace | None = None,
        operations: OperationsTrace | None = None,
        sessions: bool = False,
        stream: bool = False,
        check: bool = True,
        watcher: Watcher | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """`watcher` stands between the router and its routing policies."""
        demand_seed(seed)
        spec = spec.replace()  # fresh policies: a spec can be run any number of times
        self.trace, self.spec, self.seed, self.faults = trace, spec, seed, faults
        self.options: dict[str, Any] = {"sessions": sessions, "stream": stream}
        if operations is not None:
            self.options["operations"] = msgspec.to_builtins(operations)
        self.telemetry = Telemetry(pooled=bool(spec.pools), watcher=watcher)
        self.runtime = SimulatedRuntime(seed=seed, network=spec.network)
        self.head = Head(spec, self.telemetry, seed=seed)
        lengths = self._true_lengths()
        self.launcher = SimulatedLauncher(
            self.runtime,
            self.head.settings,
            places=self.head.places(),
            provision_s=self.head.provision_s,
            lease_s=spec.lease_s,
            reveal=lengths,
        )
        self.client = LoadGenerator(
            trace, telemetry=self.telemetry, on_done=self.runtime.stop, sessions=sessions, stream=stream,
            progress=on_progress, answers=answer_blocks(trace) if generates(spec) else None,
        )  # fmt: skip
        self.head.listen(self.runtime)
        self.head.host(self.runtime)
        self.runtime.subscribe(WATCHERS, "launcher")
        self.runtime.add("launcher", self.launcher)
        if faults is not None:
            self.runtime.subscribe(WATCHERS, "faults")
            self.injector = FaultInjector(
                faults, SimulatedFaults(self.runtime, self.launcher), self.telemetry
            )
            self.runtime.add("faults", self.injector)
        self.operator = Operator(self.head, self.runtime, operations)
        self.runtime.add(OPERATOR, self.operator)
        for address in initial_replicas(spec):
            self.launcher.bring_up(address, preloaded=True)
        self.runtime.add(CLIENT, self.client)
        if lengths is not None:
            self.head.show_lengths(lengths)
        self.checker = InvariantChecker(self) if check else None
        if self.checker is not None:
            mixed = len({pool.serves for pool in spec.serving}) < len(spec.serving)
            self.checker.moves = operations is not None or mixed
            self.runtime.after_each = self.checker.check

    def run(self, until_s: float | None = None) -> Run:
        """Run to the end, or to the horizon."""
        demand_seconds(until_s=until_s)
        if until_s is None:
            self.runtime.add("deadlock", DeadlockWatch(self.runtime, self._progress, self._waiting))
        try:
            with _no_collections():
                self.runtime.run(waiting=self._waiting, until_s=until_s)
        except Exception as error:
            error.add_note(
                f"virtual time {self.runtime.now:.6f} s; "
                f"see it again with seed={self.seed} on trace {self.trace.sha256[:16]}"
            )
            raise
        if self.faults is not None:
            self.injector.close()
        self.head.router.close()
        self.telemetry.counters["lost_messages"] += self.runtime.lost
        run = finish_run(
            self.telemetry, self.trace, self.spec, seed=self.seed, runtime="simulated", ended_s=self.runtime.now,
            unfinished=self.client.unfinished(), faults=self.faults,
            options={**self.options, "until_s": until_s},
        )  # fmt: skip
        if self.checker is not None:
            self.checker.check_all()
            audit(run, self.spec)
        return run

    def _progress(self) -> tuple[int, ...]:
        """Changes whenever a request comes or ends, tokens come, a batch is sent, or a start fails."""
        telemetry = self.telemetry
        failed_starts = telemetry.counters["failed_starts"]
        return self.client.progress(), len(telemetry.dispatches), failed_starts

    def _waiting(self) -> list[str]:
        """Who waits for what: by pools, by the router, and of what the router has ended, by the client."""
        router = self.head.router
        lost = [
            id for id in self.client.without_reply() if id not in router.pending and id not in router.lobby
        ]
        return [
            *self._without_replicas(),
            *router.waiting(),
            *(f"request {id} waits for a reply that was lost" for id in lost[:20]),
        ]

    def _without_replicas(self) -> Iterator[str]:
        """The pools in which requests wait while none of their replicas is ready, and what may be the reason."""
        for name, desk in self.head.router.catalogue.desks.items():
            made, waiting = self.head.pools.get(name), desk.demand.waiting
            stands = None if made is None else made.autoscaler.described()
            if stands is None or not waiting or "ready" in stands["replicas"]:
                continue
            there = ", ".join(f"{count} {state}" for state, count in stands["replicas"].items()) or "none"
            operation = self.operator.last.get(name)
            since = f", the last operation on it was {operation}" if operation else ""
            failure = f"; its last start failed: {stands['failure']}" if stands["failure"] else ""
            yield (
                f"pool {name} has no ready replica ({there}; it may have {stands['min_replicas']} to "
                f"{stands['max_replicas']}{since}), and {waiting:,} of its requests wait{failure}"
            )

    def _true_lengths(self) -> Callable[[str], int | None] | None:
        """The oracle boundary: read only when a policy declares itself an oracle, and shown to no other."""
        if not any(policy.oracle for policy in self.head.policies()):
            return None
        return {entry.request.id: entry.output_tokens for entry in self.trace}.get


class SimulatedFaults:
    """The fault surface of the simulated runtime."""

    def __init__(self, runtime: SimulatedRuntime, launcher: SimulatedLauncher) -> None:
        self._runtime, self._launcher = runtime, launcher
        self._hung: dict[str, Callable[[], None]] = {}

    @property
    def places(self) -> FleetPlaces:
        return self._launcher.places

    def break_place(self, place: Place, until_s: float) -> None:
        self._launcher.break_place(place, until_s)

    def has_process(self, address: str) -> bool:
        return address in self._runtime.contexts

    def crash(self, replica: str) -> None:
        self._hung.pop(replica, None)
        self._launcher.kill(replica, "killed by a fault (SIGKILL)")

    def hang(self, replica: str) -> None:
        if replica in self._runtime.contexts and replica not in self._hung:
            self._hung[replica] = self._runtime.stop_actor(replica)
            self._launcher.fall_silent(replica, "hang")

    def resume(self, replica: str) -> None:
        resume = self._hung.pop(replica, None)
        if resume is not None:
            resume()
            self._launcher.be_heard(replica, "hang")

    def partition(self, replica: str, cut: bool) -> None:
        if replica not in self._runtime.contexts:
            return  # it is gone
        self._runtime.partition(replica, cut)
        self._silence(replica, "partition", cut)

    def drop(self, replica: str, probability: float) -> None:
        if replica not in self._runtime.contexts:
            return
        self._runtime.drop(replica, probability)
        self._silence(replica, "drop", probability >= 1.0)

    def _silence(self, replica: str, why: str, silent: bool) -> None:
        """A client's silence is the client's own affair."""
        if replica.startswith("replica/"):
            (self._launcher.fall_silent if silent else self._launcher.be_heard)(replica, why)

    def fail_load(self, replica: str | None) -> None:
        self._launcher.failing_loads.append(replica)

    def unused(self) -> int:
        return len(self._launcher.failing_loads)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Pause the cyclic collector: a run makes many objects and no cycles, so looking for them is lost time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


__all__ = ["FleetError", "Simulation", "simulate"]
