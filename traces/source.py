"""A file's bytes, unpacked, and what its beginning shows: enough to tell which format it is in."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from traces.errors import TraceError

PEEK_BYTES = 1 << 20
PEEK_LINES = 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
T = TypeVar("T")


class Source:
    """The contents of one file: read once, gzip or bzip2 undone, a byte-order mark removed.

    Raises:
        TraceError: The file is missing, is a directory, is empty, or its compression is damaged.
    """

    def __init__(self, path: Path, remedy: str = "a trace has at least a header line") -> None:
        """`remedy` is what a file that is empty should hold."""
        self.path = path
        try:
            data = path.read_bytes()
        except OSError as error:
            reason = error.strerror or str(error)
            raise TraceError(
                f"cannot be read: {reason}", remedy="give a path to a trace file", file=path
            ) from None
        self._unpacked = unpacked(data, path)
        self.data = self._unpacked.removeprefix(_BYTE_ORDER_MARK)
        if not self.data.strip():
            raise TraceError("is empty", remedy=remedy, file=path)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file's bytes, its compression undone: what a published file is known by."""
        return hashlib.sha256(self._unpacked).hexdigest()

    @cached_property
    def first_line(self) -> str:
        """The first line that is not blank, as text; bytes that are not UTF-8 are replaced."""
        return self.data[:PEEK_BYTES].lstrip().split(b"\n", 1)[0].decode("utf-8", "replace").strip()

    @cached_property
    def csv_columns(self) -> list[str]:
        """The names in the first line, read as CSV."""
        try:
            return [name.strip() for name in next(csv.reader([self.first_line]), [])]
        except csv.Error:
            return []

    @cached_property
    def json_lines(self) -> list[dict[str, Any]]:
        """The first `PEEK_LINES` lines that are JSON objects (`Any`: whatever the file holds).

        The first line is taken whole however long it is: an agent's session with its token ids takes megabytes.
        """
        objects: list[dict[str, Any]] = []
        begun = self.data.lstrip()
        first = begun.find(b"\n") if b"\n" in begun else len(begun)
        for line in begun[: max(PEEK_BYTES, first)].split(b"\n")[:PEEK_LINES]:
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


def unpacked(data: bytes, path: Path) -> bytes:
    """`data` without its gzip or bzip2 compression, recognised by its first bytes."""
    try:
        if data.startswith(b"\x1f\x8b"):
            return gzip.decompress(data)
        if data.startswith(b"BZh"):
            return bz2.decompress(data)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise TraceError(f"is damaged: {error}", remedy="fetch the file again", file=path) from None
    return data


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
