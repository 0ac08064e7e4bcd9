"""A run's folder: one Parquet file a table, the trace if it is kept, `origin.json`, and `manifest.json`.

The one thing to know: the manifest comes last, under its name only when it is whole. A folder without one holds no
run, whatever else was written there before the disk was full or the process was killed. All but `origin.json`, and
the paths in `Manifest.files`, are the same bytes wherever the run was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from fleet.telemetry.documents import encoded
from fleet.telemetry.origin import Origin
from traces import Trace, save_trace
from traces.files import replacing

T = TypeVar("T")

MANIFEST = "manifest.json"
ORIGIN = "origin.json"
TRACE = "trace.parquet"


def write_folder(
    target: Path,
    tables: Mapping[str, pa.Table],
    *,
    manifest: object,
    origin: Origin | None,
    trace: Trace | None,
) -> None:
    """Write tables, trace, origin and what `manifest.json` is to hold, in the place of a run that was there.

    Raises `OSError` that names the file that cannot be written.
    """
    target.mkdir(parents=True, exist_ok=True)
    for old in (MANIFEST, ORIGIN, TRACE):
        (target / old).unlink(missing_ok=True)
    for name, table in tables.items():
        with replacing(target / f"{name}.parquet") as file:
            pq.write_table(table, file, compression="zstd")
    if trace is not None:
        save_trace(trace, target / TRACE)
    if origin is not None:
        with replacing(target / ORIGIN) as file:
            file.write(_json(origin))
    with replacing(target / MANIFEST) as file:
        file.write(_json(manifest))


def _json(document: object) -> bytes:
    return msgspec.json.format(encoded(document)) + b"\n"


def read_manifest(source: Path, kind: type[T]) -> T:
    """What `manifest.json` holds. Raises `ValueError` where there is no run, or half of one."""
    file = source / MANIFEST
    if not source.is_dir():
        raise ValueError(f"{source}: there is no such folder")
    if not file.exists():
        begun = any(source.glob("*.parquet"))
        why = (
            ", which is written last: the run was not saved to its end"
            if begun
            else ", so it is no saved run"
        )
        raise ValueError(f"{source}: there is no {MANIFEST} in it{why}")
    return _decoded(file, kind)


def read_origin(source: Path) -> Origin | None:
    """What `origin.json` holds; None where somebody has taken it out. Raises `ValueError` if it is damaged."""
    file = source / ORIGIN
    return _decoded(file, Origin) if file.exists() else None


def _decoded(file: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(_damaged(file, error)) from None


def read_table(source: Path, name: str) -> pa.Table:
    """One table. Raises `ValueError` that names the file that is missing or damaged."""
    file = source / f"{name}.parquet"
    if not file.exists():
        raise ValueError(f"{file}: is missing from the run")
    try:
        return pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(_damaged(file, error)) from None


def _damaged(file: Path, error: Exception) -> str:
    return f"{file}: is damaged: {str(error).partition(chr(10))[0]}"
