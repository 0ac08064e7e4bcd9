"""Make a component from a TOML table or from another one, and check every value in it.

Everything here works for any `Component`: policies (`{policy = "fifo"}`), engines (`{engine = "emulated"}`),
latency models, and the components nested in their fields. One rule holds whatever way a value came (Python objects,
TOML, JSON, the command line): building checks it, and an error names its path (``$.routing.choices``).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union

import msgspec

from policies.base import Component, PolicyError
from policies.registry import (
    is_abstract,
    kind_name,
    known_names,
    meant,
    qualified,
    resolve,
    tag_field,
    type_name,
)
from traces.values import BadValue, checked, fields_of, made

C = TypeVar("C", bound=Component)


def build(base: type[C], value: C | Mapping[str, Any], path: str = "$") -> C:
    """A fresh, validated component from a table such as ``{policy = "power-of-two-choices", choices = 2}``.

    In the place of the name there may be a class; `value` may also be a component already. Raises `PolicyError` that
    names the path of what is wrong: unknown names (with close matches), unknown parameters, wrong types, values out of
    bounds.
    """
    key = tag_field(base)
    if isinstance(value, Component):
        if not isinstance(value, base):
            raise PolicyError(f"{path}: expected a {kind_name(base)}, got {type(value).__name__}")
        return _construct(type(value), value.parameters(), path)
    if not isinstance(value, Mapping):
        raise PolicyError(f'{path}: expected a table such as {{{key} = "..."}}, got {value!r}')
    parameters = dict(value)
    name = parameters.pop(key, None)
    if name is None and not is_abstract(base):
        return _construct(base, parameters, path)
    if not isinstance(name, (str, type)):
        fault = f"`{key}` is missing" if name is None else f"`{key}` must be a name, got {name!r}"
        raise PolicyError(f"{path}: {fault}. {known_names(base)}")
    return _construct(resolve(base, name, f"{path}.{key}"), parameters, path)


def checked_value(annotation: Any, value: Any, path: str = "$") -> Any:  # Any: whatever its type may be
    """`value` as `annotation`, which holds no component, wants it: see `traces.values`. Raises `PolicyError`."""
    try:
        return checked(annotation, value, path)
    except BadValue as error:
        raise PolicyError(str(error)) from None


def _construct(cls: type[C], parameters: Mapping[str, Any], path: str) -> C:
    fields = {field.encode_name: field for field in fields_of(cls)}
    for key in parameters:
        if key not in fields:
            offered = f"; it has {', '.join(fields)}" if fields else "; it has none"
            raise PolicyError(
                f"{path}.{key}: {cls.name()} has no parameter `{key}`{meant(key, fields) or offered}"
            )
    for key, field in fields.items():
        if field.required and key not in parameters:
            raise PolicyError(f"{path}.{key}: {cls.name()} needs `{key}` ({type_name(field.type)})")
    values = {
        fields[key].name: _convert(fields[key].type, value, f"{path}.{key}")
        for key, value in parameters.items()
    }
    try:
        return made(cls, values, path)
    except BadValue as error:
        raise PolicyError(str(error)) from None


def _convert(annotation: Any, value: Any, path: str) -> Any:  # Any: whatever a parameter's type may be
    """`value` as `annotation` wants it. msgspec does it all, but does not know subclasses of components."""
    if not _has_component(annotation):
        return checked_value(annotation, value, path)
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return build(annotation, value, path)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _convert(arguments[0], value, path)
    if origin in {Union, types.UnionType}:
        return _convert_union(arguments, value, path)
    if issubclass(origin, Mapping):
        _demand_kind(value, Mapping, "a table", path)
        return {key: _convert(arguments[1], item, f"{path}.{key}") for key, item in value.items()}
    _demand_kind(value, (list, tuple), "an array", path)
    if issubclass(origin, tuple) and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise PolicyError(f"{path}: expected an array of {len(arguments)}, got {len(value)}")
    else:
        arguments = (arguments[0],) * len(value)
    items = [
        _convert(kind, item, f"{path}[{i}]")
        for i, (kind, item) in enumerate(zip(arguments, value, strict=True))
    ]
    return tuple(items) if issubclass(origin, tuple) else items


def _convert_union(arguments: Sequence[Any], value: Any, path: str) -> Any:
    """The alternative that fits: None, a plain value, or the component that a table describes."""
    if value is None and types.NoneType in arguments:
        return None
    components = [argument for argument in arguments if _has_component(argument)]
    plain = [
        argument for argument in arguments if not _has_component(argument) and argument is not types.NoneType
    ]
    if plain and not isinstance(value, (Component, Mapping)):
        return _convert(Union[tuple(plain)], value, path)  # noqa: UP007  # an alternative made at run time
    fitting = [argument for argument in components if _fits(argument, value)]
    return _convert((fitting or components)[0], value, path)


def _fits(annotation: Any, value: Any) -> bool:
    if not (isinstance(annotation, type) and issubclass(annotation, Component)):
        return isinstance(value, (list, tuple))
    return isinstance(value, annotation) or (isinstance(value, Mapping) and tag_field(annotation) in value)


def _demand_kind(value: object, kind: type | tuple[type, ...], called: str, path: str) -> None:
    if not isinstance(value, kind):
        raise PolicyError(f"{path}: expected {called}, got {value!r}")


def _has_component(annotation: Any) -> bool:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return issubclass(annotation, Component)
    return any(_has_component(argument) for argument in typing.get_args(annotation))


# --- to a table --------------------------------------------------------------------------------------------

OURS = ("experiments", "fleet", "policies", "traces")


def reference(cls: type[Component]) -> str:
    """What a table calls `cls` by: its name where it is the library's own, else ``module:Class``."""
    return cls.name() if cls.__module__.partition(".")[0] in OURS else qualified(cls)


def to_table(component: Component, called: Callable[[type[Component]], str] = reference) -> dict[str, Any]:
    """The plain values that `build` makes `component` of again; `called` says what classes go by."""
    parameters = {
        field.encode_name: _plain(getattr(component, field.name), called)
        for field in fields_of(type(component))
    }
    return {tag_field(type(component)): called(type(component)), **parameters}


def _plain(value: Any, called: Callable[[type[Component]], str]) -> Any:  # Any: JSON values
    if isinstance(value, Component):
        return to_table(value, called)
    if isinstance(value, (list, tuple)):
        return [_plain(item, called) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item, called) for key, item in value.items()}
    return msgspec.to_builtins(value)
