"""Rows of a JSON-lines file: msgspec decodes and checks each line, so a type describes the format."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from msgspec.structs import astuple

from traces.errors import TraceError
from traces.readers.rows import Lines, Rows
from traces.schema import Scalar
from traces.source import Source

T = TypeVar("T")

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What a column can hold."""

_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_FIELD = re.compile(r"^Object (missing required|contains unknown) field `(?P<name>[^`]*)`")


_FAILS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decode_lines(source: Source, kind: type[T], *, skip: int = 0) -> tuple[list[T], Rows]:
    """Every line decoded as a `kind`, and the `Rows` to put their columns in. Blank lines are no rows.

    Args:
        source: The file, or a part of it.
        kind: What a line is, as msgspec knows it.
        skip: How many lines of the beginning of the file are not rows.
    """
    wanted = msgspec.json.Decoder(kind).decode
    decoded: list[T] = []
    lines: list[int] = []
    errors: list[TraceError] = []
    for number, line in enumerate(source.data.split(b"\n"), start=source.line):
        if number <= skip or not line or line.isspace():
            continue
        try:
            decoded.append(wanted(line))
            lines.append(number)
        except _FAILS as error:
            errors.append(explained(error, source.path, number))
    rows = Rows(source.path, _numbers(lines))
    for bad in errors:
        rows.unreadable(bad)
    return decoded, rows


def _numbers(lines: list[int]) -> Lines:
    follow = bool(lines) and lines[-1] - lines[0] + 1 == len(lines)
    return range(lines[0], lines[-1] + 1) if follow else np.array(lines, dtype=int)


_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
"""Names that a struct's field can have."""
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
MOST_FURTHER = 64
"""Names of further fields, beyond which each line is taken apart by itself."""


def other_fields(source: Source, rows: Rows, known: Collection[str]) -> dict[str, list[Scalar]]:
    """The fields of each row's line that are not `known`, by name; absent ones are None.

    Lines have the same few further fields, or none. So they are decoded as a struct that has those found so far, which
    is far quicker than to take all fields of a line out.
    """
    text = source.data.split(b"\n")
    known = frozenset(known)
    further: tuple[str, ...] = ()
    decode = _decoder(known, further)
    found: list[dict[str, Scalar]] = []
    for number in rows.lines.tolist():
        line = text[number - source.line]
        try:
            cells = astuple(decode(line))[len(known) :]
            found.append({name: _scalar(bytes(cell)) for name, cell in zip(further, cells, strict=True)})
        except _FAILS:
            found.append(others(_fields(line), known))
            new = [name for name in found[-1] if name not in further and _PLAIN.fullmatch(name)]
            if new and len(further) < MOST_FURTHER:
                further += tuple(new)
                decode = _decoder(known, further)
    return columns_of(found) if any(found) else {}


@lru_cache(maxsize=256)
def _decoder(
    known: frozenset[str], further: tuple[str, ...]
) -> Callable[[bytes], Any]:  # Any: its class is made here
    """What decodes objects that have no field but these, whatever their values: first those known, then the further."""
    names = [*sorted(known), *further]
    kind = msgspec.defstruct(
        "Fields",
        [(f"_{number}", msgspec.Raw, msgspec.Raw(b"null")) for number in range(len(names))],
        rename={f"_{number}": name for number, name in enumerate(names)},
        forbid_unknown_fields=True,
        gc=False,
    )
    return msgspec.json.Decoder(kind).decode


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


def text_of(value: msgspec.Raw) -> str | None:
    """A value as text: what a string says, and of all else how it is written; absent for null."""
    plain = _scalar(bytes(value))
    return (
        plain if plain is None or isinstance(plain, str) else bytes(value).decode("utf-8", "replace").strip()
    )


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
