"""A trace made again by its recipe, and held against what it was, step by step.

The one thing to know: a recipe calls only what is `recorded` (`traces.recipe.STEPS`), so that to follow one that
came with somebody's results runs no code but this package's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from traces import rates, readers, synthesis, trace
from traces.errors import TraceError
from traces.packing import joined, split
from traces.readers import load_trace
from traces.recipe import STEPS, Recipe, Step, file_sha256, is_recipe
from traces.schema import Header
from traces.trace import Trace

_MAKERS = (rates, readers, synthesis, trace)
"""Imported for what they record."""
_OTHER_VERSION = "another version of fleetlab made the run, or its origin.json was changed"
_HOW = "give where it is now: rebuild(trace=...) (--trace FILE)"


def rebuilt(recipe: Recipe, sha256: str, header: Header, file: Path | None = None) -> Trace:
    """The trace that `recipe` makes, with the header that it had.

    Args:
        recipe: How it was made.
        sha256: Of the trace, when it was made.
        header: What was known of it then. It names the file as that was called.
        file: Where the file that the recipe reads is now; a folder, where it reads several: each by its name.

    Raises:
        TraceError: A file is not there, or not what it was; or a step makes something else now. Names it.
    """
    made = _Following(file).follow(recipe)
    if not isinstance(made, Trace):
        raise TraceError(f"{recipe.steps[-1].name} makes no trace", remedy="the recipe was changed")
    if made.sha256 != sha256:
        raise _differs(recipe, len(recipe.steps), made.sha256, sha256)
    return made.headed(header)


def finished(file: Path, sha256: str, header: Header) -> Trace:
    """The trace that `file` holds as it is, once it is known to be the one of this hash."""
    found = load_trace(file)
    if found.sha256 != sha256:
        raise TraceError(
            f"is not the trace of the run: its SHA-256 is {found.sha256[:16]}, and was {sha256[:16]}",
            remedy="give the file that the run's trace was saved in",
            file=file,
        )
    return found.headed(header)


def reads_files(recipe: Recipe) -> bool:
    """Whether any step of it, or within it, reads a file that is one's own."""
    return any(step.file_sha256 or any(map(_reads, step.parameters.values())) for step in recipe.steps)


def _reads(value: Any) -> bool:  # Any: a JSON value
    if isinstance(value, list | tuple):
        return any(map(_reads, value))
    return is_recipe(value) and reads_files(msgspec.convert(value, Recipe))


class _Following:
    """One walk along a recipe and those within it."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def follow(self, recipe: Recipe) -> Any:  # Any: a trace, a law of lengths, a series of rates, a condition
        made: list[Any] = []
        for number, step in enumerate(recipe.steps, 1):
            made = [self._call(step, made)]
            now = getattr(made[0], "sha256", None)
            if step.sha256 is not None and now != step.sha256:
                raise _differs(recipe, number, now, step.sha256)
        return made[0]

    def _call(self, step: Step, before: list[Any]) -> Any:
        function = STEPS.get(step.name)
        if function is None:
            raise TraceError(f"there is no step {step.name}", remedy=_OTHER_VERSION)
        given = {name: self._value(value) for name, value in step.parameters.items()}
        if step.file_sha256 is not None:
            given |= self._found(step)
        return _called(step, function, before, given)

    def _value(self, value: Any) -> Any:  # Any: JSON values, and what recipes make
        if is_recipe(value):
            return self.follow(msgspec.convert(value, Recipe))
        return [self._value(item) for item in value] if isinstance(value, list | tuple) else value

    def _found(self, step: Step) -> dict[str, str]:
        """The path of the file that a step reads, by the name of its parameter."""
        then, member = split(Path(step.parameters["path"]))
        path = then if self._file is None else self._file / then.name if self._file.is_dir() else self._file
        if not path.is_file():
            raise TraceError("is not there, and the run's trace was read from it", remedy=_HOW, file=path)
        now = file_sha256(path)
        if now != step.file_sha256:
            raise TraceError(
                f"is not the file that the run's trace was read from: its SHA-256 is {now[:16]}, and was "
                f"{(step.file_sha256 or '')[:16]}",
                remedy=_HOW,
                file=path,
            )
        return {"path": joined(path, member)}


def _called(step: Step, function: Callable[..., Any], before: list[Any], given: dict[str, Any]) -> Any:
    positional = list(before)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            positional += given.pop(name, ())
    try:
        return function(*positional, **given)
    except TraceError:
        raise
    except Exception as error:  # a recipe comes in a file, which may say anything
        raise TraceError(f"{step} cannot be called: {error}", remedy=_OTHER_VERSION) from error


def _differs(recipe: Recipe, number: int, now: str | None, then: str) -> TraceError:
    """What to say of the first step that makes something else now."""
    return TraceError(
        f"step {number} of {len(recipe.steps)}, {recipe.steps[number - 1]}, makes another trace than it did: its "
        f"SHA-256 is {(now or 'none')[:16]}, and was {then[:16]}",
        remedy="the versions of fleetlab, numpy and pyarrow may differ from the run's: its manifest has them",
    )
