"""Sending a component to another process: as its defining module, class and parameters, never as a pickle.

The one thing to know: to name a class is to have its module imported, which runs it. So whoever builds one imports from
installed distributions, and beyond those only what its own user named when it was started (``--allow-module``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from fleet.actor import FleetError
from fleet.actors.replica import ReplicaSettings
from fleet.engines.base import Engine
from policies.base import Component, EvictionPolicy, IterationPolicy
from policies.building import build, to_table
from policies.registry import qualified


def to_portable(component: Component) -> dict[str, Any]:  # Any: JSON values, here and below
    """A table that names its class as ``module:Class``, nested components included."""
    return to_table(component, _importable)


def _importable(cls: type[Component]) -> str:
    if cls.__module__ == "__main__":
        raise FleetError(
            f"{cls.__name__} is defined in the script itself; a replica is another process and cannot import it from "
            "there. Move the class to a module of its own (policies of the head may stay in the script)"
        )
    if "<locals>" in cls.__qualname__:
        raise FleetError(f"{cls.__name__} is defined inside a function; move it to the top of its module")
    return qualified(cls)


COMPONENTS: dict[str, type[Component]] = {
    "engine": Engine,
    "iteration": IterationPolicy,
    "eviction": EvictionPolicy,
}
"""The settings that are components, and the base class of each."""


# --- what may be imported ----------------------------------------------------------------------------------------

_IMPORT_PATH = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*):[A-Za-z_][\w.]*")
"""``module:name``: how components are named, and what engines take for models and functions."""
_OWN = frozenset({"experiments", "fleet", "policies", "traces"})


def _import_paths(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Where in plain values a module is named, and which."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _import_paths(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _import_paths(item, f"{path}[{index}]")
    elif isinstance(value, str) and (match := _IMPORT_PATH.fullmatch(value)) is not None:
        yield path, match[1]


def modules_of(settings: ReplicaSettings) -> list[str]:
    """The modules beyond this distribution that a process must be allowed to import to become such a replica."""
    return modules_in(msgspec.json.decode(encode_settings(settings)))


def modules_in(table: dict[str, Any]) -> list[str]:
    """The modules beyond this distribution that plain values name, those of a script that runs left out."""
    named = (module for _, module in _import_paths(table, "$"))
    return sorted({module for module in named if module.partition(".")[0] not in _OWN | {"__main__"}})


def _may_import(module: str, allowed: Sequence[str], installed: Callable[[], Collection[str]]) -> bool:
    if any(module == name or module.startswith(f"{name}.") for name in allowed):
        return True
    parts = module.split(".")
    # To import a `__main__` is to run a program.
    return "__main__" not in parts and (parts[0] in _OWN or parts[0] in installed())


def demand_importable(table: dict[str, Any], allowed: Sequence[str] = ()) -> None:
    """Raises `FleetError` where plain values from another process name a module that is not to be imported for it."""
    from importlib.metadata import packages_distributions

    # It reads every distribution there is, while a head does nothing else: once, if at all.
    installed = cache(packages_distributions)
    for path, module in _import_paths(table, "$"):
        if not _may_import(module, allowed, installed):
            raise FleetError(
                f"{path}: module `{module}` is not of an installed distribution, and this process was not started with "
                f"--allow-module {module}"
            )


# --- settings ----------------------------------------------------------------------------------------------------


def encode_settings(settings: ReplicaSettings) -> bytes:
    """What a replica is told, as JSON."""
    table = {name: getattr(settings, name) for name in settings.__struct_fields__}
    for name in COMPONENTS:
        if table[name] is not None:
            table[name] = to_portable(table[name])
    return msgspec.json.encode(table)


def decode_settings(data: bytes, allowed: Sequence[str] = ()) -> ReplicaSettings:
    """The other end of `encode_settings`. Raises `FleetError` or `PolicyError` for anything else.

    Nothing is imported but modules of installed distributions, and those in `allowed` with what is below them.
    """
    try:
        table = msgspec.json.decode(data, type=dict[str, Any])
        plain = msgspec.convert({**table, **dict.fromkeys(COMPONENTS)}, _PlainSettings)
    except msgspec.DecodeError as error:
        raise FleetError(f"the head sent settings that this version does not understand: {error}") from None
    demand_importable(table, allowed)
    components = {
        name: None if table.get(name) is None else build(base, table[name], f"$.{name}")
        for name, base in COMPONENTS.items()
    }
    values = {name: getattr(plain, name) for name in ReplicaSettings.__struct_fields__}
    return ReplicaSettings(**{**values, **components})


_BOUNDS = {
    "max_inflight_batches": Annotated[int, Meta(ge=1, le=1_000_000)],
    "report_interval_s": Annotated[float, Meta(gt=0, le=1e9)],
    "weight": Annotated[float, Meta(gt=0, le=1e9)],
    "slowness": Annotated[float, Meta(ge=1, le=1e18)],
    "quality": Annotated[float, Meta(ge=0, le=1)] | None,
}
_PlainSettings = msgspec.defstruct(
    "_PlainSettings",
    [
        (field.name, Any if field.name in COMPONENTS else _BOUNDS.get(field.name, field.type))
        for field in msgspec.structs.fields(ReplicaSettings)
    ],
    kw_only=True,
    forbid_unknown_fields=True,
)
