"""Changing one value deep within others, by its path: `pools.large.routing.choices`.

Nothing is checked but that the path leads somewhere; whoever builds the whole again checks the value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from policies.base import Component, PolicyError
from policies.registry import meant, tag_field


def changed(
    values: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:  # Any: values of any type
    """A copy of `values` with what each path of `changes` names replaced. Raises `PolicyError` for no such path."""
    result: Any = dict(values)
    for path, value in changes.items():
        keys = path.removeprefix("$.").split(".")
        result = _with(result, keys, value, "$")
    return dict(result)


def _with(inside: Any, keys: list[str], value: Any, path: str) -> Any:
    if not keys:
        # A component by its name alone: with its own parameters, whatever those of the one before it were.
        if isinstance(value, str) and isinstance(inside, Component):
            return {tag_field(type(inside)): value}
        return value
    key, rest = keys[0], keys[1:]
    fields = _fields(inside, path)
    if key not in fields and not isinstance(inside, Mapping):
        raise PolicyError(f"{path}.{key}: there is no such field{meant(key, fields)}")
    if key not in fields and rest:
        raise PolicyError(f"{path}.{key}: there is nothing of that name{meant(key, fields)}")
    new = _with(fields.get(key), rest, value, f"{path}.{key}")
    if isinstance(inside, Mapping):
        return {**inside, key: new}
    if isinstance(inside, Component):
        return type(inside)(**{**inside.parameters(), key: new})
    return replace(inside, **{key: new})


def _fields(inside: Any, path: str) -> Mapping[str, Any]:
    if isinstance(inside, Mapping):
        return inside
    if isinstance(inside, Struct):
        return {name: getattr(inside, name) for name in inside.__struct_fields__}
    raise PolicyError(f"{path}: has no fields, it is {inside!r}")
