"""Values held against their types, whatever way they came: plain, as a struct, or a struct within another.

msgspec checks plain values as it makes structs of them. It takes for granted what is a struct already, and lets through
numbers that are none (NaN) or have no end. `checked` does what is left, so that there is one rule for all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import FieldInfo

S = TypeVar("S", bound=Struct)


class BadValue(ValueError):  # noqa: N818  # what it is
    """A value that is not what its place wants.

    What a struct's bounds cannot say (which names are known, which fields go together), its `__post_init__` or its
    `check_values` says by raising this, with the field's name as the path.

    Attributes:
        path: Where it is within the value that was checked, such as `device` or `kv.device`; may be empty.
        problem: What was wrong, and what would be right.
    """

    def __init__(self, path: str, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}" if path else problem)

    def below(self, path: str) -> BadValue:
        """The same of a value at `path`."""
        joint = "." if self.path and not self.path.startswith("[") else ""
        return BadValue(f"{path}{joint}{self.path}", self.problem)


def checked(annotation: Any, value: Any, path: str = "$") -> Any:  # Any: whatever a field's type may be
    """`value` as `annotation` wants it, every struct in it checked, field by field, by its own types.

    Structs come back fresh. Numbers must be finite: JSON has no word for others, and no sum survives them.

    Raises:
        BadValue: Names the path of what is wrong, from `path` on.
    """
    try:
        converted = msgspec.convert(value, annotation)
    except msgspec.ValidationError as error:
        raise _located(error, path) from None
    return _within(converted, path)


def check_fields(value: S, path: str = "$") -> S:
    """A fresh struct of the same values, each checked by the type of its field, and all of them by `check_values`.

    Raises:
        BadValue: Names the path of what is wrong, from `path` on.
    """
    fields = {
        field.name: checked(field.type, getattr(value, field.name), f"{path}.{field.encode_name}")
        for field in fields_of(type(value))
    }
    return made(type(value), fields, path)


@lru_cache(maxsize=512)
def fields_of(cls: type[Struct]) -> tuple[FieldInfo, ...]:
    """`msgspec.structs.fields`, which works out every annotation, once for each class."""
    return msgspec.structs.fields(cls)


def made(cls: type[S], fields: Mapping[str, Any], path: str) -> S:
    """A struct of fields that are right each by itself, once they are right together."""
    try:
        value = cls(**fields)
        check = getattr(value, "check_values", None)
        if check is not None:
            check()
    except BadValue as error:
        raise error.below(path) from None
    except (TypeError, ValueError, ArithmeticError) as error:  # from the class's own __post_init__
        raise BadValue(path, str(error)) from None
    return value


def _within(value: Any, path: str) -> Any:
    """`value` with what is in it checked; msgspec has seen to its own type."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadValue(path, f"expected a finite number, got {value}")
        return value
    if isinstance(value, Struct):
        return check_fields(value, path)
    if isinstance(value, (list, tuple)):
        items = [_within(item, f"{path}[{i}]") for i, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: _within(item, f"{path}.{key}") for key, item in value.items()}
    return value


def _located(error: msgspec.ValidationError, path: str) -> BadValue:
    """Msgspec's own trailing path (`... - at `$.x``) moved below `path`."""
    text, _, tail = str(error).partition(" - at `$")
    where = f"{path}{tail.rstrip('`')}"
    if isinstance(error.__cause__, BadValue):  # raised by a struct as it was made
        return error.__cause__.below(where)
    return BadValue(where, text)
