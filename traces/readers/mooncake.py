"""The family of Mooncake traces: JSON lines with arrival in ms, lengths, and the hashes of prefix blocks.

Kimi's own files have ``timestamp``, ``input_length``, ``output_length`` and ``hash_ids`` of 512-token blocks. AIPerf
and Dynamo add ``session_id``, ``delay`` and more, and take other names for the same (`ALIASES`). Other tools write such
keys in other units and with other blocks, and no key says so. So both are checked: hashes against lengths in every row,
times against what milliseconds can be. What is in doubt is refused.

The clock of the published files ticks about every 3 s, so many requests share an instant: spread them with
`Trace.dequantise(tick_s=3.0, seed=...)` where that matters.

Sources: the README of kvcache-ai/Mooncake; "Trace Replay with Mooncake Traces" in NVIDIA's documentation of AIPerf 0.7,
and its ``MooncakeTrace`` (``delay``: milliseconds to wait before the turn is sent); ``MooncakeRow`` and
``AgenticMooncakeRow`` in the documentation of the crate dynamo-data-gen 1.3 and 1.4 (the aliases; ``wait_for``:
requests that must be complete before this one, which then waits ``delay`` plus ``tool_wait_ms``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from traces.published import PUBLISHED, header_of
from traces.readers.blocks import put_blocks
from traces.readers.gathered import Gathered, gather
from traces.readers.json_rows import Int64, decode_lines, other_fields
from traces.readers.milliseconds import check_milliseconds
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.readers.turns import Turns, awaited
from traces.schema import Header, Scalar
from traces.source import Source

NAME = "mooncake"
TAKES = frozenset({"time_unit", "block_tokens"})
BLOCK_TOKENS = 512
ALIASES = {
    "timestamp": "created_time",
    "input_length": "input_tokens",
    "output_length": "output_tokens",
    "delay": "delay_ms",
}
"""The other name that a file may have for a field."""
Further = dict[str, Sequence[Scalar]]

_FIELDS: list[tuple[str, Any] | tuple[str, Any, Any]] = [  # Any: types, and their defaults
    ("input_length", Int64),
    ("output_length", Int64),
    ("timestamp", float | None, None),
    ("hash_ids", list[int] | None, None),
    ("session_id", str | int | None, None),
    ("request_id", str | int | None, None),
    ("wait_for", list[str | int] | str | int | None, None),
    ("delay", float | int | None, None),
    ("tool_wait_ms", float | int | None, None),
]


@lru_cache(maxsize=16)
def _line(called: tuple[str, ...]) -> Any:  # Any: a struct that is made here
    """What a line is, in a file that has these names for the fields of `ALIASES`."""
    return msgspec.defstruct("Line", _FIELDS, rename=dict(zip(ALIASES, called, strict=True)), gc=False)


def _called(source: Source) -> dict[str, str]:
    """What the file calls each field of `ALIASES`: the alias only where the first lines have that alone."""
    used = {name for line in source.json_lines for name in line}
    return {name: alias if alias in used and name not in used else name for name, alias in ALIASES.items()}


def sniff(source: Source) -> bool:
    """By the keys of the first lines; one with chat ids too is Bailian's."""
    called = _called(source)
    named = (called[name] for name in ("timestamp", "input_length", "output_length"))
    return source.has_keys(*named) and not source.has_keys("chat_id")


def read(source: Source, options: ReadOptions) -> tuple[Gathered, Header]:
    """All fields; `blocks` are the file's ``hash_ids``, one for every started block.

    A row with ``wait_for`` follows the last of the requests that it names. One of a session with ``delay``, or without
    a time of its own, follows the row before it in its session. Both have a `parent`, and the delay as `think_s`; where
    they have no time of their own it is the earliest possible, as if every answer were instant. Any other delay stays
    in `extra`.

    Raises:
        TraceError: The times may be in another unit than ms, or the hashes stand for blocks of another size, and
            `options` do not say which.
    """
    called = _called(source)
    unit = options.unit("ms")
    waits: set[str] = set()
    rows = gather(source, options, lambda file: _parts(file, called, Turns(unit, waits)))
    if options.time_unit is None and source.sha256 not in PUBLISHED:
        check_milliseconds(rows, called["timestamp"])
    return rows, header_of(source, "Mooncake")


def _parts(source: Source, called: dict[str, str], turns: Turns) -> Iterator[Rows]:
    known = {called.get(name, name) for name, *_ in _FIELDS}
    for part in source.parts():
        lines, rows = decode_lines(part, _line(tuple(called.values())))
        rows.put("prompt_tokens", _ints(line.input_length for line in lines), called["input_length"])
        rows.put("output_tokens", _ints(line.output_length for line in lines), called["output_length"])
        put_blocks(rows, [line.hash_ids for line in lines], usual=BLOCK_TOKENS, partial=True)
        _put_names(rows, lines)
        left = _put_turns(rows, lines, turns, called)
        rows.put_others(left | other_fields(part, rows, known))
        yield rows


def _ints(cells: Iterable[int]) -> pa.Array:
    return pa.array(list(cells), pa.int64())


def _put_names(rows: Rows, lines: list[Any]) -> None:
    for name, column in (("session_id", "session"), ("request_id", "id")):
        cells = [getattr(line, name) for line in lines]
        if cells.count(None) < len(cells):
            texts = [None if cell is None else str(cell) for cell in cells]
            rows.put(column, pa.array(texts, pa.string()), name)


def _put_turns(rows: Rows, lines: list[Any], turns: Turns, called: dict[str, str]) -> Further:
    """Put the arrivals and who follows whom; what is said of delays and could not be told so, by field."""
    if turns.pass_by(lines):
        recorded = pa.array([line.timestamp for line in lines], pa.float64())
        rows.put_arrivals(recorded, turns.unit, called["timestamp"])
        return _left(lines, [None] * len(lines), called)
    found = turns.of(lines)
    recorded = pa.array([turn.recorded for turn in found], pa.float64())
    rows.put_arrivals(recorded, turns.unit, called["timestamp"])
    unknown = pa.array([turn.unknown for turn in found], pa.string())
    rows.reject(pc.is_valid(unknown), "wait_for", "is the id of no earlier row", "", unknown)
    rows.put("parent", pa.array([turn.parent for turn in found], pa.string()))
    rows.put("think_s", pa.array([turn.think_s for turn in found], pa.float64()), called["delay"])
    return _left(lines, [turn.parent for turn in found], called)


def _left(lines: list[Any], parents: list[str | None], called: dict[str, str]) -> Further:
    """Delays of rows that follow nobody, and all names where a row waits for several."""
    left: Further = {}
    for name in ("delay", "tool_wait_ms"):
        cells = [getattr(line, name) for line in lines]
        if cells.count(None) < len(cells):
            alone = [cell if parent is None else None for cell, parent in zip(cells, parents, strict=True)]
            left[called.get(name, name)] = alone
    several = [
        msgspec.json.encode(names).decode() if len(names := awaited(line)) > 1 else None for line in lines
    ]
    return left | {"wait_for": several} if any(several) else left
