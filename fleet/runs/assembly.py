"""From a spec to actors: the one place that wires a fleet, for both runtimes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

from fleet.actor import Actor, FleetError
from fleet.actors.autoscaler import Autoscaler
from fleet.actors.batcher import Batcher
from fleet.actors.health_checker import HealthChecker, judges_completions
from fleet.actors.hearing import Hooks
from fleet.actors.queue_hearing import QueueHearing
from fleet.actors.registrar import PoolWatchers, Registrar, Signals
from fleet.actors.replica import ReplicaSettings
from fleet.actors.router import Router
from fleet.engines.base import StepEngine
from fleet.messages import replica_number
from fleet.pools import POOL_COMPONENTS, Pool, autoscaler_of, batcher_of, pool_of
from fleet.spec import FleetSpec, policies_of
from fleet.telemetry.sink import Telemetry
from policies.base import Policy

OBSERVERS = "observers"
"""What is said of a replica goes there: to the registrar."""
WATCHERS = "watchers"
"""The group of those whom the registrar tells what changed, whatever pool it is of."""
REGISTRAR = "registrar"
ROUTER = "router"
HEALTH = "health"


class Runtime(Protocol):
    """What assembling needs of a runtime."""

    def add(self, address: str, actor: Actor) -> None: ...

    def remove(self, address: str) -> None: ...

    def subscribe(self, group: str, address: str) -> None: ...


class PoolActors(NamedTuple):
    """The actors that one pool has of its own."""

    pool: Pool
    batcher: Batcher
    autoscaler: Autoscaler


class Head:
    """The actors of one fleet's head, not yet hosted."""

    def __init__(
        self,
        spec: FleetSpec,
        telemetry: Telemetry,
        *,
        seed: int,
        stamp_arrivals: bool = False,
        timed: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """`timed`: replicas say how long their engines took for what.

        `say` gets a line for whoever watches a live fleet; what it says is in the decisions too.
        """
        self.spec, self.telemetry, self.seed = spec, telemetry, seed
        self._say, self._timed = say, timed
        self.reveal: Callable[[str], int | None] | None = None
        """Simulation: true output lengths, for policies that declare themselves oracles."""
        self.signals = signals = Signals()
        self.registrar = Registrar(signals, telemetry.engines, watchers=WATCHERS)
        self._numbers: dict[str, int] = {}
        """Of each pool that is gone, the number that its next replica would have had: none is ever given twice."""
        self.pools = {pool.name: self._make(pool, initial=pool.replicas) for pool in spec.serving}
        """The actors of each pool that is there."""
        self.router = Router(
            admission=spec.admission, retry=spec.retry, telemetry=telemetry, signals=signals,
            serving=[
                (made.pool, spec.model(made.pool.model), batcher_of(name), autoscaler_of(name))
                for name, made in self.pools.items()
            ],
            flat=not spec.pools, hear=self._hear, default_deadline_s=spec.deadline_s, slo=spec.slo,
            stamp_arrivals=stamp_arrivals, poison_limit=spec.poison_limit, window_s=spec.control_interval_s,
        )  # fmt: skip
        self.health_checker = HealthChecker(
            health=spec.health, interval_s=spec.probe_interval_s, timeout_s=spec.probe_timeout_s,
            deep_interval_s=spec.deep_probe_interval_s, telemetry=telemetry, observers=OBSERVERS,
            registrar=REGISTRAR,
        )  # fmt: skip

    @property
    def batcher(self) -> Batcher:
        """Of the first pool: of all there is, where there is one."""
        return next(iter(self.pools.values())).batcher

    def _make(self, pool: Pool, *, initial: int = 0, start: int = 0) -> PoolActors:
        spec, telemetry = self.spec, self.telemetry
        telemetry.describe_pool(pool)
        batcher = Batcher(
            queueing=pool.queueing, batching=pool.batching, early_binding=pool.binding == "early",
            telemetry=telemetry, signals=self.signals, pool=pool,
        )  # fmt: skip
        batcher.reveal = self.reveal
        autoscaler = Autoscaler(
            pool=pool, initial_replicas=initial, start_replicas=start, control_interval_s=spec.control_interval_s,
            failed_grace_s=spec.failed_grace_s, start_timeout_s=spec.start_timeout_s,
            failed_starts_limit=spec.failed_starts_limit, router=ROUTER, telemetry=telemetry, signals=self.signals,
            registrar=REGISTRAR, say=self._say, first_number=self._numbers.get(pool.name),
        )  # fmt: skip
        return PoolActors(pool, batcher, autoscaler)

    def _hear(self, pool: Pool) -> Mapping[str, frozenset[str]]:
        """What the router tells other actors of a pool's requests: the hooks that their policies listen to."""
        return {
            batcher_of(pool.name): QueueHearing(pool.queueing, pool.batching).from_router,
            autoscaler_of(pool.name): Hooks(pool.scaling, pool.warm_pool).wanted(),
            HEALTH: Hooks(self.spec.health).wanted()
            | ({"on_completed"} if judges_completions(self.spec.health) else set()),
        }

    def policies(self) -> Iterator[Policy]:
        """Every policy of the head that is in use."""
        yield from (self.spec.admission, self.spec.retry, self.spec.health)
        for made in self.pools.values():
            for slot in POOL_COMPONENTS:
                policy = getattr(made.pool, slot)
                if isinstance(policy, Policy):
                    yield policy
        for model in self.spec.models.values():
            yield from (model.rollout, model.variants)

    def show_lengths(self, reveal: Callable[[str], int | None]) -> None:
        """Simulation: what oracles may see."""
        self.reveal = reveal
        for made in self.pools.values():
            made.batcher.reveal = reveal
        for policy in self.policies():
            if policy.oracle:
                policy.reveal(reveal)

    def listen(self, runtime: Runtime) -> None:
        """Add the registrar, before there are replicas that report."""
        runtime.subscribe(OBSERVERS, REGISTRAR)
        runtime.add(REGISTRAR, self.registrar)

    def host(self, runtime: Runtime) -> None:
        """Add the head's other actors; each hears of replicas in this order."""
        self.registrar.first = ROUTER
        runtime.add(ROUTER, self.router)
        for made in self.pools.values():
            self._host(runtime, made)
        runtime.subscribe(WATCHERS, HEALTH)
        runtime.add(HEALTH, self.health_checker)

    def _host(self, runtime: Runtime, made: PoolActors) -> None:
        name = made.pool.name
        self.registrar.pools[name] = PoolWatchers(batcher_of(name), autoscaler_of(name))
        runtime.add(batcher_of(name), made.batcher)
        runtime.add(autoscaler_of(name), made.autoscaler)

    # --- a pool more, a pool fewer -----------------------------------------------------------------------------

    def deploy(self, runtime: Runtime, pool: Pool) -> None:
        """Add the actors of a new pool, which begins to start its replicas; the router is told by whoever calls."""
        self.pools[pool.name] = made = self._make(pool, start=pool.replicas)
        self._host(runtime, made)

    def remove(self, runtime: Runtime, pool: str) -> None:
        """Take out the actors of a pool whose last replica has gone."""
        made = self.pools.pop(pool, None)
        if made is not None:
            self._numbers[pool] = made.autoscaler.next_number
            del self.registrar.pools[pool]
            runtime.remove(batcher_of(pool))
            runtime.remove(autoscaler_of(pool))

    def watching(self, replica: str) -> tuple[str, ...]:
        """Whom it concerns what this replica does, in the order in which they are told."""
        pool = pool_of(replica)
        return ROUTER, batcher_of(pool), autoscaler_of(pool), WATCHERS

    def places(self) -> dict[str, int]:
        """How many replicas each pool may have."""
        return {name: made.pool.bounds[1] for name, made in self.pools.items()}

    def provision_s(self, address: str) -> float:
        """Simulation: from the request for this replica to the start of its process."""
        return self.pools[pool_of(address)].pool.provision_s

    def settings(self, address: str) -> ReplicaSettings:
        """What the replica under `address` is told."""
        return settings_of(
            self.pools[pool_of(address)].pool, self.spec, address, self.seed, timed=self._timed
        )


def settings_of(
    pool: Pool, spec: FleetSpec, address: str, seed: int, *, timed: bool = False
) -> ReplicaSettings:
    """What the replica of `pool` under `address` is told."""
    number, steps = replica_number(address), isinstance(pool.engine, StepEngine)
    return ReplicaSettings(
        engine=pool.engine,
        seed=seed,
        max_inflight_batches=pool.inflight,
        report_interval_s=spec.report_interval_s,
        weight=pool.weight(number),
        slowness=pool.slowness(number),
        quality=pool.quality,
        iteration=pool.iteration if steps else None,
        eviction=pool.eviction if steps else None,
        timed=timed,
    )


def replica_settings(spec: FleetSpec, address: str, seed: int) -> ReplicaSettings:
    """What the replica under `address` of the fleet of `spec` is told."""
    pool = next(pool for pool in spec.serving if pool.name == pool_of(address))
    return settings_of(pool, spec, address, seed)


def generates(spec: FleetSpec) -> bool:
    """Some pool serves token by token."""
    return any(isinstance(pool.engine, StepEngine) for pool in spec.serving)


def initial_replicas(spec: FleetSpec) -> list[str]:
    """The addresses of the replicas that are there when a run begins."""
    return [pool.replica(number) for pool in spec.serving for number in range(pool.replicas)]


def demand_no_oracle(spec: FleetSpec) -> None:
    """A live fleet has no true output lengths to show."""
    for path, policy in policies_of(spec):
        if policy.oracle:
            raise FleetError(
                f"{path}: {policy.name()} is an oracle: it reads true output lengths and runs in simulation only"
            )
