"""Requests as a reader of nested JSON finds them, several in one object, on their way into columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import pyarrow as pa

from traces.columns import COLUMNS
from traces.readers.json_rows import columns_of
from traces.readers.rows import Rows
from traces.schema import RequestKind, Scalar


class Found(msgspec.Struct, kw_only=True):
    """One request: what the file says of it, under the names of `traces.columns.COLUMNS`; None where it says nothing.

    Arrivals are not here: each reader puts them itself, as it has them.
    """

    of: int
    """Index of the object that it came from."""
    id: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    blocks: list[int] | None = None
    block_tokens: int | None = None
    session: str | None = None
    turn: int | None = None
    parent: str | None = None
    think_s: float | None = None
    model: str | None = None
    kind: RequestKind | None = None
    observed_queue_s: float | None = None
    observed_ttft_s: float | None = None
    observed_tpot_s: float | None = None
    observed_e2e_s: float | None = None
    observed_failed: bool | None = None
    others: dict[str, Scalar] = {}
    """Further fields, by the names that the file gives them."""

    def unfitting(self) -> bool:
        """Whether it has hashes, and more or fewer than blocks of its size."""
        if self.blocks is None or not self.block_tokens or self.prompt_tokens is None:
            return False
        full, rest = divmod(self.prompt_tokens, self.block_tokens)
        return len(self.blocks) not in (full, full + bool(rest))


def rows_of(found: Sequence[Found], objects: Rows, called: Mapping[str, str]) -> Rows:
    """A row for each of these requests, which came from `objects`; `called` has the file's names of columns."""
    rows = objects.expanded([request.of for request in found])
    for name in Found.__struct_fields__:
        values = [getattr(request, name) for request in found] if name in COLUMNS else []
        if any(value is not None for value in values):
            rows.put(name, pa.array(values, COLUMNS[name].type), called.get(name, name))
    _reject_unfitting(rows, found)
    rows.put_others(columns_of([request.others for request in found]))
    return rows


def _reject_unfitting(rows: Rows, found: Sequence[Found]) -> None:
    """Mark the rows whose hashes are not one for each started, or each full, block of the size that they say."""
    wrong = [request.unfitting() for request in found]
    told = pa.array(
        [
            f"{len(request.blocks or ()):,} hashes for {request.prompt_tokens} tokens" if bad else None
            for bad, request in zip(wrong, found, strict=True)
        ],
        pa.string(),
    )
    rows.reject(
        wrong, "blocks", "do not fit blocks of the size that is said", "expected a hash for each block", told
    )


def mean_gap_s(first_s: float | None, whole_s: float | None, output_tokens: int | None) -> float | None:
    """TPOT: the mean gap between the tokens of an answer, of its TTFT and its end-to-end time."""
    if first_s is None or whole_s is None or output_tokens is None or output_tokens < 2:
        return None
    return (whole_s - first_s) / (output_tokens - 1)


def seconds(milliseconds: float | None) -> float | None:
    """A duration in seconds, where there is one."""
    return None if milliseconds is None else milliseconds / 1e3
