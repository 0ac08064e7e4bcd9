"""What the blocks of an answer are called, where a later prompt contains it.

The hashes of a trace name blocks of prompts. The next turn of a conversation begins with the prompt and the answer of
the turn before, so its hashes name the blocks that the answer fills: a cache that keeps answers finds them there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traces.trace import Trace

COLUMNS = ("id", "prompt_tokens", "output_tokens", "blocks", "block_tokens")


def answer_blocks(trace: Trace) -> dict[int, tuple[int, ...]]:
    """By row, the hashes of the full blocks that the answer adds to the full ones of its prompt.

    They are those of the first request that follows it (whose `parent` it is, or, without one, the next of its
    `session`), if that begins with all full blocks of the prompt and is long enough to hold prompt and answer. A row
    without such a follower, or whose answer fills no block, is left out; so is all of a trace that says nothing of who
    follows whom. O(rows).
    """
    table = trace.table
    names = set(table.column_names)
    if not {*COLUMNS} <= names or not names & {"parent", "session"}:
        return {}
    ids, prompts, outputs, blocks, sizes = (table[name].to_pylist() for name in COLUMNS)
    parents, sessions = (
        table[name].to_pylist() if name in names else [None] * len(ids) for name in ("parent", "session")
    )
    rows: dict[str, int] = {}
    latest: dict[str, int] = {}
    found: dict[int, tuple[int, ...]] = {}
    for row, (id, parent, session) in enumerate(zip(ids, parents, sessions, strict=True)):
        before = rows.get(parent) if parent is not None else latest.get(session)
        rows[id] = row
        if session is not None:
            latest[session] = row
        if before is None or before in found:
            continue
        size, prompt, output = sizes[before], prompts[before], outputs[before]
        if (
            not size
            or size != sizes[row]
            or not prompt
            or not output
            or not blocks[before]
            or not blocks[row]
        ):
            continue
        full, both = prompt // size, (prompt + output) // size
        long_enough = (prompts[row] or 0) >= prompt + output
        if long_enough and both > full and blocks[row][:full] == blocks[before][:full]:
            found[before] = tuple(blocks[row][full:both])
    return found
