"""Batch jobs of Alibaba Cloud Model Studio, as ServeGen publishes them: JSON lines of requests without arrivals.

A job is submitted as a whole, so all its requests come at once, at time 0, unless the caller names another law; they
are of kind ``batch``. Files either have ``output_length`` and ``duration`` (ms), or the hashes of the prompt's blocks
of 16 tokens.

Source: data/offline/README.md of alibaba/ServeGen, commit d70c8b2d5bc4; Yang et al., "Batched in Back: Characterizing
and Optimizing Offline LLM Inference in Production with ACDC", SOSP 2026.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from traces.published import header_of
from traces.readers import arrivals
from traces.readers.documents import decode, fields, objects
from traces.readers.found import Found, rows_of, seconds
from traces.readers.json_rows import Int64, others
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header
from traces.source import Source

NAME = "servegen-offline"
TAKES = frozenset({"arrivals"})
BLOCK_TOKENS = 16


class _Line(msgspec.Struct):
    request_id: Int64
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
    lines = decode(objects(source), _Line, source.path)
    found = [_found(of, line, lines.texts[of]) for of, line in enumerate(lines.values)]
    rows = rows_of(found, lines.rows, _CALLED)
    told = replace(options, arrivals=options.arrivals or arrivals.AT_ONCE)
    arrived, step = arrivals.drawn(len(found), told, source.path)
    rows.put_arrivals(arrived, "s", "arrivals")
    return rows, arrivals.derived(header_of(source, "ServeGen's offline traces"), step)


_CALLED = {
    "id": "request_id",
    "prompt_tokens": "input_length",
    "output_tokens": "output_length",
    "blocks": "hash_ids",
    "observed_e2e_s": "duration",
}


def _found(of: int, line: _Line, text: bytes) -> Found:
    return Found(
        of=of,
        id=str(line.request_id),
        kind="batch",
        prompt_tokens=line.input_length,
        output_tokens=line.output_length,
        blocks=line.hash_ids,
        block_tokens=None if line.hash_ids is None else BLOCK_TOKENS,
        observed_e2e_s=seconds(line.duration),
        others=others(fields(text), _Line.__struct_fields__),
    )
