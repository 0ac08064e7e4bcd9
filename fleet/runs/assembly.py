"""From a spec to actors: the one place that wires a fleet, for both runtimes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fleet.actor import Actor, FleetError
from fleet.actors.autoscaler import Autoscaler
from fleet.actors.batcher import Batcher
from fleet.actors.health_checker import HealthChecker
from fleet.actors.hearing import Hooks
from fleet.actors.queue_hearing import QueueHearing
from fleet.actors.registrar import Registrar, Signals
from fleet.actors.replica import ReplicaSettings
from fleet.actors.router import Router
from fleet.engines.base import StepEngine
from fleet.messages import replica_number
from fleet.pools import pool_of
from fleet.spec import COMPONENTS, FleetSpec
from fleet.telemetry.sink import Telemetry
from policies.base import Policy

OBSERVERS = "observers"
"""What is said of a replica goes there: to the registrar."""
WATCHERS = "watchers"
"""The group of those whom the registrar tells what changed."""
REGISTRAR = "registrar"
ROUTER = "router"
BATCHER = "batcher/default"


class Runtime(Protocol):
    """What assembling needs of a runtime."""

    def add(self, address: str, actor: Actor) -> None: ...

    def subscribe(self, group: str, address: str) -> None: ...


class Head:
    """The actors of one fleet's head, not yet hosted."""

    def __init__(
        self,
        spec: FleetSpec,
        telemetry: Telemetry,
        *,
        stamp_arrivals: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """`say` gets a line for whoever watches a live fleet; what it says is in the decisions too."""
        early = spec.binding == "early"
        low, high = spec.bounds
        self.telemetry = telemetry
        self.signals = signals = Signals()
        self.registrar = Registrar(signals, telemetry.engines, watchers=WATCHERS, batcher=BATCHER)
        self.router = Router(
            admission=spec.admission, routing=spec.routing, retry=spec.retry, early_binding=early, batcher=BATCHER,
            telemetry=telemetry, signals=signals, queue_capacity=spec.queue_capacity,
            default_deadline_s=spec.deadline_s, slo=spec.slo, stamp_arrivals=stamp_arrivals,
            poison_limit=spec.poison_limit, hear=hear_elsewhere(spec),
        )  # fmt: skip
        self.batcher = Batcher(
            queueing=spec.queueing, batching=spec.batching, early_binding=early, telemetry=telemetry, signals=signals,
        )  # fmt: skip
        self.autoscaler = Autoscaler(
            scaling=spec.scaling, warm_pool=spec.warm_pool, min_replicas=low, max_replicas=high,
            initial_replicas=spec.replicas, control_interval_s=spec.control_interval_s,
            failed_grace_s=spec.failed_grace_s, start_timeout_s=spec.start_timeout_s,
            failed_starts_limit=spec.failed_starts_limit, router=ROUTER, telemetry=telemetry, signals=signals,
            registrar=REGISTRAR, say=say,
        )  # fmt: skip
        self.health_checker = HealthChecker(
            health=spec.health, interval_s=spec.probe_interval_s, timeout_s=spec.probe_timeout_s,
            deep_interval_s=spec.deep_probe_interval_s, telemetry=telemetry, observers=OBSERVERS,
            registrar=REGISTRAR,
        )  # fmt: skip

    def listen(self, runtime: Runtime) -> None:
        """Add the registrar, before there are replicas that report."""
        runtime.subscribe(OBSERVERS, REGISTRAR)
        runtime.add(REGISTRAR, self.registrar)

    def host(self, runtime: Runtime) -> None:
        """Add the head's other actors; each hears of replicas in this order."""
        for address, actor in (
            (ROUTER, self.router),
            (BATCHER, self.batcher),
            ("autoscaler", self.autoscaler),
            ("health", self.health_checker),
        ):
            runtime.subscribe(WATCHERS, address)
            runtime.add(address, actor)


def hear_elsewhere(spec: FleetSpec) -> dict[str, frozenset[str]]:
    """What the router tells other actors of: the hooks that their policies listen to, by address."""
    return {
        BATCHER: QueueHearing(spec.queueing, spec.batching).from_router,
        "autoscaler": Hooks(spec.scaling, spec.warm_pool).wanted(),
        "health": Hooks(spec.health).wanted(),
    }


def replica_settings(spec: FleetSpec, address: str, seed: int) -> ReplicaSettings:
    """What the replica under `address` is told."""
    pool = next(pool for pool in spec.serving if pool.name == pool_of(address))
    number, steps = replica_number(address), isinstance(pool.engine, StepEngine)
    return ReplicaSettings(
        engine=pool.engine,
        seed=seed,
        max_inflight_batches=pool.inflight,
        report_interval_s=spec.report_interval_s,
        weight=pool.weight(number),
        iteration=pool.iteration if steps else None,
        eviction=pool.eviction if steps else None,
    )


def initial_replicas(spec: FleetSpec) -> list[str]:
    """The addresses of the replicas that are there when a run begins."""
    return [f"replica/{number}" for number in range(spec.replicas)]


def demand_no_oracle(spec: FleetSpec) -> None:
    """A live fleet has no true output lengths to show."""
    for slot in COMPONENTS:
        policy = getattr(spec, slot)
        if isinstance(policy, Policy) and policy.oracle:
            raise FleetError(
                f"$.{slot}: {policy.name()} is an oracle: it reads true output lengths and runs in simulation only"
            )
