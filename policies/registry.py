"""Find a component by name, and list what there is.

The one thing to know: a class needs no registration. It is found as a subclass (of any class imported so far)
by its kebab-case name, as ``module:Class``, or through the entry-point group ``fleetlab.policies``. `building` makes
one of it.
"""

from __future__ import annotations

import importlib
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from functools import cache
from pkgutil import iter_modules
from typing import Annotated, Any, TypeVar, Union

import msgspec
from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo

from policies.base import Component, Policy, PolicyError

ENTRY_POINTS = "fleetlab.policies"

C = TypeVar("C", bound=Component)

# --- by name -----------------------------------------------------------------------------------------------


def classes(base: type[C]) -> list[type[C]]:
    """Every concrete class with a slot, imported so far, that is `base` or below it; ordered by name.

    Those that are shipped count as imported. Of a class that was defined again under the same module and name (as in a
    notebook) the latest counts.
    """
    _load_shipped()
    usable = [cls for cls in _family(base) if cls.slot and not is_abstract(cls)]
    latest = {(cls.__module__, cls.__qualname__): cls for cls in usable}
    return sorted(latest.values(), key=lambda cls: (cls.name(), cls.__module__))


@cache
def _load_shipped() -> None:
    """Import every module in the folders of `policies`: a file there is a policy, and needs no word anywhere else."""
    import policies

    for folder in iter_modules(policies.__path__, "policies."):
        if folder.ispkg and not folder.name.startswith("policies._"):
            for module in iter_modules(importlib.import_module(folder.name).__path__, f"{folder.name}."):
                importlib.import_module(module.name)


def _family(base: type[C]) -> Iterator[type[C]]:
    yield base
    for subclass in base.__subclasses__():
        yield from _family(subclass)


def resolve(base: type[C], name: str | type, path: str = "$") -> type[C]:
    """The class that goes by `name` among the subclasses of `base`; `PolicyError` when none or several do."""
    if isinstance(name, type):
        return _demand(base, name, qualified(name), path)
    if ":" in name:
        return _from_module(base, name, path)
    found = [cls for cls in classes(base) if cls.name() == name] or list(_from_entry_points(base, path, name))
    if len(found) == 1:
        return found[0]
    if found:
        which = " and ".join(qualified(cls) for cls in found)
        raise PolicyError(
            f"{path}: {len(found)} classes go by `{name}`: {which}; "
            f"write `{qualified(found[0])}` to say which"
        )
    raise PolicyError(
        f"{path}: there is no {kind_name(base)} `{name}`{_hint(base, name)} {known_names(base)}"
    )


def _hint(base: type[Component], name: str) -> str:
    """What was meant, if it can be told."""
    close = meant(name, (cls.name() for cls in classes(base)))
    elsewhere = [cls.slot for cls in classes(Policy) if cls.name() == name]
    return f" (it is a policy of another slot: {elsewhere[0]})." if elsewhere and not close else close or "."


def known_names(base: type[Component]) -> str:
    """What there is below `base`, for a message."""
    names = sorted({cls.name() for cls in classes(base)})
    return f"Known: {', '.join(names)}; one of your own is written `module:Class`"


def _from_module(base: type[C], name: str, path: str) -> type[C]:
    module_name, _, class_name = name.partition(":")
    if "<locals>" in class_name:
        return _from_function(base, name, path)
    module = _import(module_name, path)
    found = _attribute(module, class_name)
    if found is None and module_name == "__main__":
        raise PolicyError(
            f"{path}: `{class_name}` was defined in a script or a notebook, and not in this one; move it to a "
            "module of its own, or define it here first"
        )
    if found is None:
        offered = [key for key, value in vars(module).items() if _is_component(value, base)]
        raise PolicyError(f"{path}: module `{module_name}` has no `{class_name}`{meant(class_name, offered)}")
    return _demand(base, found, name, path)


def _attribute(module: object, path: str) -> object:
    """What `Class` or `Outer.Inner` names in a module; None where there is no such thing."""
    for part in path.split("."):
        module = getattr(module, part, None)
    return module


def _from_function(base: type[C], name: str, path: str) -> type[C]:
    """A class defined inside a function, while the function's process still has it."""
    for cls in classes(base):
        if qualified(cls) == name:
            return cls
    raise PolicyError(
        f"{path}: `{name}` is defined inside a function, and cannot be imported; move it to the top of its module"
    )


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
        if _is_component(found, base) and not is_abstract(found):
            yield found


def is_abstract(cls: type[Component]) -> bool:
    """True when a method that its slot demands is missing."""
    return bool(getattr(cls, "__abstractmethods__", ()))


def _is_component(value: object, base: type[Component]) -> bool:
    return isinstance(value, type) and issubclass(value, base)


def _demand(base: type[C], found: object, name: str, path: str) -> type[C]:
    """`found`, once it is known to be a concrete class below `base`."""
    if not isinstance(found, type) or not issubclass(found, base):
        raise PolicyError(
            f"{path}: `{name}` is not of kind {kind_name(base)} (a subclass of {base.__name__})"
        )
    if is_abstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise PolicyError(f"{path}: `{name}` cannot be used: it does not define {missing}")
    return found


def tag_field(base: type[Component]) -> str:
    """The key under which a table names the class: `policy`, `engine`, ..."""
    return base.__struct_config__.tag_field or "policy"


def kind_name(base: type[Component]) -> str:
    """`routing policy`, `engine`, `latency model`: what `base` is called in a message."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", base.__name__).lower()


def qualified(cls: type) -> str:
    """``module:Class``."""
    return f"{cls.__module__}:{cls.__qualname__}"


def meant(name: str, known: Iterable[str]) -> str:
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

    def in_short(self) -> str:
        """As in a call, ``choices=2``; of a default that has parameters itself, the name."""
        if self.default is None:
            return self.name
        shorter = re.sub(r"(?s)^(\w+)\(.+\)$", r"\1(…)", self.default)
        return f"{self.name}={shorter}"


class ComponentInfo(Struct, frozen=True):
    """One component, in words: what ``fleet policies`` prints."""

    slot: str
    name: str
    law: str
    """The rule in one sentence: the first of its docstring."""
    summary: str
    """The docstring's first paragraph: the law, and what a decision costs."""
    source: str | None
    parameters: tuple[ParameterInfo, ...]
    oracle: bool
    location: str
    """``module:Class``."""

    def parameters_in_short(self) -> str:
        """All of them, in a line."""
        return ", ".join(one.in_short() for one in self.parameters)


def describe(base: type[Component] = Policy) -> list[ComponentInfo]:
    """Every concrete component below `base`, those of installed entry points included, by slot and name."""
    list(_from_entry_points(base, "$"))  # loading makes them subclasses that `classes` finds
    return sorted((_describe(cls) for cls in classes(base)), key=lambda info: (info.slot, info.name))


_SENTENCE_END = re.compile(r"(?<=[^\s.]\.)\s+(?=[A-Z])")


def _describe(cls: type[Component]) -> ComponentInfo:
    from inspect import cleandoc

    text = cleandoc(cls.__doc__ or "")
    source = re.search(r"^Source: (.+?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    summary = " ".join(text.partition("\n\n")[0].split())
    return ComponentInfo(
        slot=cls.slot,
        name=cls.name(),
        law=_SENTENCE_END.split(summary, maxsplit=1)[0],
        summary=summary,
        source=" ".join(source[1].split()) if source else None,
        parameters=tuple(_describe_field(field) for field in msgspec.structs.fields(cls)),
        oracle=getattr(cls, "oracle", False),
        location=qualified(cls),
    )


def _describe_field(field: FieldInfo) -> ParameterInfo:
    default: str | None = None
    if field.default is not NODEFAULT:
        default = repr(field.default)
    elif field.default_factory is not NODEFAULT:
        default = repr(field.default_factory())
    return ParameterInfo(field.encode_name, type_name(field.type), default)


_BOUNDS = {
    "gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of",
    "pattern": "matching", "min_length": "of length >=", "max_length": "of length <=",
}  # fmt: skip


def type_name(annotation: Any) -> str:
    """A type as a reader writes it: ``int >= 1``, ``list[Filter]``, ``'full' | 'none'``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        bounds = [
            f"{word} {getattr(meta, key)}"
            for meta in annotation.__metadata__
            for key, word in _BOUNDS.items()
            if getattr(meta, key, None) is not None
        ]
        return " ".join([type_name(arguments[0]), ", ".join(bounds)]).strip()
    if origin is typing.Literal:
        return " | ".join(repr(argument) for argument in arguments)
    if origin in {Union, types.UnionType}:
        return " | ".join(type_name(argument) for argument in arguments)
    if arguments:
        return f"{origin.__name__}[{', '.join(type_name(argument) for argument in arguments)}]"
    if annotation is types.NoneType:
        return "None"
    return "..." if annotation is Ellipsis else getattr(annotation, "__name__", str(annotation))
