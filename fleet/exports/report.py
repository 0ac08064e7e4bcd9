"""What an export has to say for itself, and the questions about records that several formats ask."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from fleet.telemetry.run import Run

Cells = dict[str, list[Any]]  # Any: what the columns hold
UNFINISHED = "no answer when the run ended"
CHUNK = 10_000
"""Lines or events that are encoded at once."""
T = TypeVar("T")


class ExportReport(Struct, frozen=True, kw_only=True):
    """What a file holds, and what of the run it does not."""

    format: str
    written: int
    """Records, rows of all tables, or events."""
    not_kept: tuple[str, ...] = ()
    """Columns of the records that the format has no place for, and figures that no run has and the format asks for."""
    left_out: dict[str, int] = {}
    """Rows that are not there, by reason."""


def others(run: Run, told: Collection[str]) -> tuple[str, ...]:
    """Columns of the records that hold something and are not `told`."""
    records = run.records
    return tuple(
        name for name in records.column_names if name not in told and records[name].null_count < len(records)
    )


def cells_of(records: pa.Table, *columns: str) -> Cells:
    """These columns as Python's values; one that the run does not have is all None."""
    absent = [None] * len(records)
    return {name: records[name].to_pylist() if name in records.column_names else absent for name in columns}


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """The items, `CHUNK` at a time."""
    rest = iter(items)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def by_token(run: Run) -> bool:
    """Whether any request was served token by token."""
    return int(run.records["generated_tokens"].null_count) < len(run.records)


def demand_prompts(run: Run, format: str) -> None:
    """Raise `ValueError` that names the first request of which no prompt length is known."""
    records = run.records
    known = "prompt_tokens" in records.column_names
    missing = pc.is_null(records["prompt_tokens"]).to_numpy() if known else np.ones(len(records), dtype=bool)
    if missing.any():
        first = records["id"][int(np.argmax(missing))].as_py()
        raise ValueError(
            f"{int(missing.sum()):,} of {len(records):,} requests have no prompt_tokens, the first being {first!r}; "
            f"{format} has the length of each prompt (csv and perfetto need none)"
        )
