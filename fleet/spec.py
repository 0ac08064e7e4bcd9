"""A whole fleet as one typed value: what it runs, how many, and which policy fills each slot.

Written in Python, in TOML or in JSON, it is the same value. Building one validates everything, parameters of
policies included; every error names its path (`$.routing.choices`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import force_setattr

from fleet.changes import changed
from fleet.engines.base import Engine
from fleet.network import NetworkModel
from fleet.pools import (
    DEFAULT,
    MODEL_COMPONENTS,
    POOL_COMPONENTS,
    Binding,
    Count,
    ModelPolicies,
    Name,
    NonNegative,
    Pool,
    PoolName,
    PoolSpec,
    Positive,
    checked_field,
    no_such_field,
    tables_of,
)
from fleet.reading import read_table
from fleet.serving_checks import NEEDS_EARLY, check_serving, path_of
from policies import (
    AdmissionPolicy,
    AdmitAll,
    BatchingPolicy,
    BreakerPolicy,
    ConsecutiveFailures,
    EvictionPolicy,
    ExponentialBackoff,
    Fifo,
    Fixed,
    Greedy,
    HealthPolicy,
    HedgePolicy,
    IterationPolicy,
    LeastOutstanding,
    Lru,
    NoBreaker,
    NoHedge,
    NoWarmPool,
    PolicyError,
    QueueingPolicy,
    RetryPolicy,
    RoutingPolicy,
    ScalingPolicy,
    VllmTokenBudget,
    WarmPoolPolicy,
)
from policies.base import Component, Policy
from policies.building import build, to_table
from traces.schema import Slo


class FleetSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fleet. Fields that hold a policy take an instance, or a table such as ``{"policy": "greedy"}``.

    Without `pools` it is a fleet of one pool, called ``default``, and this is all there is to say of it. With `pools`,
    what is said here of engine, replicas and policies is what a pool has that does not say otherwise.

    Raises `PolicyError` that names the path of what is wrong.
    """

    engine: Engine | None = None
    """What executes a batch; each replica gets a fresh one. None: each of the `pools` names its own."""
    models: dict[Name, ModelPolicies] = {}
    """What clients ask for, and which version and variant of it they get, where there is a choice."""
    pools: dict[PoolName, PoolSpec] = {}
    """Each serves one variant of one version of one model."""
    replicas: Count = 1
    """How many there are, loaded and ready, when a run begins."""
    min_replicas: Annotated[int, Meta(ge=0)] | None = None
    """Bounds of what a scaling policy may ask for; None: `replicas`."""
    max_replicas: Count | None = None
    binding: Binding = "early"
    """`early`: the routing policy chooses a replica on arrival, and each replica has a queue. `late`: one queue for
    the pool, and batches are pulled for whichever replica is free."""

    admission: AdmissionPolicy = field(default_factory=AdmitAll)
    routing: RoutingPolicy = field(default_factory=LeastOutstanding)
    queueing: QueueingPolicy = field(default_factory=Fifo)
    batching: BatchingPolicy = field(default_factory=Greedy)
    iteration: IterationPolicy = field(default_factory=VllmTokenBudget)
    """Plans each step of a replica that serves token by token; the others have no use for it."""
    eviction: EvictionPolicy = field(default_factory=Lru)
    """Likewise: which cached key-value block goes when room is needed."""
    scaling: ScalingPolicy = field(default_factory=Fixed)
    warm_pool: WarmPoolPolicy = field(default_factory=NoWarmPool)
    health: HealthPolicy = field(default_factory=ConsecutiveFailures)
    retry: RetryPolicy = field(default_factory=ExponentialBackoff)
    hedge: HedgePolicy = field(default_factory=NoHedge)
    """Whether a request gets a second attempt beside its first; with `binding = "early"` only."""
    breaker: BreakerPolicy = field(default_factory=NoBreaker)
    """Which replicas routing may not choose for now; with `binding = "early"` only."""

    max_inflight_batches: Count | None = None
    """Batches a replica may hold. None: what its engine can make use of: 2 where whole requests run a batch at a time
    (one runs, the next waits at the door), 1,024 where batches are formed anew at each step."""
    queue_capacity: Count = 100_000
    """Requests that may wait for a replica of one pool; one more is shed."""
    poison_limit: Count = 3
    """A request whose attempts ended with the loss of so many replicas (a crash, a failed health check) is failed, and
    named, whatever the retry policy says: what kills its replicas must not go on to the next one without end."""
    deadline_s: Positive | None = None
    """For requests that bring none of their own."""
    slo: Slo | None = None
    """Objectives to report against, for requests that bring none of their own."""
    weights: tuple[Positive, ...] = ()
    """Relative speed of replica 0, 1, … (repeated when there are more), as policies are told and as it is: the fastest
    takes the time that its engine takes, one of half its weight takes twice as long. Of more weights than a pool may
    have replicas (`max_replicas`), it has the first ones."""
    device: Name | None = None
    """What each replica runs on, such as `a100`; None: as the engine's latency model says, if it does."""
    cost_per_hour: NonNegative | None = None
    """Of one replica's device, in whatever currency."""
    quality: Annotated[float, Meta(ge=0, le=1)] | None = None
    """How good answers are on average, 0..1. An emulated engine draws each answer's from it."""

    control_interval_s: Positive = 1.0
    """Period of the autoscaler's loop, and of the time series."""
    report_interval_s: Positive = 0.25
    """Period of the replicas' reports: how stale a reported signal can get."""
    probe_interval_s: Positive = 1.0
    probe_timeout_s: Positive = 0.5
    deep_probe_interval_s: Positive | None = None
    """Period of deep probes, which run a request through the engine; None: there are none."""
    failed_grace_s: Annotated[float, Meta(ge=0)] = 5.0
    """How long a replica that failed its health checks may take to recover before it is ended."""
    start_timeout_s: Positive = 600.0
    """A replica that is neither ready nor warm so long after it was asked for is ended, and another one started. A wait
    for a place that a fault has put out of order does not count."""
    failed_starts_limit: Count = 6
    """When so many starts in a row have failed and no replica is ready, requests that wait for one fail too, with the
    reason, and so at each further failure. Starts are tried for ever, up to 30 s apart; 6 take 16 s and six loads."""
    lease_s: Positive = 3.0
    """A replica's process from which nothing is heard for longer is taken for dead, ended and replaced.
    Processes of other hosts (`fleet join`) bring a lease of their own, of 3 s."""
    provision_s: Annotated[float, Meta(ge=0)] = 0.0
    """Simulation: from the request for a replica to the start of its process."""
    network: NetworkModel = NetworkModel()
    """Simulation: the network between the head and its replicas."""

    def __post_init__(self) -> None:
        for name, base in COMPONENTS.items():
            value = getattr(self, name)
            if value is not None or name != "engine":
                force_setattr(self, name, build(base, value, f"$.{name}"))
        for name, annotation in _plain_types().items():
            force_setattr(self, name, checked_field(name, annotation, getattr(self, name), f"$.{name}"))
        for name, kind in (("models", ModelPolicies), ("pools", PoolSpec)):
            tables = tables_of(kind, getattr(self, name), f"$.{name}", BELONGS)
            force_setattr(self, name, tables)
        check_serving(self.serving, self.pools, self.models)

    @property
    def serving(self) -> tuple[Pool, ...]:
        """Its pools with everything said, in the order in which they were declared; at least one."""
        if not self.pools:
            return (self.pool(DEFAULT, PoolSpec()),)
        return tuple(self.pool(name, pool) for name, pool in self.pools.items())

    def pool(self, name: str, pool: PoolSpec, path: str | None = None) -> Pool:
        """`pool` with everything said that it leaves to the fleet; `path` is where it is, if not among the pools."""
        own = {field: getattr(pool, field) for field in PoolSpec.__struct_fields__}
        said = {
            name: getattr(self, name) if own[name] is None else own[name] for name in own if name in _SHARED
        }
        if said["engine"] is None:
            where = path or (path_of(name) if self.pools else "$")
            raise PolicyError(f"{where}.engine: missing; {NO_ENGINE if where == '$' else NO_POOL_ENGINE}")
        if said["device"] is None:
            said["device"] = said["engine"].device_name
        if self.pools:  # what several pools have of the fleet, each has for itself
            said = {
                key: value.fresh() if isinstance(value, Component) else value for key, value in said.items()
            }
        return Pool(**{**own, **said, "name": name, "model": own["model"] or DEFAULT})

    def model(self, name: str) -> ModelPolicies:
        """Who chooses among the versions and variants of this model."""
        return self.models.get(name) or ModelPolicies()

    @property
    def inflight(self) -> int:
        """`max_inflight_batches`, or the engine's own number; of the first pool, where there are several."""
        return self.serving[0].inflight

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most replicas that scaling policies can get, over all pools."""
        lows, highs = zip(*(pool.bounds for pool in self.serving), strict=True)
        return sum(lows), sum(highs)

    @property
    def all_replicas(self) -> int:
        """How many replicas of all pools there are when a run begins."""
        return sum(pool.replicas for pool in self.serving)

    def replace(
        self, changes: Mapping[str, Any] = {}, /, **fields: Any
    ) -> FleetSpec:  # Any: checked on building
        """The same fleet with some fields changed; `changes` reach into it by path, such as `pools.large.replicas`."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return from_mapping(changed({**values, **fields}, changes))

    def to_dict(self) -> dict[str, Any]:  # Any: JSON values
        """Plain values that `from_mapping` reads back; components of one's own as ``module:Class``."""
        said = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: _plain(value) for name, value in said.items() if not _says_nothing(name, value)}


COMPONENTS: dict[str, type[Component]] = {
    "engine": Engine,
    "admission": AdmissionPolicy,
    "routing": RoutingPolicy,
    "queueing": QueueingPolicy,
    "batching": BatchingPolicy,
    "iteration": IterationPolicy,
    "eviction": EvictionPolicy,
    "scaling": ScalingPolicy,
    "warm_pool": WarmPoolPolicy,
    "health": HealthPolicy,
    "retry": RetryPolicy,
    "hedge": HedgePolicy,
    "breaker": BreakerPolicy,
}
"""The fields that hold a component, and its base class."""


_SHARED = frozenset(PoolSpec.__struct_fields__) & frozenset(FleetSpec.__struct_fields__)
"""What a pool may leave to the fleet."""
_SAID_IF_USED = ("engine", "models", "pools", "device", "cost_per_hour", "quality")
"""Fields that plain values leave out where they say nothing; so are `hedge` and `breaker` where they are null."""
NO_ENGINE = 'a fleet needs one, such as {engine = "emulated", latency = {...}}'
NO_POOL_ENGINE = "each pool needs one of its own, or the fleet one for those that have none"
BELONGS = {
    **dict.fromkeys(PoolSpec.__struct_fields__, "to a pool, in [pools.NAME]"),
    **dict.fromkeys(ModelPolicies.__struct_fields__, "to a model, in [models.NAME]"),
    **dict.fromkeys(
        (name for name in FleetSpec.__struct_fields__ if name not in _SHARED),
        "to the whole fleet, outside of [pools] and [models]: above the first of these",
    ),
}
"""Where each field belongs, for whoever says it somewhere else."""


@cache
def _plain_types() -> dict[str, Any]:  # Any: annotations
    """The types of the fields that hold plain values."""
    hints = get_type_hints(FleetSpec, include_extras=True)
    return {
        name: hints[name]
        for name in FleetSpec.__struct_fields__
        if name not in (*COMPONENTS, "models", "pools")
    }


def _says_nothing(name: str, value: object) -> bool:
    """Whether a field of the fleet is as if it were not there."""
    return (name in _SAID_IF_USED and value in (None, {})) or type(value) is NEEDS_EARLY.get(name)


def _plain(value: Any) -> Any:  # Any: JSON values
    if isinstance(value, Component):
        return to_table(value)
    if isinstance(value, (PoolSpec, ModelPolicies)):
        said = {name: getattr(value, name) for name in value.__struct_fields__}
        # Weights of `()` say something: the fleet may have some.
        unsaid = {
            name for name, item in said.items() if item is None or (name == "capabilities" and not item)
        }
        return {name: _plain(item) for name, item in said.items() if name not in unsaid}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return msgspec.to_builtins(value)


def components_of(spec: FleetSpec) -> Iterator[tuple[tuple[str, ...], Component]]:
    """Every component that `spec` says, by the keys that lead to it: the fleet's, its models', its pools'.

    Those within other components are not among them, nor is what `to_dict` leaves out.
    """
    for name in COMPONENTS:
        component = getattr(spec, name)
        if not _says_nothing(name, component):
            yield (name,), component
    sections = (("models", spec.models, MODEL_COMPONENTS), ("pools", spec.pools, POOL_COMPONENTS))
    for section, members, slots in sections:
        for member, said in members.items():
            for slot in slots:
                if (component := getattr(said, slot)) is not None:
                    yield (section, member, slot), component


def policies_of(spec: FleetSpec) -> Iterator[tuple[str, Policy]]:
    """Every policy of `spec` that is in use, with its path: `$.routing`, `$.pools.large.routing`.

    One of the fleet's that every pool replaces by its own is not.
    """
    for keys, component in components_of(spec):
        if isinstance(component, Policy) and not (len(keys) == 1 and replaced_by_all(spec, keys[0])):
            yield f"$.{'.'.join(keys)}", component


def replaced_by_all(spec: FleetSpec, name: str) -> bool:
    """Whether every pool says its own in the place of what the fleet says of a field."""
    own = [getattr(pool, name, None) for pool in spec.pools.values()]
    return bool(own) and all(value is not None for value in own)


def from_mapping(values: Mapping[str, Any]) -> FleetSpec:  # Any: checked here
    """A spec from plain values, such as TOML holds."""
    fields = FleetSpec.__struct_fields__
    for name in values:
        if name not in fields:
            raise no_such_field(f"$.{name}", name, "a fleet", fields, BELONGS)
    if values.get("engine") is None and not values.get("pools"):
        raise PolicyError(f"$.engine: missing; {NO_ENGINE}")
    return FleetSpec(**values)


def load_spec(path: str | Path) -> FleetSpec:
    """Read a spec from a TOML or a JSON file. Raises `PolicyError` that names the file and the path within it."""
    values = read_table(path)
    try:
        return from_mapping(values)
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from None
