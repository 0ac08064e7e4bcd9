"""What a spec comes to once everything is said: models, versions, variants, pools, policies, bounds, cost.

What is odd in it and still no error is in its notes: a name that nobody serves yet, pools that are one fleet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import NODEFAULT, Struct

from fleet.engines.base import StepEngine
from fleet.pools import POOL_COMPONENTS, ModelPolicies, Pool
from fleet.serving_checks import NEEDS_EARLY, described, names_not_served
from fleet.spec import COMPONENTS, FleetSpec, replaced_by_all
from policies import FixedVariant, Pinned
from policies.building import to_table
from traces.values import fields_of

Plain = dict[str, Any]  # Any: JSON values
FLEET_WIDE = tuple(name for name in COMPONENTS if name not in POOL_COMPONENTS)
"""The slots that are the whole fleet's."""
LIMITS = (
    "deadline_s", "slo", "poison_limit", "control_interval_s", "report_interval_s", "probe_interval_s",
    "probe_timeout_s", "deep_probe_interval_s", "failed_grace_s", "start_timeout_s", "failed_starts_limit", "lease_s",
)  # fmt: skip
"""The other fields that are the whole fleet's."""


class Span(Struct, frozen=True):
    """A figure with the fewest, the initial and the most replicas. None: a pool names no price."""

    least: float | None
    now: float | None
    most: float | None


class VariantOutline(Struct, frozen=True):
    """One variant of a version."""

    variant: str
    pools: tuple[str, ...]


class VersionOutline(Struct, frozen=True):
    """One version of a model."""

    version: str
    variants: tuple[VariantOutline, ...]


class ModelOutline(Struct, frozen=True):
    """What clients ask for."""

    model: str
    rollout: Plain
    variants: Plain
    versions: tuple[VersionOutline, ...]


class PoolOutline(Struct, frozen=True):
    """One pool, with what it has of the fleet."""

    pool: str
    model: str
    version: str
    variant: str
    replicas: int
    min_replicas: int
    max_replicas: int
    device: str | None
    cost_per_hour: float | None
    """Of one replica's device."""
    quality: float | None
    zone: str | None
    capabilities: tuple[str, ...]
    binding: str
    queue_capacity: int
    max_inflight_batches: int
    weights: tuple[float, ...]
    provision_s: float
    components: dict[str, Plain]
    """Engine and policies by slot; those that such a pool never asks are left out."""


class Outline(Struct, frozen=True):
    """A whole fleet."""

    models: tuple[ModelOutline, ...]
    pools: tuple[PoolOutline, ...]
    policies: dict[str, Plain]
    """Of the whole fleet, by slot."""
    limits: Plain
    replicas: Span
    cost_per_hour: Span
    notes: tuple[str, ...]


def outline(spec: FleetSpec) -> Outline:
    """What `spec` comes to."""
    pools = spec.serving
    return Outline(
        models=tuple(_model(name, spec.model(name), pools) for name in dict.fromkeys(p.model for p in pools)),
        pools=tuple(_pool(pool) for pool in pools),
        policies={name: to_table(getattr(spec, name)) for name in FLEET_WIDE},
        limits={name: msgspec.to_builtins(getattr(spec, name)) for name in LIMITS},
        replicas=_span([(pool, 1) for pool in pools]),
        cost_per_hour=_span([(pool, pool.cost_per_hour) for pool in pools]),
        notes=notes_of(spec),
    )


def notes_of(spec: FleetSpec) -> tuple[str, ...]:
    """What is odd in `spec` and no error, one line each: what `fleet show` and every command that runs it say."""
    return tuple(_notes(spec, spec.serving))


def _model(name: str, said: ModelPolicies, pools: Iterable[Pool]) -> ModelOutline:
    versions: dict[str, dict[str, list[str]]] = {}
    for pool in pools:
        if pool.model == name:
            versions.setdefault(pool.version, {}).setdefault(pool.variant, []).append(pool.name)
    outlines = (
        VersionOutline(version, tuple(VariantOutline(variant, tuple(of)) for variant, of in variants.items()))
        for version, variants in versions.items()
    )
    return ModelOutline(name, to_table(said.rollout), to_table(said.variants), tuple(outlines))


def _pool(pool: Pool) -> PoolOutline:
    low, high = pool.bounds
    plain = (
        "model",
        "version",
        "variant",
        "replicas",
        "device",
        "cost_per_hour",
        "quality",
        "zone",
        "capabilities",
    )
    more = ("binding", "queue_capacity", "weights", "provision_s")
    return PoolOutline(
        pool=pool.name,
        min_replicas=low,
        max_replicas=high,
        max_inflight_batches=pool.inflight,
        components={name: to_table(getattr(pool, name)) for name in _asked(pool)},
        **{name: getattr(pool, name) for name in (*plain, *more)},
    )


def _asked(pool: Pool) -> Iterator[str]:
    """The slots that have a say in such a pool."""
    for name in POOL_COMPONENTS:
        chooses = pool.binding == "early" or name not in ("routing", *NEEDS_EARLY)
        steps = isinstance(pool.engine, StepEngine) or name not in ("iteration", "eviction")
        if chooses and steps:
            yield name


def _span(each: list[tuple[Pool, float | None]]) -> Span:
    if any(figure is None for _, figure in each):
        return Span(None, None, None)
    known = [(pool, figure) for pool, figure in each if figure is not None]
    return Span(
        least=sum(figure * pool.bounds[0] for pool, figure in known),
        now=sum(figure * pool.replicas for pool, figure in known),
        most=sum(figure * pool.bounds[1] for pool, figure in known),
    )


# --- notes ---------------------------------------------------------------------------------------------------


def _notes(spec: FleetSpec, pools: tuple[Pool, ...]) -> Iterator[str]:
    for name in dict.fromkeys(pool.model for pool in pools):
        yield from _unserved(name, spec.model(name), pools)
    for name in dict.fromkeys(pool.model for pool in pools):
        yield from _unchosen(name, spec.model(name), pools)
    together: dict[tuple[str, str, str], list[Pool]] = {}
    for pool in pools:
        together.setdefault(pool.serves, []).append(pool)
    for several in together.values():
        if len(several) > 1:
            names = ", ".join(pool.name for pool in several)
            what = described(several[0])
            yield f"{names}: one heterogeneous fleet, {what}; one routing policy sees the replicas of all"
    for name in FleetSpec.__struct_fields__:
        if replaced_by_all(spec, name) and _differs(spec, name):
            yield f"$.{name}: has no effect, every pool says its own"
    unpriced = [pool.name for pool in pools if pool.cost_per_hour is None]
    if 0 < len(unpriced) < len(pools):
        yield f"no cost of the fleet: no cost_per_hour is said for {', '.join(unpriced)}"


def _unserved(model: str, said: ModelPolicies, pools: Iterable[Pool]) -> Iterator[str]:
    """Names in a model's policies that no pool has. Not an error: what is not there yet may be deployed later."""
    of = [pool for pool in pools if pool.model == model]
    for slot, what in (("rollout", "version"), ("variants", "variant")):
        served = list(dict.fromkeys(getattr(pool, what) for pool in of))
        for path, name in names_not_served(getattr(said, slot), served, f"$.models.{model}.{slot}"):
            yield f"{path}: no pool serves {what} {name} of model {model} yet; served: {', '.join(served)}"


def _unchosen(model: str, said: ModelPolicies, pools: Iterable[Pool]) -> Iterator[str]:
    """Versions and variants that the null policies leave without requests."""
    of = [pool for pool in pools if pool.model == model]
    versions = list(dict.fromkeys(pool.version for pool in of))
    if type(said.rollout) is Pinned and len(versions) > 1:
        chosen = said.rollout.version if said.rollout.version in versions else versions[0]
        others = ", ".join(version for version in versions if version != chosen)
        yield f"model {model}: all go to version {chosen}; {others} gets only requests that pin it, as {model}@{others}"
    for version in versions:
        variants = list(dict.fromkeys(pool.variant for pool in of if pool.version == version))
        if type(said.variants) is FixedVariant and len(variants) > 1:
            chosen = said.variants.variant if said.variants.variant in variants else variants[0]
            others = ", ".join(variant for variant in variants if variant != chosen)
            yield f"model {model}, version {version}: all go to variant {chosen}, none to {others}"


def _differs(spec: FleetSpec, name: str) -> bool:
    """Whether the fleet says something of this field."""
    value, default = getattr(spec, name), default_of(name)
    return value is not None and (to_table(value) if name in COMPONENTS else value) != default


def default_of(name: str) -> Any:  # Any: JSON values
    """What a fleet has in a field of which it says nothing; components as tables."""
    field = next(field for field in fields_of(FleetSpec) if field.name == name)
    if field.default_factory is NODEFAULT:
        return field.default
    default = field.default_factory()
    return to_table(default) if name in COMPONENTS else default
