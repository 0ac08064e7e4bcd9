"""`fleet show`: what a spec comes to, before anything runs."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fleet.cli import inputs, output

if TYPE_CHECKING:
    from fleet.outline import ModelOutline, Outline, PoolOutline, Span

MOST_NAMED = 4
"""Pools that are named where several have the same."""


def show(arguments: Namespace) -> int:
    """Models, pools, policies, limits, cost, and what is odd."""
    from fleet.outline import outline

    made = outline(inputs.spec_of(arguments.spec, arguments.changes))
    if arguments.json:
        output.print_json(made)
        return 0
    print(f"{arguments.spec.name}: {_title(made)}")
    if len(made.pools) > 1:
        _print_models(made.models, made.pools)
    _print_pools(made.pools)
    _print_components(made)
    print()
    output.print_facts(_facts(made))
    for number, note in enumerate(made.notes):
        print(f"{'' if number else chr(10)}note: {note}")
    return 0


def _title(made: Outline) -> str:
    models, pools = len(made.models), len(made.pools)
    kinds = "one pool" if pools == 1 else f"{models} model{'' if models == 1 else 's'}, {pools} pools"
    replicas = _span(made.replicas, "replica" if made.replicas.now == 1 else "replicas", ",.0f")
    cost = _span(made.cost_per_hour, "an hour", ",.2f")
    return ", ".join(part for part in (kinds, replicas, cost) if part)


def _span(span: Span, unit: str, form: str) -> str:
    """`4 replicas`, or `4 replicas (1 to 8)`; nothing where it is not known."""
    if span.least is None or span.now is None or span.most is None:
        return ""
    bounds = f" ({span.least:{form}} to {span.most:{form}})" if span.least < span.most else ""
    return f"{span.now:{form}} {unit}{bounds}"


# --- tables --------------------------------------------------------------------------------------------------


def _print_models(models: tuple[ModelOutline, ...], pools: tuple[PoolOutline, ...]) -> None:
    """Who serves what."""
    by_name = {pool.pool: pool for pool in pools}
    table = output.table("model", "version", "variant", "pools", "replicas", "quality", left=4)
    for model in models:
        name = model.model
        for version in model.versions:
            number = version.version
            for variant in version.variants:
                of = [by_name[pool] for pool in variant.pools]
                table.add_row(
                    name, number, variant.variant, _named(list(variant.pools)),
                    f"{sum(pool.replicas for pool in of):,}",
                    _range([pool.quality for pool in of if pool.quality is not None]),
                )  # fmt: skip
                name = number = ""
    print()
    output.stdout().print(table)


def _print_pools(pools: tuple[PoolOutline, ...]) -> None:
    """Each by itself."""
    table = output.table(
        "pool",
        "device",
        "binding",
        "replicas",
        "bounds",
        "an hour each",
        "quality",
        "queue",
        "in flight",
        left=3,
    )
    for pool in pools:
        table.add_row(
            pool.pool, pool.device or "-", pool.binding, f"{pool.replicas:,}",
            _range([pool.min_replicas, pool.max_replicas]),
            "-" if pool.cost_per_hour is None else f"{pool.cost_per_hour:,.2f}",
            "-" if pool.quality is None else f"{pool.quality:g}",
            f"{pool.queue_capacity:,}", f"{pool.max_inflight_batches:,}",
        )  # fmt: skip
    print()
    output.stdout().print(table)


def _range(figures: Sequence[float]) -> str:
    """`0.7`, `0.7 to 0.9`, or `-` where nobody says any."""
    return " to ".join(f"{figure:,g}" for figure in sorted({min(figures), max(figures)})) if figures else "-"


# --- engines and policies ------------------------------------------------------------------------------------


def _print_components(made: Outline) -> None:
    """What fills each slot, and of whom; the longest column last, so that nothing need be cut."""
    rows = [*_of_pools(made.pools), *_of_models(made.models), *_of_fleet(made)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    print()
    before = ""
    for slot, whose, text in rows:
        print(f"{'' if slot == before else slot:<{widths[0]}}  {whose:<{widths[1]}}  {text}".rstrip())
        before = slot


def _of_pools(pools: tuple[PoolOutline, ...]) -> Iterator[tuple[str, str, str]]:
    by_slot: dict[str, dict[str, list[str]]] = {}
    for pool in pools:
        for slot, text in _said_of(pool):
            by_slot.setdefault(slot, {}).setdefault(text, []).append(pool.pool)
    for slot, texts in by_slot.items():
        for text, names in texts.items():
            yield slot, "every pool" if len(names) == len(pools) > 1 else _named(names), text


def _said_of(pool: PoolOutline) -> Iterator[tuple[str, str]]:
    for slot, table in pool.components.items():
        yield slot, _component(slot, table)
    if pool.zone is not None:
        yield "zone", pool.zone
    if pool.capabilities:
        yield "capabilities", ", ".join(pool.capabilities)
    if pool.weights:
        yield "weights", ", ".join(f"{weight:g}" for weight in pool.weights)
    if pool.provision_s:
        yield "provision_s", f"{pool.provision_s:g}"


def _of_models(models: tuple[ModelOutline, ...]) -> Iterator[tuple[str, str, str]]:
    for slot in ("rollout", "variants"):
        for model in models if len(models) > 1 or len(models[0].versions) > 1 else ():
            yield slot, model.model, described(getattr(model, slot))


def _of_fleet(made: Outline) -> Iterator[tuple[str, str, str]]:
    for slot, table in made.policies.items():
        yield slot, "the fleet", _component(slot, table)


def _named(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:MOST_NAMED])} and {more} more"


def _component(slot: str, table: Mapping[str, Any]) -> str:  # Any: JSON values
    """By its name alone where it is what a fleet has that says nothing; else in full."""
    from fleet.outline import default_of

    return str(table["policy"]) if table == default_of(slot) else described(table)


def described(value: Any) -> str:  # Any: JSON values
    """`power-of-two-choices (choices = 3)`: a component with its parameters, but those that are null."""
    if isinstance(value, list):
        return f"[{', '.join(map(described, value))}]"
    if not isinstance(value, Mapping):
        return (
            f'"{value}"'
            if isinstance(value, str)
            else str(value).lower()
            if isinstance(value, bool)
            else f"{value}"
        )
    tag = next((key for key in ("policy", "engine", "latency") if isinstance(value.get(key), str)), None)
    said = ", ".join(
        f"{key} = {described(item)}" for key, item in value.items() if key != tag and item is not None
    )
    if tag is None:
        return f"{{{said}}}"
    return f"{value[tag]} ({said})" if said else str(value[tag])


# --- the whole fleet -----------------------------------------------------------------------------------------


def _facts(made: Outline) -> Iterator[tuple[str, str]]:
    cost = made.cost_per_hour
    if cost.least is not None and cost.now is not None and cost.most is not None:
        yield (
            "cost an hour",
            f"{cost.least:,.2f} at least, {cost.now:,.2f} at first, {cost.most:,.2f} at most",
        )
    for name, value in made.limits.items():
        if value is not None:
            said = (
                {key: item for key, item in value.items() if item is not None}
                if isinstance(value, dict)
                else value
            )
            yield name, described(said)
