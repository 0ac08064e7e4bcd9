"""Batch jobs of Alibaba Cloud Model Studio, as ServeGen publishes them: JSON lines of requests without arrivals.

A job is submitted as a whole, so all its requests come at once, at time 0, unless the caller names another law; they
are of kind ``batch``. Files either have ``output_length`` and ``duration`` (ms), or the hashes of the prompt's blocks
of 16 tokens.

Source: data/offline/README.md of alibaba/ServeGen, commit d70c8b2d5bc4; Yang et al., "Batched in Back: Characterizing
and Optimizing Offline LLM Inference in Production with ACDC", SOSP 2026.
"""

from __future__ import annotations

import msgspec
import pyarrow as pa
from msgspec.structs import replace

from traces.published import header_of
from traces.readers import arrivals
from traces.readers.blocks import put_blocks
from traces.readers.found import seconds
from traces.readers.json_rows import Int64, decode_lines, other_fields
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "servegen-offline"
TAKES = frozenset({"arrivals", "block_tokens"})
BLOCK_TOKENS = 16


class _Line(msgspec.Struct):
    request_id: Int64
    type: str
    input_length: Int64
    output_length: Int64 | None = None
    duration: float | None = None
    hash_ids: list[Int64] | None = None


def sniff(source: Source) -> bool:
    """By the keys of a line: an id, a type and a length, with what the two kinds of file add, and no time."""
    ours = source.has_keys("request_id", "type", "input_length")
    adds = source.has_keys("output_length", "duration") or source.has_keys("hash_ids", "img_ids")
    return ours and adds and not source.has_keys("timestamp")


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """All fields; the modality and the images go to `extra`."""
    lines, rows = decode_lines(source, _Line)
    told = replace(options, arrivals=options.arrivals or arrivals.AT_ONCE)
    arrived, step = arrivals.drawn(len(lines), told, source.path)
    rows.put_arrivals(arrived, "s", "arrivals")
    lengths = [line.input_length for line in lines]
    rows.put("id", pa.array([str(line.request_id) for line in lines], pa.string()), "request_id")
    rows.put("kind", pa.array(["batch"] * len(lines), pa.string()))
    rows.put("prompt_tokens", pa.array(lengths, pa.int64()), "input_length")
    rows.put("output_tokens", pa.array([line.output_length for line in lines], pa.int64()), "output_length")
    took_s = pa.array([seconds(line.duration) for line in lines], pa.float64())
    rows.put("observed_e2e_s", took_s, "duration")
    put_blocks(rows, [line.hash_ids for line in lines], lengths, options, usual=BLOCK_TOKENS, partial=False)
    known = [name for name in _Line.__struct_fields__ if name != "type"]
    rows.put_others(other_fields(source, rows, known))
    return rows, arrivals.derived(header_of(source, "ServeGen's offline traces"), step)
