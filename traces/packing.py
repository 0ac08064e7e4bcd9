"""Files out of their packing: gzip, bzip2, xz, zstd and zip, recognised by their first bytes and never by a name.

The one thing to know: what is unpacked is read as a stream and never held whole, so a large file that is packed takes
no more memory than one that is not. A zip archive of several files is asked for one: ``archive.zip::member.csv``.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import pyarrow as pa

from traces.errors import TraceError

MEMBER = "::"
"""Between the path of an archive and the name of a file in it."""
DAMAGED = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException)
"""What the unpacking of a damaged file raises."""
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")


def _zstd(stream: IO[bytes]) -> Any:  # Any: Arrow's stream, a file in all but its type
    return pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")


_CODECS: dict[bytes, Callable[[IO[bytes]], Any]] = {  # Any: what `io.BufferedReader` reads from
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _zstd,
}
"""By the bytes that such a file begins with: what reads through it."""


def split(path: Path) -> tuple[Path, str | None]:
    """The file, and the member of it that the path names after `MEMBER`, if it does."""
    archive, mark, member = str(path).partition(MEMBER)
    return (Path(archive), member) if mark and not path.exists() else (path, None)


def joined(file: Path, member: str | None) -> str:
    """The path that `split` takes apart."""
    return str(file) if member is None else f"{file}{MEMBER}{member}"


def unpacked(packed: IO[bytes], path: Path, member: str | None) -> IO[bytes]:
    """The contents of a file, whatever it is packed with, once or over again.

    Args:
        packed: The file as it is.
        path: For error messages.
        member: Which file of a zip archive; None for its only one.

    Raises:
        TraceError: The archive holds several files or none, or not this one; names those that there are.
    """
    stream = cast("io.BufferedReader", packed)
    if stream.peek(4).startswith(_ZIP):
        stream = _member(stream, path, member)
    elif member is not None:
        raise TraceError("is not a zip archive", remedy=f"leave out {MEMBER}{member}", file=path)
    while codec := next((c for magic, c in _CODECS.items() if stream.peek(8).startswith(magic)), None):
        stream = io.BufferedReader(codec(stream))
    return stream


def _member(packed: IO[bytes], path: Path, member: str | None) -> io.BufferedReader:
    archive = zipfile.ZipFile(packed)
    names = [info.filename for info in archive.infolist() if _holds_data(info)]
    listed = ", ".join(names) or "none"
    if member is None and len(names) != 1:
        remedy = f"name one, as in {path}{MEMBER}{names[0]}" if names else "pack a trace"
        raise TraceError(f"is a zip archive of {len(names)} files: {listed}", remedy=remedy, file=path)
    if member is not None and member not in names:
        raise TraceError(f"has no file {member!r}", remedy=f"it holds {listed}", file=path)
    try:
        return io.BufferedReader(cast("io.RawIOBase", archive.open(member or names[0])))
    except (RuntimeError, NotImplementedError) as error:  # a password, or a compression that zipfile has not
        raise TraceError(f"cannot be unpacked: {error}", remedy="unpack it yourself", file=path) from None


def _holds_data(info: zipfile.ZipInfo) -> bool:
    """Whether it is a file that someone packed, not a folder or what some systems add to archives."""
    name = PurePosixPath(info.filename)
    return not info.is_dir() and name.parts[0] != "__MACOSX" and not name.name.startswith(".")
