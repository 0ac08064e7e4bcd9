"""Sending a component to another process: as its defining module, class and parameters, never as a pickle."""

from __future__ import annotations

from typing import Any

import msgspec

from fleet.actor import FleetError
from fleet.actors.replica import ReplicaSettings
from fleet.engines.base import Engine
from policies.base import Component, EvictionPolicy, IterationPolicy
from policies.registry import build


def to_portable(component: Component) -> dict[str, Any]:  # Any: JSON values, here and below
    """A table that names its class as ``module:Class``, nested components included."""
    cls = type(component)
    if cls.__module__ == "__main__":
        raise FleetError(
            f"{cls.__name__} is defined in the script itself; a replica is another process and cannot import it from "
            "there. Move the class to a module of its own (policies of the head may stay in the script)"
        )
    if "<locals>" in cls.__qualname__:
        raise FleetError(f"{cls.__name__} is defined inside a function; move it to the top of its module")
    tag_field = cls.__struct_config__.tag_field
    parameters = {name: _value(value) for name, value in component.parameters().items()}
    return {str(tag_field): f"{cls.__module__}:{cls.__qualname__}", **parameters}


def _value(value: Any) -> Any:
    if isinstance(value, Component):
        return to_portable(value)
    if isinstance(value, (list, tuple)):
        return [_value(item) for item in value]
    if isinstance(value, dict):
        return {key: _value(item) for key, item in value.items()}
    return msgspec.to_builtins(value)


COMPONENTS: dict[str, type[Component]] = {
    "engine": Engine,
    "iteration": IterationPolicy,
    "eviction": EvictionPolicy,
}
"""The settings that are components, and the base class of each."""


def encode_settings(settings: ReplicaSettings) -> bytes:
    """What a replica is told, as JSON."""
    table = {name: getattr(settings, name) for name in settings.__struct_fields__}
    for name in COMPONENTS:
        if table[name] is not None:
            table[name] = to_portable(table[name])
    return msgspec.json.encode(table)


def decode_settings(data: bytes) -> ReplicaSettings:
    """The other end of `encode_settings`. Raises `FleetError` or `PolicyError` for anything else."""
    table = msgspec.json.decode(data)
    components = {
        name: None if table.get(name) is None else build(base, table[name], f"$.{name}")
        for name, base in COMPONENTS.items()
    }
    try:
        plain = msgspec.convert({**table, **dict.fromkeys(COMPONENTS)}, _PlainSettings)
    except msgspec.ValidationError as error:
        raise FleetError(f"the head sent settings that this version does not understand: {error}") from None
    values = {name: getattr(plain, name) for name in ReplicaSettings.__struct_fields__}
    return ReplicaSettings(**{**values, **components})


_PlainSettings = msgspec.defstruct(
    "_PlainSettings",
    [
        (field.name, Any if field.name in COMPONENTS else field.type)
        for field in msgspec.structs.fields(ReplicaSettings)
    ],
    kw_only=True,
    forbid_unknown_fields=True,
)
