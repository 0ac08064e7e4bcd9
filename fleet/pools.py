"""What a fleet serves: pools, and the models, versions and variants that they serve together.

A *pool* is the set of replicas that serve one variant of one version of one model, with policies of its own. The one
thing to know: a pool says only what is its own. Whatever it leaves out is as the fleet says, and a fleet that names no
pools is one pool, called ``default``, that answers for every model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from fleet.actor import FleetError
from fleet.engines.base import Engine
from policies import (
    BatchingPolicy,
    BreakerPolicy,
    EvictionPolicy,
    FixedVariant,
    HedgePolicy,
    IterationPolicy,
    Pinned,
    PolicyError,
    QueueingPolicy,
    RolloutPolicy,
    RoutingPolicy,
    ScalingPolicy,
    VariantsPolicy,
    WarmPoolPolicy,
)
from policies.base import Component
from policies.building import build, checked_value
from policies.registry import meant
from traces.names import NAME, POOL, RULES
from traces.values import fields_of

Positive = Annotated[float, Meta(gt=0, le=1e9)]
NonNegative = Annotated[float, Meta(ge=0, le=1e9)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
PoolName = Annotated[str, Meta(pattern=rf"^{POOL}\Z")]
Name = Annotated[str, Meta(pattern=rf"^{NAME}\Z")]
"""Of a model, a version, a variant, a device: no space, and no ``@``, which stands between a model and its version."""
Binding = Literal["early", "late"]

DEFAULT = "default"
"""The pool of a fleet that names none; the model that answers for every one that no pool names."""


class ModelPolicies(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What clients ask for, and who says which version and variant serves them. A `FleetSpec` checks it."""

    rollout: RolloutPolicy = field(default_factory=Pinned)
    variants: VariantsPolicy = field(default_factory=FixedVariant)


class PoolSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pool, as written. None: as the fleet says. A `FleetSpec` checks it."""

    model: Name | None = None
    """None, or ``default``: it answers for every model that no pool names."""
    version: Name = "1"
    variant: Name = "default"
    """Pools of one variant of one version are one heterogeneous fleet: the routing policy sees the replicas of all."""
    device: Name | None = None
    """What each replica runs on, such as `a100`; None: as the engine's latency model says, if it does."""
    cost_per_hour: NonNegative | None = None
    """Of one replica's device, in whatever currency all pools are priced in."""
    quality: Annotated[float, Meta(ge=0, le=1)] | None = None
    """How good its answers are on average, 0..1. An emulated engine draws each answer's from it."""
    zone: Name | None = None
    """Where its replicas are: for routing policies that ask."""
    capabilities: tuple[Name, ...] = ()
    """What it can do beside what every pool can, such as `vision`: for variants policies that ask."""

    engine: Engine | None = None
    replicas: Count | None = None
    min_replicas: Annotated[int, Meta(ge=0)] | None = None
    max_replicas: Count | None = None
    binding: Binding | None = None
    routing: RoutingPolicy | None = None
    hedge: HedgePolicy | None = None
    breaker: BreakerPolicy | None = None
    queueing: QueueingPolicy | None = None
    batching: BatchingPolicy | None = None
    iteration: IterationPolicy | None = None
    eviction: EvictionPolicy | None = None
    scaling: ScalingPolicy | None = None
    warm_pool: WarmPoolPolicy | None = None
    max_inflight_batches: Count | None = None
    queue_capacity: Count | None = None
    weights: tuple[Positive, ...] | None = None
    provision_s: Annotated[float, Meta(ge=0)] | None = None


POOL_COMPONENTS: dict[str, type[Component]] = {
    "engine": Engine,
    "routing": RoutingPolicy,
    "hedge": HedgePolicy,
    "breaker": BreakerPolicy,
    "queueing": QueueingPolicy,
    "batching": BatchingPolicy,
    "iteration": IterationPolicy,
    "eviction": EvictionPolicy,
    "scaling": ScalingPolicy,
    "warm_pool": WarmPoolPolicy,
}
"""The fields of a pool that hold a component, and its base class."""
MODEL_COMPONENTS: dict[str, type[Component]] = {"rollout": RolloutPolicy, "variants": VariantsPolicy}
"""Likewise of a model."""


class Pool(Struct, frozen=True, kw_only=True):
    """One pool with everything said: what the runtimes make actors of."""

    name: str
    model: str
    version: str
    variant: str
    device: str | None
    cost_per_hour: float | None
    quality: float | None
    zone: str | None
    capabilities: tuple[str, ...]
    engine: Engine
    replicas: int
    min_replicas: int | None
    max_replicas: int | None
    binding: Binding
    routing: RoutingPolicy
    hedge: HedgePolicy
    breaker: BreakerPolicy
    queueing: QueueingPolicy
    batching: BatchingPolicy
    iteration: IterationPolicy
    eviction: EvictionPolicy
    scaling: ScalingPolicy
    warm_pool: WarmPoolPolicy
    max_inflight_batches: int | None
    queue_capacity: int
    weights: tuple[float, ...]
    provision_s: float

    @property
    def inflight(self) -> int:
        """`max_inflight_batches`, or the engine's own number."""
        return self.max_inflight_batches or self.engine.inflight_batches

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most replicas a scaling policy can get."""
        low = self.replicas if self.min_replicas is None else self.min_replicas
        high = self.replicas if self.max_replicas is None else self.max_replicas
        return low, high

    @property
    def expected_service_s(self) -> float | None:
        """What one ordinary request takes its fastest replica alone; None where its engine cannot say."""
        try:
            return self.engine.expected_service_s()
        except (FleetError, ValueError):  # a measured table that an ordinary request is outside of
            return None

    @property
    def serves(self) -> tuple[str, str, str]:
        """Model, version and variant."""
        return self.model, self.version, self.variant

    @property
    def held_weights(self) -> tuple[float, ...]:
        """The weights that its replicas have: as many as there may be at once. Those beyond are nobody's."""
        return self.weights[: self.bounds[1]]

    def slowness(self, number: int) -> float:
        """How many times as long as the fastest replica of this pool the one with this number takes."""
        return max(self.held_weights) / self.weight(number) if self.weights else 1.0

    def weight(self, number: int) -> float:
        """Relative speed of the replica with this number."""
        held = self.held_weights
        return held[number % len(held)] if held else 1.0

    def replica(self, number: int) -> str:
        """The address of its replica with this number."""
        return f"replica/{number}" if self.name == DEFAULT else f"replica/{self.name}/{number}"


@lru_cache(maxsize=65_536)
def pool_of(replica: str) -> str:
    """The pool of a replica or a place, by its name: ``large`` of ``replica/large/3``, ``default`` of ``replica/3``."""
    parts = replica.split("/")
    return parts[1] if len(parts) == 3 else DEFAULT  # kind, pool, number


def batcher_of(pool: str) -> str:
    """The address of a pool's batcher."""
    return f"batcher/{pool}"


def autoscaler_of(pool: str) -> str:
    """The address of a pool's autoscaler."""
    return "autoscaler" if pool == DEFAULT else f"autoscaler/{pool}"


# --- as written ------------------------------------------------------------------------------------------------

_CALLED: dict[type[Struct], str] = {PoolSpec: "pool", ModelPolicies: "model"}
_NAMES = ("model", "version", "variant", "device", "zone")


def tables_of(
    kind: type[PoolSpec] | type[ModelPolicies], tables: Any, path: str, elsewhere: Mapping[str, str]
) -> dict[str, Any]:  # Any: checked here
    """The pools, or the models, by name; `elsewhere` says of fields that belong to something else where that is."""
    called = _CALLED[kind]
    if not isinstance(tables, Mapping):
        raise PolicyError(f"{path}: expected a table for each {called}, `[{path[2:]}.NAME]`, got {tables!r}")
    return {
        checked_name(called, name, f"{path}.{name}"): table_of(kind, table, f"{path}.{name}", elsewhere)
        for name, table in tables.items()
    }


def table_of(
    kind: type[PoolSpec] | type[ModelPolicies], value: Any, path: str, elsewhere: Mapping[str, str]
) -> Any:  # Any: checked here
    """A `PoolSpec` or a `ModelPolicies` from one, or from a table; `path` says where it is."""
    components: dict[str, type[Component]] = POOL_COMPONENTS if kind is PoolSpec else MODEL_COMPONENTS
    if isinstance(value, kind):
        value = {name: getattr(value, name) for name in kind.__struct_fields__}
    if not isinstance(value, Mapping):
        raise PolicyError(f"{path}: expected a table, got {value!r}")
    types = {item.name: item.type for item in fields_of(kind)}
    made: dict[str, Any] = {}
    for name, item in value.items():
        where = f"{path}.{name}"
        if name not in types:
            raise no_such_field(where, name, f"a {_CALLED[kind]}", types, elsewhere)
        if name not in components:
            made[name] = checked_field(name, types[name], item, where)
        elif item is not None or kind is ModelPolicies:
            made[name] = build(components[name], item, where)
    return kind(**made)


def no_such_field(
    path: str, name: str, owner: str, fields: Iterable[str], elsewhere: Mapping[str, str]
) -> PolicyError:
    """What to say of a field that `owner` has not: where it belongs, or what was meant."""
    belongs = f"; it belongs {elsewhere[name]}" if name in elsewhere else ""
    return PolicyError(f"{path}: {owner} has no such field{belongs}{meant(name, fields)}")


def checked_field(name: str, annotation: Any, value: Any, path: str) -> Any:  # Any: whatever its type may be
    """The value of a field that holds no component."""
    if name in _NAMES and value is not None:
        return checked_name(name, value, path)
    if name == "capabilities" and isinstance(value, (list, tuple)):
        return tuple(checked_name("capability", item, f"{path}[{i}]") for i, item in enumerate(value))
    return checked_value(annotation, value, path)


def checked_name(called: str, value: Any, path: str) -> str:  # Any: checked here
    """`value`, if it can name a `called`: a pool, a model, a version, ..."""
    annotation = PoolName if called == "pool" else Name
    try:
        return str(checked_value(annotation, value, path))
    except PolicyError:
        pass
    if not isinstance(value, str):
        quoted = f'; write "{value}"' if isinstance(value, (int, float)) else ""
        raise PolicyError(f"{path}: the name of a {called} is text, not {value!r}{quoted}")
    _, rule = RULES["pool" if called == "pool" else "model"]
    raise PolicyError(f"{path}: {value!r} cannot name a {called}: {rule}")
