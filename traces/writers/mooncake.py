"""Mooncake's layout: JSON lines of ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids``.

What more a row has is written under the names that the family's later members use: ``request_id``, ``session_id``,
``delay`` (ms), ``wait_for``, ``priority``, ``model``. They are those of Dynamo's `MooncakeRow` and its agentic sibling
(ai-dynamo/dynamo, crate dynamo-data-gen 1.6.2, `mooncake.rs`), of which AIPerf reads the same ones ("Trace Replay with
Mooncake Traces", docs of version 0.7).

Times are whole milliseconds, as in the published files. The size of a block is not in the file: it is 512 tokens there,
and where a trace has another, whoever reads the file has to be told.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, repeat
from typing import BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from traces.entries import CHUNK_ROWS
from traces.errors import TraceError
from traces.trace import Trace
from traces.writers.layout import demand, numbered

NAME = "mooncake"
USUAL_BLOCK_TOKENS = 512
_FIELDS = {
    "arrived_s": "timestamp",
    "prompt_tokens": "input_length",
    "output_tokens": "output_length",
    "blocks": "hash_ids",
    "id": "request_id",
    "session": "session_id",
    "think_s": "delay",
    "parent": "wait_for",
    "priority": "priority",
    "model": "model",
}
HOLDS = frozenset({*_FIELDS, "block_tokens"})


class _Line(msgspec.Struct, omit_defaults=True):
    timestamp: int
    input_length: int
    output_length: int
    hash_ids: list[int] | None = None
    request_id: str | None = None
    session_id: str | None = None
    delay: int | None = None
    wait_for: list[str] | None = None
    priority: int | None = None
    model: str | None = None


def write(trace: Trace, file: BinaryIO) -> dict[str, int]:
    """One object a row; fields that a row does not have are left out of it.

    Raises:
        TraceError: A row without a length, blocks of several sizes, or hashes that are not one a block.
    """
    demand(trace, NAME, "prompt_tokens", "output_tokens")
    block_tokens, unfilled = _blocks(trace)
    named = trace.column("parent").null_count < len(trace) or not numbered(trace).all()
    fresh = _fresh_hashes(trace) if unfilled.any() else iter(())
    encoder = msgspec.json.Encoder()
    row = 0
    for batch in trace.table.to_batches(max_chunksize=CHUNK_ROWS):
        lines = list(_lines(batch, named))
        for line in lines:
            if unfilled[row] and line.hash_ids is not None:
                line.hash_ids = [*line.hash_ids, next(fresh)]
            row += 1
        file.write(encoder.encode_lines(lines))
    changed = {f"{name} rounded to whole ms": _rounded(trace, name) for name in ("arrived_s", "think_s")}
    changed["blocks given a hash for the started block at the end, which had none"] = int(unfilled.sum())
    if block_tokens not in {None, USUAL_BLOCK_TOKENS}:
        told = f"block_tokens={block_tokens} left for the reader to be told (--block-tokens)"
        changed[told] = len(trace) - trace.column("blocks").null_count
    return changed


def _lines(batch: pa.RecordBatch, named: bool) -> Iterator[_Line]:
    columns = [
        batch[name].to_pylist() if name in batch.schema.names and (named or name != "id") else repeat(None)
        for name in _FIELDS
    ]
    for arrived_s, prompt, output, blocks, id, session, think_s, parent, priority, model in zip(
        *columns, strict=False
    ):
        yield _Line(
            round(arrived_s * 1e3), prompt, output, blocks, id, session,
            None if think_s is None else round(think_s * 1e3),
            None if parent is None else [parent], priority, model,
        )  # fmt: skip


def _rounded(trace: Trace, name: str) -> int:
    """Rows whose value of seconds is no whole number of ms."""
    seconds = trace.column(name)
    whole = pc.divide(pc.round(pc.multiply(seconds, 1e3)), 1e3)
    return int(pc.sum(pc.not_equal(whole, seconds)).as_py() or 0)


def _blocks(trace: Trace) -> tuple[int | None, np.ndarray]:
    """The size of the blocks, and which rows have no hash for the block at their end, which is not full."""
    nothing = np.zeros(len(trace), dtype=bool)
    lengths = pc.list_value_length(trace.column("blocks"))
    sizes = pc.drop_null(pc.unique(trace.column("block_tokens").filter(pc.is_valid(lengths)))).to_pylist()
    if not sizes:
        return None, nothing
    if len(sizes) > 1:
        shown = ", ".join(map(str, sorted(sizes)))
        raise TraceError(
            f"are of {shown} tokens", remedy="in Mooncake's layout all are of one size", column="blocks"
        )
    (size,) = sizes
    tokens = trace.column("prompt_tokens").to_numpy()
    hashes = pc.fill_null(lengths, -1).to_numpy()
    begun, full = -(-tokens // size), tokens // size
    wrong = (hashes >= 0) & (hashes != begun) & (hashes != full)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise TraceError(
            f"has {hashes[row]:,} hashes for {tokens[row]:,} tokens in blocks of {size}",
            remedy=f"Mooncake's layout has one for each started block, here {begun[row]:,}",
            line=row + 1,
            column="blocks",
        )
    return size, (hashes >= 0) & (hashes < begun)


def _fresh_hashes(trace: Trace) -> Iterator[int]:
    """Hashes that no block of the trace has, so that nothing shares what is not known to be shared."""
    blocks = trace.column("blocks").combine_chunks()
    used = set(pc.unique(blocks.flatten()).to_pylist())
    return (number for number in count() if number not in used)
