"""Rows of a JSON-lines file: msgspec decodes and checks each line, so a type describes the format."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
import numpy as np

from traces.errors import TraceError
from traces.readers.rows import Rows
from traces.source import Source

T = TypeVar("T")

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What a column can hold."""

_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_FIELD = re.compile(r"^Object (missing required|contains unknown) field `(?P<name>[^`]*)`")


def decode_lines(source: Source, wanted: Callable[[bytes], T], *, skip: int = 0) -> tuple[list[T], Rows]:
    """Every line decoded by `wanted`, and the `Rows` to put their columns in. Blank lines are no rows.

    Args:
        source: The file.
        wanted: The `decode` of a msgspec decoder.
        skip: How many lines of the beginning are not rows.
    """
    decoded: list[T] = []
    lines: list[int] = []
    errors: list[TraceError] = []
    for number, line in enumerate(source.data.split(b"\n"), start=1):
        if number <= skip or not line or line.isspace():
            continue
        try:
            decoded.append(wanted(line))
            lines.append(number)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            errors.append(_explained(error, source, number))
    rows = Rows(source.path, np.array(lines, dtype=int))
    for explained in errors:
        rows.unreadable(explained)
    return decoded, rows


def _explained(error: Exception, source: Source, line: int) -> TraceError:
    """Msgspec's message in the form of ours: the field as the column, then what is wrong with it."""
    message = str(error)
    at = _AT.search(message)
    column = at["path"] if at else None
    message = _AT.sub("", message)
    if field := _FIELD.match(message):
        column = f"{column}.{field['name']}" if column else field["name"]
        message = "is missing" if "missing" in field[1] else "is not a field of this format"
    elif isinstance(error, msgspec.ValidationError):
        message = message[:1].lower() + message[1:].replace("`", "")
    else:
        message = f"is not JSON: {message}"
    return TraceError(message, file=source.path, line=line, column=column)
