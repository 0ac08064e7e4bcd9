"""`replay`: play a trace against a fleet of real processes, with the same policy objects and the same result type.

The head lives in the caller's process, so a policy defined in a script is used as it is. The run's clock starts
when the initial replicas are ready.
"""

from __future__ import annotations

import os
import platform
import random
import sys
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import msgspec

from fleet.actor import FleetError
from fleet.actors.load_generator import LoadGenerator
from fleet.launch.places import FleetPlaces, Place
from fleet.launch.portable import modules_in
from fleet.messages import Payload, StartReplica
from fleet.runs.arguments import demand_seconds, demand_seed
from fleet.runs.assembly import WATCHERS, generates, initial_replicas
from fleet.runs.faults import FaultInjector
from fleet.runs.live_head import LiveHead
from fleet.runs.operator import OPERATOR, Operator
from fleet.runtime.live import run
from fleet.seeding import rng_for
from fleet.spec import FleetSpec
from fleet.telemetry.calls import CallLog
from fleet.telemetry.run import Run, finish_run
from fleet.telemetry.sink import Watcher
from traces import FaultTrace, OperationsTrace, Trace
from traces.answers import answer_blocks
from traces.schema import Request

CLIENT = "client/trace"


def replay(
    trace: Trace,
    spec: FleetSpec,
    *,
    speed: float = 1.0,
    seed: int = 0,
    faults: FaultTrace | None = None,
    operations: OperationsTrace | None = None,
    sessions: bool = False,
    stream: bool = False,
    payload: Callable[[Request], Payload | None] | None = None,
    start_timeout_s: float = 180.0,
    stall_timeout_s: float = 120.0,
    log_views: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Run:
    """Play `trace` in real time: this process is the head, and each replica has a process of its own.

    `speed` makes arrivals come that many times faster; engines take the time they take, so the simulation to hold it
    against is that of ``trace.scale_rate(speed)``. `payload` makes what a request carries; without it an engine
    makes an input of the request's size. Requests end as failed (`stalled`) when no replica runs or loads anything for
    `stall_timeout_s`, however short or long the answers. `log_views` is that of `simulate`.

    Raises `FleetError` when the replicas do not come up in `start_timeout_s` (or the fleet's own, where that is
    shorter), and what a policy raised as `PolicyError`; no process outlives the call.
    """
    demand_seed(seed)
    demand_seconds(start_timeout_s=start_timeout_s, stall_timeout_s=stall_timeout_s)
    options: dict[str, Any] = {"speed": speed, "sessions": sessions, "stream": stream}
    if operations is not None:
        options["operations"] = msgspec.to_builtins(operations)
    live = LiveRun(trace if speed == 1.0 else trace.scale_rate(speed), spec, seed=seed, faults=faults,
                   operations=operations,
                   sessions=sessions, stream=stream, payload=payload, start_timeout_s=start_timeout_s,
                   stall_timeout_s=stall_timeout_s, watcher=CallLog() if log_views else None,
                   on_progress=on_progress, options=options)  # fmt: skip
    _demand_no_loop()
    result: Run = run(live.main)
    return result


def _demand_no_loop() -> None:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise FleetError(
        "replay() runs an event loop of its own; from async code use: await anyio.to_thread.run_sync(...)"
    )


class LiveRun(LiveHead):
    """One live run on this machine; `replay` is what most callers want."""

    def __init__(
        self,
        trace: Trace,
        spec: FleetSpec,
        *,
        seed: int,
        faults: FaultTrace | None,
        operations: OperationsTrace | None,
        sessions: bool,
        stream: bool,
        payload: Callable[[Request], Payload | None] | None,
        start_timeout_s: float,
        stall_timeout_s: float,
        watcher: Watcher | None,
        on_progress: Callable[[int], None] | None,
        options: dict[str, Any],  # Any: JSON values for the manifest
    ) -> None:
        # What its own caller names, its own processes may import.
        named = [] if operations is None else modules_in({"operations": msgspec.to_builtins(operations)})
        super().__init__(spec, seed=seed, watcher=watcher, allow_modules=named)
        self.trace, self.faults, self.operations, self.options = trace, faults, operations, options
        self.start_timeout_s = min(start_timeout_s, spec.start_timeout_s)
        self.client = LoadGenerator(
            trace, telemetry=self.telemetry, on_done=self.runtime.stop, sessions=sessions, stream=stream,
            stall_timeout_s=stall_timeout_s, payload=payload, progress=on_progress,
            answers=answer_blocks(trace) if generates(spec) else None,
        )  # fmt: skip

    async def main(self) -> Run:
        """Start the replicas, play the trace, end everything."""
        _, high = self.spec.bounds
        # A replica that faults or load will ask for finds a process that has started already.
        spares = min(2, high - len(initial_replicas(self.spec))) + (self.faults is not None)
        await self.run("tcp://127.0.0.1:*", self._begin, spares=spares)
        return self._finish()

    async def _begin(self) -> None:
        """Wait for the initial replicas, set the clock to zero, and let the load begin."""
        names = initial_replicas(self.spec)
        await anyio.lowlevel.checkpoint()  # the runtime starts its actors first
        for name in names:
            self.launcher.on_start_replica(StartReplica(name))
        with anyio.move_on_after(self.start_timeout_s) as timeout:
            await self._all_ready(names)
        if timeout.cancelled_caught:
            states = {name: self._state(name) or "without a process" for name in names}
            late = ", ".join(f"{name} is {state}" for name, state in states.items() if state != "ready")
            raise FleetError(f"the initial replicas were not ready after {self.start_timeout_s:g} s: {late}")
        self.runtime.begin()
        self.head.host(self.runtime)
        self.runtime.add(
            OPERATOR, Operator(self.head, self.runtime, self.operations, live=True, allowed=self.modules)
        )
        if self.faults is not None:
            self.runtime.subscribe(WATCHERS, "faults")
            self.injector = FaultInjector(self.faults, LiveFaults(self), self.telemetry)
            self.runtime.add("faults", self.injector)
        for name in names:
            for address in self.head.watching(name):
                self.runtime.send(address, "launcher", self.launcher.last_report[name])
        self.runtime.add(CLIENT, self.client)

    async def _all_ready(self, names: list[str]) -> None:
        """Return when all are; raise when one never will be."""
        changed = anyio.Event()

        def on_change() -> None:
            changed.set()

        self.launcher.on_change = on_change
        while not all(self._state(name) == "ready" for name in names):
            for name in names:
                if name in self.launcher.exits or self._state(name) == "failed":
                    report = self.launcher.last_report.get(name)
                    detail = (report.detail if report is not None else None) or self.launcher.exits.get(name)
                    raise FleetError(f"{name} did not come up: {detail}")
            await changed.wait()
            changed = anyio.Event()
        self.launcher.on_change = lambda: None

    def _state(self, name: str) -> str | None:
        report = self.launcher.last_report.get(name)
        return None if report is None else report.state

    def _loop(self) -> dict[str, float]:
        """How well the head's loop kept time: a figure of the machine, and of what actors did on it."""
        counters = self.runtime.counters
        return {"loop_max_callback_s": counters.max_callback_s, "loop_max_lag_s": counters.max_lag_s}

    def _finish(self) -> Run:
        counters = self.telemetry.counters
        if self.faults is not None:
            self.injector.close()
        counters["dropped_by_fault"] += self.node.counters.dropped_by_fault
        counters["undecodable"] += sum(self.node.counters.undecodable.values())
        counters["slow_callbacks"] += self.runtime.counters.slow_callbacks
        self.head.router.close()
        return finish_run(
            self.telemetry, self.trace, self.spec, seed=self.seed, runtime="live", ended_s=self.runtime.elapsed_s,
            unfinished=self.client.unfinished(), faults=self.faults, options=self.options,
            machine=machine() | self._loop(),
        )  # fmt: skip


def machine() -> dict[str, Any]:
    """Where a live run ran: what its figures depend on, and nothing that identifies the machine."""
    return {
        "cpus": os.cpu_count(),
        "platform": platform.machine(),
        "system": platform.system(),
        "python": sys.version.split()[0],
    }


class LiveFaults:
    """The fault surface of a live run: signals to real processes, and frames dropped by the head's node."""

    def __init__(self, live: LiveRun) -> None:
        self._live = live
        self._rng: random.Random = rng_for(live.seed, "network")

    def _host(self, replica: str) -> str | None:
        return self._live.launcher.assigned.get(replica)

    @property
    def places(self) -> FleetPlaces:
        return self._live.launcher.places

    def break_place(self, place: Place, until_s: float) -> None:
        self._live.launcher.break_place(place, until_s)

    def has_process(self, address: str) -> bool:
        return self._host(address) is not None

    def crash(self, replica: str) -> None:
        self._live.launcher.crash(replica)

    def hang(self, replica: str) -> None:
        host = self._host(replica)
        if host is not None:
            self._live.hosts.suspend(host)

    def resume(self, replica: str) -> None:
        host = self._host(replica)
        if host is not None:
            self._live.hosts.resume(host)

    def partition(self, replica: str, cut: bool) -> None:
        host = self._host(replica)
        if host is not None:
            self._live.node.partition(host.removeprefix("host/"), cut)

    def drop(self, replica: str, probability: float) -> None:
        host = self._host(replica)
        if host is not None:
            self._live.node.drop(host.removeprefix("host/"), probability, self._rng)

    def fail_load(self, replica: str | None) -> None:
        self._live.launcher.failing_loads.append(replica)

    def unused(self) -> int:
        return len(self._live.launcher.failing_loads)
