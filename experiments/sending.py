"""Values as bytes for another process, with the classes and functions of a script or a notebook in them.

The one thing to know: what can be imported goes by name, the rest by value. cloudpickle does so for functions and plain
classes; a `Struct`, policies included, gets its fields when its class is made, so here it is made again from them.
"""

from __future__ import annotations

import abc
import inspect
import io
import pickle
import sys
import uuid
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import cloudpickle
from msgspec import NODEFAULT, Meta, Struct, StructMeta, field
from msgspec.structs import fields

from fleet.telemetry.provenance import Source, know_source, source_of

_CONFIG = (
    "frozen", "eq", "order", "array_like", "gc", "repr_omit_defaults", "omit_defaults", "forbid_unknown_fields",
    "weakref", "dict", "cache_hash", "tag", "tag_field",
)  # fmt: skip
_MADE_WITH_THE_CLASS = frozenset(
    (
        "__module__", "__qualname__", "__doc__", "__annotations__", "__dict__", "__weakref__", "__slots__",
        "__match_args__", "__abstractmethods__", "_abc_impl", "__rename__",
    )
)  # fmt: skip
_POST_INIT = "__post_init_of_the_class__"
_KEYS: WeakKeyDictionary[type, str] = WeakKeyDictionary()
_CLASSES: WeakValueDictionary[str, type] = WeakValueDictionary()
"""A class that comes twice, or comes back, is one class."""


def packed(value: object) -> bytes:
    """`value` as bytes. Raises what pickling raises for what cannot be sent: open files, locks, generators."""
    sink = io.BytesIO()
    _Packer(sink, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return sink.getvalue()


def unpacked(data: bytes) -> Any:  # Any: whatever was packed
    """The value again."""
    return pickle.loads(data)


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle ships no types
    def reducer_override(self, obj: Any) -> Any:  # Any: as pickle has it
        if isinstance(obj, type) and issubclass(obj, Struct) and not _importable(obj):
            return _class_parts(obj)
        if isinstance(obj, Meta):
            said = {name: getattr(obj, name) for name in inspect.signature(Meta).parameters}
            return _bounds, ({name: value for name, value in said.items() if value is not None},)
        return super().reducer_override(obj)


def _importable(cls: type) -> bool:
    found: object = None if cls.__module__ == "__main__" else sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is cls


class _Plan(Struct, frozen=True, kw_only=True):
    """What there is to say of a `Struct`'s class when it is made."""

    key: str
    meta: type[StructMeta]
    bases: tuple[type, ...]
    names: dict[str, str | None]
    fields: list[tuple[str, Any, Any, Any]]
    """Name, type, default, default factory. Any: of the user's fields."""
    options: dict[str, Any]
    source: Source
    hooked: bool
    """It has a `__post_init__`."""


def _class_parts(cls: type[Struct]) -> tuple[Any, ...]:  # Any: as pickle has it
    """How to make the class again, and what to set in it afterwards: its functions may refer to the class itself."""
    said = vars(cls).get("__annotations__", {})
    own = {item.name: item for item in fields(cls) if item.name in said}
    rest = {
        name: value
        for name, value in vars(cls).items()
        if name not in own and name not in _MADE_WITH_THE_CLASS and not name.startswith("__struct_")
    }
    plan = _Plan(
        key=_key(cls),
        meta=type(cls),
        bases=cls.__bases__,
        names={name: getattr(cls, name) for name in ("__qualname__", "__module__", "__doc__")},
        fields=[(item.name, item.type, item.default, item.default_factory) for item in own.values()],
        options=_options(cls, own),
        source=source_of(cls),
        hooked="__post_init__" in rest,
    )
    return _make, (plan,), rest, None, None, _fill


def _bounds(said: dict[str, Any]) -> Meta:  # Any: bounds of any type
    return Meta(**said)


def _options(
    cls: type[Struct], own: Mapping[str, Any]
) -> dict[str, Any]:  # Any: msgspec's, of its fields too
    options = {name: getattr(cls.__struct_config__, name) for name in _CONFIG}
    kinds = {item.kind for name, item in inspect.signature(cls).parameters.items() if name in own}
    renamed = {name: item.encode_name for name, item in own.items() if name != item.encode_name}
    return {**options, "kw_only": inspect.Parameter.KEYWORD_ONLY in kinds, "rename": renamed or None}


def _make(plan: _Plan) -> type:
    """The class with its fields, and as yet nothing else in it."""
    if (known := _CLASSES.get(plan.key)) is not None:
        return known
    namespace: dict[str, Any] = {
        **plan.names,
        "__annotations__": {name: kind for name, kind, _, _ in plan.fields},
    }
    for name, _, default, factory in plan.fields:
        if factory is not NODEFAULT:
            namespace[name] = field(default_factory=factory)
        elif default is not NODEFAULT:
            namespace[name] = default

    def post_init(self: Struct) -> None:
        getattr(cls, _POST_INIT)(self)

    if plan.hooked:  # msgspec looks for it now, and it comes later
        namespace["__post_init__"] = post_init
    cls = plan.meta(str(plan.names["__qualname__"]).rpartition(".")[2], plan.bases, namespace, **plan.options)
    _KEYS[cls], _CLASSES[plan.key] = plan.key, cls
    know_source(cls, plan.source)
    return cls


def _fill(cls: type, rest: Mapping[str, object]) -> None:
    for name, value in rest.items():
        setattr(cls, _POST_INIT if name == "__post_init__" else name, value)
    abc.update_abstractmethods(cls)


def _key(cls: type) -> str:
    if cls not in _KEYS:
        _KEYS[cls] = uuid.uuid4().hex
        _CLASSES[_KEYS[cls]] = cls
    return _KEYS[cls]
