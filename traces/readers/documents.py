"""Files of JSON objects: one object, a list of them, or one a line. A reader says what each object is.

The one thing to know: an object is numbered by its line where there is one a line, and by its place in the list, from
1, where the file is one document. Errors name that number.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np

from traces.errors import TraceError
from traces.readers.json_rows import explained
from traces.readers.rows import Rows
from traces.source import PEEK_LINES, Source

T = TypeVar("T")
Fields = dict[str, msgspec.Raw]
_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Text(NamedTuple):
    """One JSON object of a file, and its number there."""

    number: int
    json: bytes


class Decoded(NamedTuple, Generic[T]):
    """Objects that are what they should be, the text of each, and the rows to put their columns in."""

    values: list[T]
    texts: list[bytes]
    rows: Rows


def has_keys(source: Source, *names: str) -> bool:
    """Whether one of the first lines, or the one document that the file is, is an object with all these keys."""
    if source.has_keys(*names):
        return True
    if not source.first_line.startswith("{") or fields(source.first_line.encode()):
        return False  # the first line is an object, so that each line is one: the whole file need not be looked at
    return (
        all(f'"{name}"'.encode() in source.head for name in names)
        and set(names) <= fields(source.data).keys()
    )


def first_keys(source: Source) -> set[str]:
    """The keys that the first objects of the file's list, or of its lines, have between them."""
    if source.first_line.startswith("["):
        return {key for element in elements(source.data)[:PEEK_LINES] for key in fields(element)}
    return {key for line in source.json_lines for key in line}


def objects(source: Source) -> list[Text]:
    """The objects of the file: the elements of its list, the one that it is, or those of its lines.

    What is spread over lines is without its white space here, so that lists and objects in `extra` are one line.

    Raises:
        TraceError: It begins as a list, and is none.
    """
    if source.first_line.startswith("["):
        listed = enumerate(elements(_compact(source)), start=1)
        return [Text(number, bytes(element)) for number, element in listed]
    if fields(source.data):
        return [Text(1, _compact(source))]
    lines = enumerate(source.data.split(b"\n"), start=1)
    return [Text(number, line) for number, line in lines if line and not line.isspace()]


def _compact(source: Source) -> bytes:
    try:
        return msgspec.json.format(source.data, indent=-1)
    except _ERRORS as error:
        raise TraceError(f"is not JSON: {error}", remedy="fetch the file again", file=source.path) from None


def decode(texts: Iterable[Text], kind: type[T], file: Path) -> Decoded[T]:
    """Each text as a `kind`; what is none is a bad row."""
    wanted = msgspec.json.Decoder(kind).decode
    kept: list[Text] = []
    values: list[T] = []
    errors: list[TraceError] = []
    for text in texts:
        try:
            values.append(wanted(text.json))
            kept.append(text)
        except _ERRORS as error:
            errors.append(explained(error, file, text.number))
    rows = Rows(file, np.array([text.number for text in kept], dtype=int))
    for bad in errors:
        rows.unreadable(bad)
    return Decoded(values, [text.json for text in kept], rows)


def elements(text: bytes | msgspec.Raw) -> list[msgspec.Raw]:
    """The elements of a JSON list; of anything else, none."""
    return _decoded(text, list[msgspec.Raw], [])


def fields(text: bytes | msgspec.Raw, *path: str) -> Fields:
    """The fields of a JSON object, or of the one that its fields `path` lead to; of anything else, none."""
    found: Fields = _decoded(text, dict[str, msgspec.Raw], {})
    for name in path:
        found = _decoded(found.get(name, b""), dict[str, msgspec.Raw], {})
    return found


def _decoded(
    text: bytes | msgspec.Raw, kind: Any, otherwise: T
) -> T:  # Any: a generic alias, which no type is
    try:
        value: T = msgspec.json.decode(text, type=kind)
    except _ERRORS:
        return otherwise
    return value
