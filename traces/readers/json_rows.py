"""Rows of a JSON-lines file: msgspec decodes and checks each line, so a type describes the format."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import numpy as np

from traces.errors import TraceError
from traces.readers.rows import Rows
from traces.schema import Scalar
from traces.source import Source

T = TypeVar("T")

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What a column can hold."""

_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_FIELD = re.compile(r"^Object (missing required|contains unknown) field `(?P<name>[^`]*)`")


def decode_lines(source: Source, kind: type[T], *, skip: int = 0) -> tuple[list[T], Rows]:
    """Every line decoded as a `kind`, and the `Rows` to put their columns in. Blank lines are no rows.

    Args:
        source: The file.
        kind: What a line is, as msgspec knows it.
        skip: How many lines of the beginning are not rows.
    """
    wanted = msgspec.json.Decoder(kind).decode
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
            errors.append(explained(error, source.path, number))
    rows = Rows(source.path, np.array(lines, dtype=int))
    for bad in errors:
        rows.unreadable(bad)
    return decoded, rows


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def other_fields(source: Source, rows: Rows, known: Collection[str]) -> dict[str, list[Scalar]]:
    """The fields of each row's line that are not `known`, by name; absent ones are None."""
    text = source.data.split(b"\n")
    return columns_of([others(_fields(text[line - 1]), known) for line in rows.lines.tolist()])


def columns_of(rows: list[dict[str, Scalar]]) -> dict[str, list[Scalar]]:
    """Rows of fields as columns of them, in the order in which they first occur."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def nested(text: msgspec.Raw) -> list[dict[str, msgspec.Raw]]:
    """The fields of each object in a list."""
    return msgspec.json.decode(text, type=list[dict[str, msgspec.Raw]])


def others(fields: dict[str, msgspec.Raw], known: Collection[str]) -> dict[str, Scalar]:
    """The fields that are not `known`. A value that is a list, an object or too large stays the text that it is."""
    return {name: _scalar(bytes(text)) for name, text in fields.items() if name not in known}


def _scalar(text: bytes) -> Scalar:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        value = text
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    return text.decode("utf-8", "replace").strip()


def explained(error: Exception, file: Path, line: int) -> TraceError:
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
    return TraceError(message, file=file, line=line, column=column)
