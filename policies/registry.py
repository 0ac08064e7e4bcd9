"""Find a component by name, build it from a TOML table, and list what there is.

The one thing to know: a class needs no registration. It is found as a subclass (of any class imported so far)
by its kebab-case name, as ``module:Class``, or through the entry-point group ``fleetlab.policies``.

Everything here works for any `Component`: policies (`{policy = "fifo"}`), engines (`{engine = "emulated"}`),
latency models, and the components nested in their fields. Every error names its path (``$.routing.choices``).
"""

from __future__ import annotations

import importlib
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union

import msgspec
from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo

from policies.base import Component, Policy, PolicyError, at_path

ENTRY_POINTS = "fleetlab.policies"

C = TypeVar("C", bound=Component)

# --- by name -----------------------------------------------------------------------------------------------


def classes(base: type[C]) -> list[type[C]]:
    """Every concrete class with a slot, imported so far, that is `base` or below it; ordered by name.

    Of a class that was defined again under the same module and name (as in a notebook) the latest counts.
    """
    usable = [cls for cls in _family(base) if cls.slot and not _is_abstract(cls)]
    latest = {(cls.__module__, cls.__qualname__): cls for cls in usable}
    return sorted(latest.values(), key=lambda cls: (cls.name(), cls.__module__))


def _family(base: type[C]) -> Iterator[type[C]]:
    yield base
    for subclass in base.__subclasses__():
        yield from _family(subclass)


def resolve(base: type[C], name: str, path: str = "$") -> type[C]:
    """The class that goes by `name` among the subclasses of `base`; `PolicyError` when none or several do."""
    if ":" in name:
        return _from_module(base, name, path)
    found = [cls for cls in classes(base) if cls.name() == name] or list(_from_entry_points(base, path, name))
    if len(found) == 1:
        return found[0]
    if found:
        which = " and ".join(_qualified(cls) for cls in found)
        raise PolicyError(
            f"{path}: {len(found)} classes go by `{name}`: {which}; "
            f"write `{_qualified(found[0])}` to say which"
        )
    raise PolicyError(f"{path}: there is no {_kind(base)} `{name}`{_hint(base, name)} {_known(base)}")


def _hint(base: type[Component], name: str) -> str:
    """What was meant, if it can be told."""
    meant = _meant(name, (cls.name() for cls in classes(base)))
    elsewhere = [cls.slot for cls in classes(Policy) if cls.name() == name]
    return f" (it is a policy of another slot: {elsewhere[0]})." if elsewhere and not meant else meant or "."


def _known(base: type[Component]) -> str:
    names = sorted({cls.name() for cls in classes(base)})
    return f"Known: {', '.join(names)}; one of your own is written `module:Class`"


def _from_module(base: type[C], name: str, path: str) -> type[C]:
    module_name, _, class_name = name.partition(":")
    module = _import(module_name, path)
    found = getattr(module, class_name, None)
    if found is None:
        offered = [key for key, value in vars(module).items() if _is_component(value, base)]
        raise PolicyError(
            f"{path}: module `{module_name}` has no `{class_name}`{_meant(class_name, offered)}"
        )
    return _demand(base, found, name, path)


def _import(module_name: str, path: str) -> types.ModuleType:
    """Import a module, also from the working directory, which an installed command does not look in."""
    from pathlib import Path

    here, top = Path.cwd(), module_name.partition(".")[0]
    if str(here) not in sys.path and ((here / top).exists() or (here / f"{top}.py").exists()):
        sys.path.append(str(here))
        importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise PolicyError(
                f"{path}: there is no module `{error.name}` on the import path or in {here}"
            ) from None
        raise PolicyError(f"{path}: module `{module_name}` cannot be imported: {error}") from error
    except Exception as error:
        raise PolicyError(
            f"{path}: module `{module_name}` cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _from_entry_points(base: type[C], path: str, name: str | None = None) -> Iterator[type[C]]:
    """Classes below `base` that installed distributions offer (under `name`, unless it is None)."""
    from importlib.metadata import entry_points  # as slow to import as all of policies

    for entry in entry_points(group=ENTRY_POINTS):
        if name is not None and entry.name != name:
            continue
        try:
            found = entry.load()
        except Exception as error:
            raise PolicyError(
                f"{path}: entry point `{entry.name} = {entry.value}` cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
        if _is_component(found, base) and not _is_abstract(found):
            yield found


def _is_abstract(cls: type[Component]) -> bool:
    return bool(getattr(cls, "__abstractmethods__", ()))


def _is_component(value: object, base: type[Component]) -> bool:
    return isinstance(value, type) and issubclass(value, base)


def _demand(base: type[C], found: object, name: str, path: str) -> type[C]:
    """`found`, once it is known to be a concrete class below `base`."""
    if not isinstance(found, type) or not issubclass(found, base):
        raise PolicyError(f"{path}: `{name}` is not of kind {_kind(base)} (a subclass of {base.__name__})")
    if _is_abstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise PolicyError(f"{path}: `{name}` cannot be used: it does not define {missing}")
    return found


# --- from a table ------------------------------------------------------------------------------------------


def build(base: type[C], value: C | Mapping[str, Any], path: str = "$") -> C:
    """A fresh, validated component from a table such as ``{policy = "power-of-two-choices", choices = 2}``.

    `value` may also be a component already. Raises `PolicyError` that names the path of what is wrong:
    unknown names (with close matches), unknown parameters, wrong types, values out of bounds.
    """
    key = tag_field(base)
    if isinstance(value, Component):
        if not isinstance(value, base):
            raise PolicyError(f"{path}: expected a {_kind(base)}, got {type(value).__name__}")
        return _construct(type(value), value.parameters(), path)
    if not isinstance(value, Mapping):
        raise PolicyError(f'{path}: expected a table such as {{{key} = "..."}}, got {value!r}')
    parameters = dict(value)
    name = parameters.pop(key, None)
    if name is None and not _is_abstract(base):
        return _construct(base, parameters, path)
    if not isinstance(name, str):
        fault = f"`{key}` is missing" if name is None else f"`{key}` must be a name, got {name!r}"
        raise PolicyError(f"{path}: {fault}. {_known(base)}")
    return _construct(resolve(base, name, f"{path}.{key}"), parameters, path)


def _construct(cls: type[C], parameters: Mapping[str, Any], path: str) -> C:
    fields = {field.encode_name: field for field in msgspec.structs.fields(cls)}
    for key in parameters:
        if key not in fields:
            offered = f"; it has {', '.join(fields)}" if fields else "; it has none"
            raise PolicyError(
                f"{path}.{key}: {cls.name()} has no parameter `{key}`{_meant(key, fields) or offered}"
            )
    for key, field in fields.items():
        if field.required and key not in parameters:
            raise PolicyError(f"{path}.{key}: {cls.name()} needs `{key}` ({_type_name(field.type)})")
    values = {
        fields[key].name: _convert(fields[key].type, value, f"{path}.{key}")
        for key, value in parameters.items()
    }
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:  # from the class's own __post_init__
        raise PolicyError(f"{path}: {error}") from None


def _convert(annotation: Any, value: Any, path: str) -> Any:  # Any: whatever a parameter's type may be
    """`value` as `annotation` wants it. msgspec does it all, but does not know subclasses of components."""
    if not _has_component(annotation):
        try:
            return msgspec.convert(value, annotation)
        except msgspec.ValidationError as error:
            raise PolicyError(at_path(str(error), path)) from None
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


def tag_field(base: type[Component]) -> str:
    """The key under which a table names the class: `policy`, `engine`, ..."""
    return base.__struct_config__.tag_field or "policy"


def _kind(base: type[Component]) -> str:
    """`routing policy`, `engine`, `latency model`: what `base` is called in a message."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", base.__name__).lower()


def _qualified(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _meant(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` when something close to `name` is known, else nothing."""
    import difflib  # only a mistake needs it

    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(f'`{match}`' for match in close)}?" if close else ""


# --- the list ----------------------------------------------------------------------------------------------


class ParameterInfo(Struct, frozen=True):
    """One parameter, in words."""

    name: str
    type: str
    """With its bounds, such as ``int >= 1``."""
    default: str | None
    """None: it must be given."""


class ComponentInfo(Struct, frozen=True):
    """One component, in words: what ``fleet policies`` prints."""

    slot: str
    name: str
    summary: str
    source: str | None
    parameters: tuple[ParameterInfo, ...]
    oracle: bool
    location: str
    """``module:Class``."""


def describe(base: type[Component] = Policy) -> list[ComponentInfo]:
    """Every concrete component below `base`, those of installed entry points included, by slot and name."""
    list(_from_entry_points(base, "$"))  # loading makes them subclasses that `classes` finds
    return sorted((_describe(cls) for cls in classes(base)), key=lambda info: (info.slot, info.name))


def _describe(cls: type[Component]) -> ComponentInfo:
    from inspect import cleandoc

    text = cleandoc(cls.__doc__ or "")
    source = re.search(r"^Source: (.+?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    return ComponentInfo(
        slot=cls.slot,
        name=cls.name(),
        summary=" ".join(text.partition("\n\n")[0].split()),
        source=" ".join(source[1].split()) if source else None,
        parameters=tuple(_describe_field(field) for field in msgspec.structs.fields(cls)),
        oracle=getattr(cls, "oracle", False),
        location=_qualified(cls),
    )


def _describe_field(field: FieldInfo) -> ParameterInfo:
    default: str | None = None
    if field.default is not NODEFAULT:
        default = repr(field.default)
    elif field.default_factory is not NODEFAULT:
        default = repr(field.default_factory())
    return ParameterInfo(field.encode_name, _type_name(field.type), default)


_BOUNDS = {
    "gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of",
    "pattern": "matching", "min_length": "of length >=", "max_length": "of length <=",
}  # fmt: skip


def _type_name(annotation: Any) -> str:
    """A type as a reader writes it: ``int >= 1``, ``list[Filter]``, ``'full' | 'none'``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        bounds = [
            f"{word} {getattr(meta, key)}"
            for meta in annotation.__metadata__
            for key, word in _BOUNDS.items()
            if getattr(meta, key, None) is not None
        ]
        return " ".join([_type_name(arguments[0]), ", ".join(bounds)]).strip()
    if origin is typing.Literal:
        return " | ".join(repr(argument) for argument in arguments)
    if origin in {Union, types.UnionType}:
        return " | ".join(_type_name(argument) for argument in arguments)
    if arguments:
        return f"{origin.__name__}[{', '.join(_type_name(argument) for argument in arguments)}]"
    if annotation is types.NoneType:
        return "None"
    return "..." if annotation is Ellipsis else getattr(annotation, "__name__", str(annotation))
