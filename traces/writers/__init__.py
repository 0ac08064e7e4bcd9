"""Traces to files: our own formats by suffix, and the layouts of others by name. A trace always gives the same bytes.

To add a layout, write a module with `NAME`, `HOLDS` and `write` like those beside this one, and list it in `LAYOUTS`.
"""

from __future__ import annotations

from pathlib import Path

from traces.errors import TraceError
from traces.files import replacing
from traces.trace import Trace
from traces.writers import azure, columns, mooncake, own, vidur
from traces.writers.layout import Layout, WriteReport, left_out

LAYOUTS: tuple[Layout, ...] = (mooncake, azure, vidur, columns)
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
"""Of our own formats."""


def save_trace(trace: Trace, path: str | Path, *, format: str | None = None) -> WriteReport:
    """Write a trace; a file that cannot be written whole is not written at all.

    Without `format` the name asks for one of our own: ``.jsonl``, ``.jsonl.gz`` or ``.parquet``, from which
    `load_trace` gives back an equal trace with the same `sha256`. With it, the file is in a layout that others read,
    packed where the name ends in ``.gz``: "mooncake", "azure", "vidur", or "csv" for every column that there is. Those
    say nothing of where a trace comes from; `load_trace` gives back what they hold, time 0 at the first arrival.

    Returns:
        What the file does not hold, and what was changed to fit.

    Raises:
        TraceError: A suffix or a format that is none, or a row without what the format demands.
        OSError: The file cannot be written; its `filename` says which.
    """
    path = Path(path)
    layout = None if format is None else _named(format)
    if layout is None:
        own_format(path)
    with replacing(path) as file:
        if layout is None:
            (own.write_parquet if path.suffix == ".parquet" else own.write_jsonl)(trace, file)
            return WriteReport(format=f"fleetlab-{own_format(path)}", rows=len(trace), header_kept=True)
        changed = layout.write(trace, file)
    return WriteReport(
        format=layout.NAME,
        rows=len(trace),
        not_kept=left_out(trace, layout.HOLDS),
        changed={what: rows for what, rows in changed.items() if rows},
    )


def own_format(path: Path) -> str:
    """Which of our own formats a file's name asks for, or `TraceError` that says what may be asked for."""
    if not path.name.endswith(SUFFIXES):
        named = ", ".join(layout.NAME for layout in LAYOUTS)
        raise TraceError(
            "has no suffix that names a format of our own",
            remedy=f"use {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, or name a format: {named}",
            file=path,
        )
    return "parquet" if path.suffix == ".parquet" else "jsonl"


def _named(format: str) -> Layout:
    for layout in LAYOUTS:
        if format == layout.NAME:
            return layout
    known = ", ".join(layout.NAME for layout in LAYOUTS)
    raise TraceError(f"there is no format {format!r} to write", remedy=f"known: {known}")


__all__ = ["WriteReport", "save_trace"]
