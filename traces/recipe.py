"""How a trace came to be, call by call: enough to have it again from its file, or from its law and seed.

The one thing to know: a `Header` says in words what was done, and a `Recipe` says it exactly, with every argument that
was given. What makes a trace is decorated with `recorded`; what cannot be written down (a table of one's own, a law of
lengths that is a function) leaves no recipe, and neither has what is made of it. A recipe is no part of what a trace
is: equal traces may have different ones. `traces.rebuilding` follows them.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Protocol, Self, TypeVar, cast, runtime_checkable

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from traces.laws import Law
from traces.packing import joined, split
from traces.schema import Scalar

F = TypeVar("F", bound=Callable[..., Any])  # Any: whatever a function takes and makes

STEPS: dict[str, Callable[..., Any]] = {}  # Any: as above
"""What recipes may call, by name: all that is `recorded`."""


class Step(Struct, frozen=True, omit_defaults=True):
    """One call."""

    name: str
    """As a user would write it: ``load_trace``, ``Trace.scale_rate``, ``poisson``."""
    parameters: dict[str, Any] = {}  # Any: JSON values; a recipe within is a table whose one key is `steps`
    """Those that were given, but for what the step before made."""
    file_sha256: str | None = None
    """Of the file that it read, byte for byte, as `sha256sum` has it."""
    sha256: str | None = None
    """`Trace.sha256` of what came out, where another step followed."""

    def __str__(self) -> str:
        given = ", ".join(f"{name}={_shown(value)}" for name, value in self.parameters.items())
        return f"{self.name.removeprefix('Trace.')}({given})"


class Recipe(Struct, frozen=True):
    """Calls in their order, each on what the one before it made."""

    steps: Annotated[tuple[Step, ...], Meta(min_length=1)]

    def __str__(self) -> str:
        return ", then ".join(map(str, self.steps))


@runtime_checkable
class Recorded(Protocol):
    """What has a recipe: a trace, a law of lengths, a series of rates."""

    @property
    def recipe(self) -> Recipe | None: ...

    def made_by(self, recipe: Recipe | None) -> Self:
        """The same with this recipe."""
        ...


class Unwritable(ValueError):  # noqa: N818  # what it is
    """A value that no recipe can hold."""


def recorded(name: str) -> Callable[[F], F]:
    """Have what a function returns know the call that made it, as step `name` of its recipe.

    Where its first argument has a recipe, that goes on. A parameter called `path` names the file that it reads.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:  # Any: what the function takes and makes
            made = function(*args, **kwargs)
            given = signature.bind(*args, **kwargs)
            return made.made_by(_recipe(name, signature, given.arguments))

        STEPS[name] = call
        return cast("F", call)

    return decorate


def _recipe(name: str, signature: inspect.Signature, given: Mapping[str, Any]) -> Recipe | None:
    """That of what a call made; None where it cannot be written."""
    arguments = _flat(signature, given)
    try:
        before = _taken_first(signature, arguments)
        parameters = {key: _written(value) for key, value in arguments.items()}
        sha256 = None
        if "path" in parameters:
            parameters["path"], sha256 = _read_from(parameters["path"])
    except Unwritable:
        return None
    return Recipe((*before, Step(name, parameters, sha256)))


def _flat(signature: inspect.Signature, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, those of ``**parameters`` among the others; without what is None if nothing is said."""
    flat: dict[str, Any] = {}
    for name, value in given.items():
        parameter = signature.parameters[name]
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            flat |= value
        elif value is not None or parameter.default is not None:
            flat[name] = value
    return flat


def _taken_first(signature: inspect.Signature, arguments: dict[str, Any]) -> tuple[Step, ...]:
    """The steps of the first argument, if it is something that has any, which is taken out of `arguments`."""
    first = next(iter(signature.parameters.values()))
    value = arguments.get(first.name)
    if first.kind is inspect.Parameter.VAR_POSITIONAL and value:
        value, arguments[first.name] = value[0], value[1:]
    elif isinstance(value, Recorded):
        del arguments[first.name]
    return _steps_of(value) if isinstance(value, Recorded) else ()


def _steps_of(value: Recorded) -> tuple[Step, ...]:
    """The steps that made a value, the last one with the hash of it."""
    if value.recipe is None:
        raise Unwritable
    *before, last = value.recipe.steps
    return (*before, replace(last, sha256=getattr(value, "sha256", None)))


def _written(value: object) -> Any:  # Any: a JSON value
    """`value` as a recipe holds it; `traces.rebuilding` reads it back."""
    value = value.tolist() if hasattr(value, "tolist") and hasattr(value, "dtype") else value  # numpy's
    within = _recipe_of(value)
    if within is not None:
        return msgspec.to_builtins(within)
    if isinstance(value, Mapping):
        return {str(key): _written(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_written(item) for item in value]
    return _plain(value)


def _recipe_of(value: object) -> Recipe | None:
    """The recipe of a parameter that JSON has no value for; None: it may have one."""
    if isinstance(value, Recorded):
        return Recipe(_steps_of(value))
    if isinstance(value, float) and not math.isfinite(value):
        return Recipe((Step("float", {"text": str(value)}),))
    text = _expression_text(value)
    return None if text is None else Recipe((Step("expression", {"text": text}),))


def _plain(value: object) -> Scalar:
    if isinstance(value, Law):
        return value.text
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise Unwritable


def _expression_text(value: object) -> str | None:
    """A condition on columns in Arrow's own bytes, which no text of it could be read back from."""
    if type(value).__name__ != "Expression":  # spares others the import
        return None
    import pyarrow.compute as pc

    if not isinstance(value, pc.Expression):
        return None
    _, (buffer,) = value.__reduce__()
    return base64.b64encode(buffer).decode()


def _expression(text: str) -> Any:  # Any: `pyarrow.compute.Expression`
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.Expression._deserialize(pa.py_buffer(base64.b64decode(text)))  # noqa: SLF001  # what pickling it calls


def _float(text: str) -> float:
    return float(text)


STEPS |= {"float": _float, "expression": _expression}


def _read_from(path: str) -> tuple[str, str | None]:
    """Where a file is, wherever it is asked from, and its SHA-256; a name that is no file's stays what it is."""
    file, member = split(Path(path))
    if not file.exists():
        return path, None
    if not file.is_file():
        raise Unwritable  # a pipe: nobody can read it twice
    return joined(file.absolute(), member), file_sha256(file)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as they are on the disk."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shown(value: Any) -> str:  # Any: a JSON value
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if is_recipe(value):
        inner = msgspec.convert(value, Recipe)
        return _PLAIN.get(inner.steps[0].name, str)(inner)
    return repr(value)


_PLAIN: dict[str, Callable[[Recipe], str]] = {
    "float": lambda recipe: str(recipe.steps[0].parameters["text"]),
    "expression": lambda recipe: "a condition",
}


def is_recipe(value: object) -> bool:
    """Whether a parameter of a step is a recipe itself, of another trace, a law of lengths, a condition."""
    return isinstance(value, dict) and value.keys() == {"steps"} and isinstance(value["steps"], list | tuple)
