"""What must hold among pools and models before a fleet can be: each error says where, and what would be right."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from fleet.engines.base import StepEngine
from fleet.pools import DEFAULT, Pool, PoolSpec
from policies import NoBreaker, NoHedge, PolicyError, RolloutPolicy, VariantsPolicy
from policies.building import to_table

NEEDS_EARLY = {"hedge": NoHedge, "breaker": NoBreaker}
"""The slots that only have a say where somebody chooses a replica for each request, and their null policies."""


def check_serving(pools: Sequence[Pool], declared: Mapping[str, PoolSpec], models: Collection[str]) -> None:
    """Every pool can be, every model has one, and pools of one variant can be routed among together.

    `declared` are the pools as they are written; empty where the fleet names none. Raises `PolicyError`.
    """
    for name in models:
        check_served(name, pools)
    first: dict[tuple[str, str, str], Pool] = {}
    for pool in pools:
        path = path_of(pool.name) if declared else "$"
        check_alone(pool, path, declared.get(pool.name))
        check_together(pool, first.setdefault(pool.serves, pool), path)


def path_of(pool: str) -> str:
    """Where in a spec the pool of this name is."""
    return f"$.pools.{pool}"


def check_served(model: str, pools: Sequence[Pool]) -> None:
    """Raises `PolicyError` for a model that no pool serves."""
    if any(pool.model == model for pool in pools):
        return
    there = ", ".join(f"{pool.name} serves {pool.model}" for pool in pools)
    raise PolicyError(f'$.models.{model}: no pool serves it; give one `model = "{model}"` ({there})')


def check_alone(pool: Pool, path: str, declared: PoolSpec | None = None) -> None:
    """Raises `PolicyError` for a pool that cannot be: by its bounds, or because nobody chooses among its replicas.

    `declared`: as it is written, to tell what it has of the fleet.
    """
    low, high = pool.bounds
    if not low <= pool.replicas <= high:
        names = ("replicas", "min_replicas", "max_replicas")
        said = ("replicas", *(name for name in names[1:] if getattr(pool, name) is not None))
        raise PolicyError(
            f"{path}.replicas: {pool.replicas} is not within min_replicas={low} and max_replicas={high}"
            + _of_the_fleet(said, declared)
        )
    for slot, nothing in NEEDS_EARLY.items():
        policy = getattr(pool, slot)
        if pool.binding == "late" and type(policy) is not nothing:
            raise PolicyError(
                f'{path}.{slot}: {policy.name()} needs binding = "early"; with "late" batches are pulled by whichever '
                f"replica is free, and nobody chooses{_of_the_fleet((slot, 'binding'), declared)}"
            )


def _of_the_fleet(names: Sequence[str], declared: PoolSpec | None) -> str:
    """Which of these fields a pool has of the fleet, so that one need not look for them where they are not."""
    inherited = [name for name in names if declared is not None and getattr(declared, name) is None]
    return f" (of the fleet, as the pool says none of its own: {', '.join(inherited)})" if inherited else ""


def check_together(pool: Pool, other: Pool, path: str) -> None:
    """Raises `PolicyError` where two pools of one variant cannot be routed among by one policy."""
    if pool.name == other.name:
        return
    what = f"pools {other.name} and {pool.name} both serve {described(pool)}, and are one heterogeneous fleet"
    if isinstance(pool.engine, StepEngine) != isinstance(other.engine, StepEngine):
        raise PolicyError(
            f"{path}.engine: {what}, of which one answers token by token and the other whole requests; give one of "
            "them another `version` or `variant`"
        )
    for slot in ("routing", *NEEDS_EARLY):
        if to_table(getattr(pool, slot)) != to_table(getattr(other, slot)):
            raise PolicyError(
                f"{path}.{slot}: {what}: one {slot} policy sees the replicas of both. Say the same in both, or once "
                "for the fleet; or give one of them another `version` or `variant`"
            )
    if set(pool.capabilities) != set(other.capabilities):
        said = [", ".join(item.capabilities) or "none" for item in (other, pool)]
        raise PolicyError(
            f"{path}.capabilities: {what}: a request goes to either, and the one has {said[0]}, the other {said[1]}. "
            "Say the same in both; or give one of them another `variant`"
        )
    if "late" in (pool.binding, other.binding):
        raise PolicyError(
            f'{path}.binding: {what}: with "late" there is a queue for each pool, and nobody would choose '
            'between them; both need "early"'
        )


def described(pool: Pool) -> str:
    """Which variant of which version of which model it serves, in words."""
    model = "every model that no pool names" if pool.model == DEFAULT else f"model {pool.model}"
    return f"variant {pool.variant} of version {pool.version} of {model}"


# --- names within policies -----------------------------------------------------------------------------------

NAMING: dict[str, frozenset[str]] = {
    "rollout": frozenset(
        (
            "version", "versions", "stable", "candidate", "blue", "green", "a", "b", "control", "treatment",
            "fallback",
        )
    ),
    "variants": frozenset(("variant", "variants", "order", "preferred", "fallback")),
}  # fmt: skip
"""By slot, the parameters that hold names: of versions, of variants."""


def names_not_served(
    policy: RolloutPolicy | VariantsPolicy, served: Collection[str], path: str
) -> Iterator[tuple[str, str]]:
    """The versions, or the variants, that a policy names beside those that are `served`, each with its path."""
    for where, name in _names_in(to_table(policy), NAMING[policy.slot], path):
        if name not in served:
            yield where, name


def no_pool_serves(version: str, model: str, served: Collection[str]) -> str:
    """Why an operation cannot have `version` serve `model`, of which these are served."""
    return f"no pool serves version {version} of model {model}; they serve {', '.join(served) or 'none'}"


def _names_in(table: Mapping[str, Any], words: frozenset[str], path: str) -> Iterator[tuple[str, str]]:
    """Strings under one of `words`, alone, in arrays, or as the names of a table, with their paths.

    `table` is a policy's; those of policies within it are looked through too (Any: JSON values).
    """
    for key, item in table.items():
        where = f"{path}.{key}"
        if key in words and isinstance(item, (str, list, Mapping)):
            for name in (item,) if isinstance(item, str) else item:
                if isinstance(name, str) and name:
                    yield where, name
        elif isinstance(item, Mapping) and "policy" in item:
            yield from _names_in(item, words, where)
