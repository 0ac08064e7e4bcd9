"""Writing files so that whoever looks finds them whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path` at the end; an error leaves what was there.

    The name beside it is always the same, so what a killed process left of it goes with the next attempt. Raises
    `OSError` that names `path`, also where the system names none (a disk that is full).
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def write_whole(path: Path, data: bytes) -> None:
    """`data` as the file `path`, in a folder that is made where it is missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(20, "is a file, not a folder", str(path.parent)) from None
    with replacing(path) as part:
        part.write_bytes(data)
