"""Writing a file so that it is there whole or not at all.

The one thing to know: the bytes go to a file beside the one that is named, which takes its place at the end. A full
disk or an interrupt leaves what was there before, and nothing half written.
"""

from __future__ import annotations

import errno
import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    import pyarrow as pa


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """The file at `path` to be written anew; packed with gzip where the name ends in ``.gz``.

    Packed bytes hold no time and no name, so equal contents are equal files. What is no regular file, such as a pipe,
    is written to as it is.

    Raises:
        OSError: It cannot be written; its `filename` is `path`.
    """
    path = Path(path)
    try:
        with _packed(path) if path.exists() and not path.is_file() else _beside(path) as file:
            yield file
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextmanager
def _beside(path: Path) -> Iterator[BinaryIO]:
    target = path.resolve()  # of a link, what it leads to
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with _packed(part, like=target) as file:
            yield file
        part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def _packed(path: Path, like: Path | None = None) -> Iterator[BinaryIO]:
    with path.open("wb") as file:
        if (like or path).suffix != ".gz":
            yield file
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
            yield cast(BinaryIO, packed)


def write_parquet(path: Path, table: pa.Table) -> None:
    """`table` as the file `path`, in a folder that is there."""
    import pyarrow.parquet as pq

    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd")


def write_whole(path: Path, data: bytes) -> None:
    """`data` as the file `path`, in a folder that is made where it is missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder", str(path.parent)) from None
    with replacing(path) as file:
        file.write(data)
