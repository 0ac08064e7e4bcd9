"""A file's bytes, unpacked, and what its beginning shows: enough to tell which format it is in.

The one thing to know: a file is read in parts of some megabytes of whole lines, so that memory does not grow with it.
Formats that are one document take all of it (`data`).
"""

from __future__ import annotations

import copy
import csv
import hashlib
import io
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from traces.errors import TraceError
from traces.packing import DAMAGED, split, unpacked

PEEK_BYTES = 1 << 20
PEEK_LINES = 20
PART_BYTES = 1 << 22
"""Of a part, and so of what is read at a time: enough rows to be worth a call of numpy, few enough to forget."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
T = TypeVar("T")


class Source:
    """The contents of one file, its packing undone (`traces.packing`), a byte-order mark removed.

    Attributes:
        path: The file.
        line: The line of the file, from 1, on which `data` begins: 1, but in a part of the file.
        head: The beginning, at least its first line that is not blank.

    Raises:
        TraceError: The file is missing, is a directory, is empty, or its compression is damaged.
    """

    def __init__(self, path: Path, remedy: str = "a trace has at least a header line") -> None:
        """`remedy` is what a file that is empty should hold."""
        self.path = path
        self.line = 1
        self._file, self._member = split(path)
        self._sha256: str | None = None
        self._held = None if self._file.is_file() else self._read_once()
        self.head = self._beginning()
        if not self.head.strip():
            raise TraceError("is empty", remedy=remedy, file=path)

    def _opened(self) -> IO[bytes]:
        try:
            return self._file.open("rb")
        except OSError as error:
            reason = error.strerror or str(error)
            raise TraceError(
                f"cannot be read: {reason}", remedy="give a path to a trace file", file=self.path
            ) from None

    def _read_once(self) -> bytes:
        """All of what is no ordinary file: a pipe cannot be read again."""
        with self._opened() as file:
            return file.read()

    def _pieces(self, size: int) -> Iterator[bytes]:
        """The unpacked bytes, at most `size` at a time."""
        file = self._opened() if self._held is None else io.BufferedReader(io.BytesIO(self._held))
        with file:
            try:
                stream = unpacked(file, self._file, self._member)
                while piece := stream.read(size):
                    yield piece
            except TraceError:
                raise
            except DAMAGED as error:
                raise TraceError(
                    f"is damaged: {error}", remedy="fetch the file again", file=self.path
                ) from None

    def _beginning(self) -> bytes:
        """`PEEK_BYTES`, or more where the first line is longer: a session with its token ids takes megabytes."""
        pieces, begun = [], False
        for piece in self._pieces(PEEK_BYTES):
            pieces.append(piece)
            text = piece if begun else piece.lstrip()
            begun = begun or bool(text)
            if b"\n" in text:
                break
        return b"".join(pieces).removeprefix(_BYTE_ORDER_MARK)

    @cached_property
    def data(self) -> bytes:
        """All of it."""
        return b"".join(self._pieces(PART_BYTES)).removeprefix(_BYTE_ORDER_MARK)

    def unpacked_path(self) -> Path | None:
        """The file itself, for what is not read from its beginning to its end; None if it must be unpacked first."""
        if self._held is not None or self._member is not None:
            return None
        with self._opened() as file:
            return self._file if self.head.startswith(file.read(4)) else None

    def parts(self) -> Iterator[Source]:
        """The same file, some megabytes of whole lines at a time, each a source; the first one has the header."""
        hashed, held, line, begun = hashlib.sha256(), [b""], 1, False
        for number, piece in enumerate(self._pieces(PART_BYTES)):
            hashed.update(piece)
            text = piece.removeprefix(_BYTE_ORDER_MARK) if number == 0 else piece
            end = text.rfind(b"\n") + 1
            begun = begun or bool(text[:end].strip())
            if not end or not begun:  # in the middle of a long line, or before the first
                held.append(text)
                continue
            whole = b"".join([*held, text[:end]])
            yield self._part(whole, line)
            line += whole.count(b"\n")
            held = [text[end:]]
        if rest := b"".join(held):
            yield self._part(rest, line)
        self._sha256 = hashed.hexdigest()

    def _part(self, data: bytes, line: int) -> Source:
        part = copy.copy(self)
        part.__dict__.update(data=data, line=line)
        return part

    @property
    def sha256(self) -> str:
        """SHA-256 of the file's bytes, its compression undone: what a published file is known by."""
        if self._sha256 is None:
            hashed = hashlib.sha256()
            for piece in self._pieces(PART_BYTES):
                hashed.update(piece)
            self._sha256 = hashed.hexdigest()
        return self._sha256

    @cached_property
    def first_line(self) -> str:
        """The first line that is not blank, as text; bytes that are not UTF-8 are replaced."""
        return self.head.lstrip().split(b"\n", 1)[0].decode("utf-8", "replace").strip()

    @cached_property
    def csv_columns(self) -> list[str]:
        """The names in the first line, read as CSV."""
        try:
            return [name.strip() for name in next(csv.reader([self.first_line]), [])]
        except csv.Error:
            return []

    @cached_property
    def json_lines(self) -> list[dict[str, Any]]:
        """The first `PEEK_LINES` lines that are JSON objects (`Any`: whatever the file holds)."""
        objects: list[dict[str, Any]] = []
        for line in self.head.lstrip().split(b"\n")[:PEEK_LINES]:
            try:
                objects.append(msgspec.json.decode(line, type=dict[str, Any]))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
        return objects

    def has_columns(self, *names: str) -> bool:
        """Whether the first line is a CSV header with all these names, in any order."""
        return set(names) <= set(self.csv_columns)

    def has_keys(self, *names: str) -> bool:
        """Whether one of the first lines, each of which may be bad, is a JSON object with all these keys."""
        return any(set(names) <= line.keys() for line in self.json_lines)


def decoded(source: Source, kind: type[T], called: str, example: str) -> T:
    """The struct that a file of our own holds, JSON or TOML; `called` and `example` say what it should have been.

    Raises:
        TraceError: It is neither, or a field is not what it should be; names the file and the path of the field.
    """
    as_json = source.data.lstrip().startswith((b"{", b"[{"))
    decode = msgspec.json.decode if as_json else msgspec.toml.decode
    try:
        return decode(source.data, type=kind)
    except msgspec.MsgspecError as error:
        remedy = f"expected {example}"
        raise TraceError(f"is not {called}: {error}", remedy=remedy, file=source.path) from None
    except ValueError as error:  # how the TOML parser fails
        raise TraceError(f"is neither JSON nor TOML: {error}", file=source.path) from None
