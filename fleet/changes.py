"""Changing values deep within a fleet by their paths: `pools.large.routing.choices`.

The one thing to know: it is the same for a fleet that is built and for the plain values of a file. What a path leads
through becomes a table, what it names is put there, and whoever builds the whole again checks it all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from fleet.pools import PoolSpec
from policies.base import SLOTS, Component, PolicyError
from policies.registry import meant, qualified, tag_field
from traces.values import fields_of

Table = dict[str, Any]  # Any: values of any type, here and below


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> Table:
    """A copy of a fleet's `values` with what each path of `changes` names replaced, in order.

    - A name given for a component replaces the whole component, parameters too; its own name changes nothing.
    - What a pool has of the fleet becomes its own where something within it is changed.
    - A name with dots in it, such as `chat-1.5`, is told by what there is; in quotes it need not be.

    Raises `PolicyError` for a path that leads nowhere: to a pool that is not there, or through a number.
    """
    result = dict(values)
    for path, value in changes.items():
        section, *keys = _keys_of(path)
        if section in _SECTIONS and keys and isinstance(result.get(section, {}), Mapping):
            result[section] = _member_changed(result, section, keys, value)
        else:
            if keys:
                _demand_taken(result, section, keys)
            result = _within(result, [section, *keys], value, "$", "")
    return result


_KEY = r"\"[^\"]+\"|'[^']+'|[^.\"']+"
_PATH = re.compile(rf"(?:\$\.)?(?:{_KEY})(?:\.(?:{_KEY}))*")
_SECTIONS = ("pools", "models")


def _keys_of(path: str) -> list[str]:
    if _PATH.fullmatch(path) is None:
        raise PolicyError(f"{path!r} is no path, such as `replicas` or `pools.large.routing.choices`")
    return [key.strip("\"'") for key in re.findall(_KEY, path.removeprefix("$."))]


def _demand_taken(values: Mapping[str, Any], section: str, keys: list[str]) -> None:
    """Raises `PolicyError` for a path within what the fleet does not say, and every pool has of its own."""
    pools = values.get("pools", {})
    tables = {name: _table_of(pool) for name, pool in pools.items()} if isinstance(pools, Mapping) else {}
    own = [name for name, table in tables.items() if table is not None and table.get(section) is not None]
    if own and len(own) == len(tables) and values.get(section) is None:
        raise PolicyError(
            f"$.{section}: nothing takes it, for every pool says its own; say whose, as in "
            f"`pools.{quoted(own[0])}.{'.'.join((section, *keys))}`"
        )


def quoted(name: str) -> str:
    """`name` as a path has it: in quotes where there are dots in it."""
    return f'"{name}"' if "." in name else name


def _member_changed(values: Mapping[str, Any], section: str, keys: list[str], value: Any) -> Table:
    """The pools, or the models, with one of them changed."""
    members: Table = dict(values.get(section, {}))
    name, rest = _name_of(values, section, keys)
    if not rest:
        return {**members, name: value}
    path, own = f"$.{section}.{name}", _table_of(members.get(name, {}))
    if own is None:
        raise _no_table(path, name, members[name])
    key, *within = rest
    said = own.get(key)
    if said is None and section == "pools":
        said = values.get(key)  # as the fleet says
    return {**members, name: {**own, key: _within(said, within, value, f"{path}.{key}", key)}}


def _name_of(values: Mapping[str, Any], section: str, keys: list[str]) -> tuple[str, list[str]]:
    """Which pool or model the keys begin with, the longest name there is, and the keys within it."""
    known = [*values.get(section, {}), *(_models_of(values) if section == "models" else ())]
    for parts in range(len(keys), 0, -1):
        if (name := ".".join(keys[:parts])) in known:
            return name, keys[parts:]
    if section == "pools" and len(keys) > 1:
        raise _no_pool(keys, known)
    return keys[0], keys[1:]  # a new one


def _models_of(values: Mapping[str, Any]) -> Iterable[str]:
    """The models that pools serve."""
    pools = values.get("pools", {})
    tables = [_table_of(pool) for pool in pools.values()] if isinstance(pools, Mapping) else []
    return [str(table["model"]) for table in tables if table is not None and table.get("model") is not None]


def _no_pool(keys: list[str], known: list[str]) -> PolicyError:
    """`keys` may be a name with dots in it, in pieces: what comes before the first field of a pool."""
    fields = [number for number, key in enumerate(keys) if number and key in PoolSpec.__struct_fields__]
    name = ".".join(keys[: fields[0]]) if fields else keys[0]
    there = f"there are {', '.join(known)}" if known else "the fleet names none, it is one pool by itself"
    dotted = (
        ""
        if fields == [1]
        else f"; a name with dots in it is written in quotes, as in `pools.{quoted('v1.5')}`"
    )
    return PolicyError(f"$.pools.{name}: there is no such pool{meant(name, known)}; {there}{dotted}")


def _no_table(path: str, called: str, inside: object) -> PolicyError:
    return PolicyError(f"{path}: `{called}` is no table, it is {inside!r}")


def _within(inside: Any, keys: list[str], value: Any, path: str, called: str) -> Any:
    """`inside`, which is at `path` under the key `called`, with what `keys` lead to replaced."""
    tag = _tag_of(called, inside)
    table = {} if inside is None else _table_of(inside)
    if not keys:
        if tag is None or not isinstance(value, str):
            return value
        return inside if table is not None and _goes_by(table.get(tag), value) else {tag: value}
    if table is None:
        raise _no_table(path, called, inside)
    key, *rest = keys
    if key == tag and not rest:
        return table if _goes_by(table.get(tag), value) else {tag: value}
    return {**table, key: _within(table.get(key), rest, value, f"{path}.{key}", key)}


def _tag_of(called: str, value: object) -> str | None:
    """The key that names the class of the component `value`, or of one that belongs under the key `called`."""
    if isinstance(value, Component):
        return tag_field(type(value))
    if called in ("engine", "latency"):
        return called
    return "policy" if called in SLOTS or (isinstance(value, Mapping) and "policy" in value) else None


def _goes_by(cls: Any, name: Any) -> bool:
    """Whether `name` is that of the class which a table names, or has, under its tag."""
    if isinstance(cls, type) and issubclass(cls, Component):
        return name in (cls.name(), qualified(cls))
    return bool(cls == name)


def _table_of(value: Any) -> Table | None:
    """The fields of `value` by name, for a component with its class under its tag; None where it has no fields."""
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, Struct):
        return None
    fields = {field.encode_name: getattr(value, field.name) for field in fields_of(type(value))}
    return {tag_field(type(value)): type(value), **fields} if isinstance(value, Component) else fields
