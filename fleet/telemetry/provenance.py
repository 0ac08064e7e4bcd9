"""Which code a run ran: each component by module and class, with the SHA-256 of its source; and that fleet built again.

The one thing to know: a hash is of the file that defines the component's class, byte for byte, as `sha256sum` has it,
when the class is first asked for in a process. What that file imports is not in it: the versions of a manifest name
the distributions, and a helper module of one's own is not seen.
"""

from __future__ import annotations

import ast
import hashlib
import linecache
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

from msgspec import Meta, Struct

from fleet.spec import FleetSpec, components_of, from_mapping
from policies.base import Component, PolicyError
from policies.registry import qualified, tag_field
from traces.values import fields_of

Keys = tuple[str | int, ...]

_ALLOW = "allow_changed=True (--allow-changed) builds it of what there is now"


class ComponentSource(Struct, frozen=True):
    """One component of a spec, and the code that it is."""

    path: str
    """Where it is in the spec: `$.routing`, `$.routing.scorers[0][1]`, `$.pools.large.engine.latency`."""
    component: str
    """`module:Class`."""
    source: Literal["file", "class", "unknown"]
    """What was hashed: the file of its module; of a class that a script or a notebook defines, its own text; unknown
    where there is neither (typed at a prompt, or compiled)."""
    sha256: str | None


def sources_of(spec: FleetSpec) -> tuple[ComponentSource, ...]:
    """Every component that `spec` says, those within others included: the fleet's, its models', its pools'.

    No hedge and no breaker are left out, as in the spec's plain values: they say nothing.
    """
    return tuple(
        ComponentSource(_path(keys), qualified(type(component)), *source_of(type(component)))
        for keys, component in _components(spec)
    )


def files_of(spec: FleetSpec) -> dict[Keys, str]:
    """The files that components were read from (parameters of type `FileName`), by their place in the spec."""
    return {
        (*keys, field.encode_name): value
        for keys, component in _components(spec)
        for field in fields_of(type(component))
        if _is_file(field.type) and isinstance(value := getattr(component, field.name), str)
    }


def portable_spec(spec: FleetSpec) -> tuple[dict[str, Any], dict[str, str]]:  # Any: JSON values
    """`spec` as plain values in which files have names and no folders, and where the files are on this machine."""
    plain, files = spec.to_dict(), files_of(spec)
    for keys, file in files.items():
        _assign(plain, keys, Path(file).name)
    return plain, {_path(keys): str(Path(file).absolute()) for keys, file in files.items()}


def rebuilt(
    plain: Mapping[str, Any],
    components: Sequence[ComponentSource],
    files: Mapping[str, str],
    *,
    allow_changed: bool,
) -> FleetSpec:
    """The spec of a manifest. Raises `PolicyError` for code that is not to be had, or not what it was."""
    if not plain:
        raise PolicyError("the run does not say what was served: it was driven without a spec")
    if not allow_changed:
        _demand_sources(components)
    values = _with_files(plain, files)
    _name_wholly(values, components)
    spec = from_mapping(values)
    if allow_changed:
        return spec
    now = {source.path: source for source in sources_of(spec)}
    for then in components:
        found = now.get(then.path)
        if found is None or (found.component, found.sha256) != (then.component, then.sha256):
            raise PolicyError(_changed(then, found))
    return spec


def _demand_sources(components: Sequence[ComponentSource]) -> None:
    for item in components:
        if item.source == "unknown":
            raise PolicyError(
                f"{item.path}: {item.component} was typed at a prompt, or compiled without a file: no source of it is "
                f"on record, so the run cannot be built again; {_ALLOW}"
            )


def _changed(then: ComponentSource, now: ComponentSource | None) -> str:
    if now is None or now.component != then.component:
        found = "is not there" if now is None else f"is {now.component}"
        return f"{then.path}: was {then.component} when the run was made, and {found} now; {_ALLOW}"
    return (
        f"{then.path}: the source of {then.component} has changed since the run: its SHA-256 was "
        f"{then.sha256 or 'unknown'}, and is {now.sha256 or 'unknown'} now; {_ALLOW}"
    )


def _with_files(plain: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The values with each file where it was, if it is still there; else by its name alone."""
    values: dict[str, Any] = _copied(plain)
    for keys in _leaves(values):
        file = files.get(_path(keys))
        if file is not None and Path(file).exists():
            _assign(values, keys, file)
    return values


def _name_wholly(values: dict[str, Any], components: Sequence[ComponentSource]) -> None:
    """Put ``module:Class`` in the place of a name, if the class is there: others may go by that name too."""
    tables = {_path(keys): table for keys, table in _tables(values)}
    for item in components:
        module, _, name = item.component.partition(":")
        cls = getattr(sys.modules.get(module), name, None)
        if item.path in tables and isinstance(cls, type) and issubclass(cls, Component):
            tables[item.path][tag_field(cls)] = item.component


# --- walking -------------------------------------------------------------------------------------------------


def _components(spec: FleetSpec) -> Iterator[tuple[Keys, Component]]:
    for keys, component in components_of(spec):
        yield from _within(keys, component)


def _within(keys: Keys, value: object) -> Iterator[tuple[Keys, Component]]:
    if isinstance(value, Component):
        yield keys, value
    if isinstance(value, Struct):
        for field in fields_of(type(value)):
            yield from _within((*keys, field.encode_name), getattr(value, field.name))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _within((*keys, index), item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _within((*keys, str(key)), item)


def _leaves(value: Any, keys: Keys = ()) -> Iterator[Keys]:  # Any: JSON values
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*keys, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*keys, index))
    else:
        yield keys


def _tables(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, dict[str, Any]]]:  # Any: JSON values
    if isinstance(value, dict):
        yield keys, value
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, (dict, list)):
            yield from _tables(item, (*keys, key))


def _copied(value: Any) -> Any:  # Any: JSON values
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, (list, tuple)) else value


def _assign(values: Any, keys: Keys, value: str) -> None:  # Any: JSON values
    *above, last = keys
    for key in above:
        values = values[key]
    values[last] = value


def _path(keys: Keys) -> str:
    return "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)


def _is_file(annotation: Any) -> bool:  # Any: a type
    notes = (item.extra or {} for item in getattr(annotation, "__metadata__", ()) if isinstance(item, Meta))
    return any(note.get("file") for note in notes) or any(_is_file(part) for part in get_args(annotation))


# --- sources -------------------------------------------------------------------------------------------------

Source = tuple[Literal["file", "class", "unknown"], str | None]

_KNOWN: WeakKeyDictionary[type, Source] = WeakKeyDictionary()


def source_of(cls: type) -> Source:
    """Where the code of a class is, and its hash."""
    if cls not in _KNOWN:
        _KNOWN[cls] = _read(cls)
    return _KNOWN[cls]


def know_source(cls: type, source: Source) -> None:
    """Take another process's word for a class that came from it: the text may be known there alone."""
    _KNOWN[cls] = source


def _read(cls: type) -> Source:
    if cls.__module__ != "__main__":
        file = Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or "")
        if file.suffix == ".py" and file.is_file():
            return "file", hashlib.sha256(file.read_bytes()).hexdigest()
    text = _class_text(cls)
    return ("unknown", None) if text is None else ("class", hashlib.sha256(text.encode()).hexdigest())


def _class_text(cls: type) -> str | None:
    """The statement that defines `cls`, without decorators; where its functions say that they come from."""
    codes = [value.__code__ for value in vars(cls).values() if isinstance(value, FunctionType)]
    for code in codes:
        text = "".join(linecache.getlines(code.co_filename))
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.ClassDef)
                and node.name == cls.__name__
                and node.lineno <= code.co_firstlineno <= (node.end_lineno or 0)
            ):
                return ast.get_source_segment(text, node)
    return None
