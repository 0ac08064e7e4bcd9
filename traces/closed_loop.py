"""Closed-loop sessions out of recorded ones: who follows whom, and how long they thought.

A recording says when each turn came. Played closed loop, a turn comes when its parent is answered and the user has
thought; `sessions` finds the parent and what of the recorded gap was thinking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from traces.errors import TraceError
from traces.recipe import recorded
from traces.transforms import AnyTrace, Rows, arrivals, derived, with_column

if TYPE_CHECKING:
    from traces.schema import Request, TraceEntry

Ints = npt.NDArray[np.int64]


@recorded("Trace.sessions")
def sessions(trace: AnyTrace, *, infer: bool = False) -> AnyTrace:
    """Every request that shares a `session` with an earlier one gets a `parent`, a `turn` and `think_s`.

    The turns of a session stand in the order of `turn` where each has one, else of arrival. A recorded `parent` that
    is an earlier turn of the session stays; otherwise it is the turn before, and the first turn has none. A `think_s`
    recorded with a parent that stays is kept. Otherwise it is the time from the parent's end, which is its arrival
    plus the end-to-end time observed, to the turn's arrival; 0 where the turn came sooner. Where no end was observed
    it is the whole gap between the arrivals: the users then think too long by the time that their answers took.
    Arrivals do not change, and neither do requests without a session.

    Args:
        trace: The requests.
        infer: The trace records no sessions, but hashes of prefix blocks: tell the sessions from those. A request
            continues the earlier one whose full blocks begin its own, the most there are and the latest, if it is
            long enough to hold that one's prompt and answer, and if the last of these blocks first occurred in that
            one's session (else it belongs to a prompt that many begin with). A session is what continues one
            request, directly or not; it has its id, and `turn` counts from it. Two may continue one, as after an edit.

    Raises:
        TraceError: `infer`, and the trace records sessions, or no prefix blocks.
    """
    table = _inferred(trace) if infer else trace.table
    if "session" in table.column_names:
        table = _linked(table, arrivals(trace))
    return derived(trace, table, "sessions", infer=infer)


def _linked(table: pa.Table, arrived: npt.NDArray[np.float64]) -> pa.Table:
    codes = table["session"].combine_chunks().dictionary_encode()
    group = pc.fill_null(codes.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    member = group >= 0
    turn, order = _turns(table, group)
    previous = np.full(len(group), -1)
    follows = group[order[1:]] == group[order[:-1]]
    previous[order[1:]] = np.where(follows, order[:-1], -1)
    place = np.empty(len(group), dtype=np.int64)
    place[order] = np.arange(len(order))
    recorded = _recorded_parents(table)
    stays = member & (recorded >= 0) & (group[recorded] == group) & (place[recorded] < place)
    parent = np.where(stays, recorded, np.where(member, previous, -1))
    has_parent = parent >= 0
    ids = table["id"].combine_chunks()
    parents = ids.take(pa.array(parent, mask=~has_parent))
    think_s = np.maximum(arrived - (arrived + _seconds(table, "observed_e2e_s", 0.0))[parent], 0.0)
    thought_s = _seconds(table, "think_s", np.nan)
    think_s = np.where(stays & ~np.isnan(thought_s), thought_s, think_s)
    for name, values in (
        ("turn", pa.array(turn, mask=~member)),
        ("parent", parents),
        ("think_s", pa.array(think_s, mask=~has_parent)),
    ):
        table = with_column(table, name, _where(member, values, table, name))
    return table


def _turns(table: pa.Table, group: Ints) -> tuple[Ints, Ints]:
    """Each row's turn, and the rows in the order of their sessions and turns; rows without a session come first."""
    recorded = np.full(len(group), -1)
    if "turn" in table.column_names:
        recorded = pc.fill_null(table["turn"], -1).to_numpy()
    partly = np.zeros(int(group.max(initial=-1)) + 2, dtype=bool)  # the last is of rows without a session
    partly[group[recorded < 0]] = True
    order = np.lexsort(
        (np.where(partly[group], 0, recorded), np.where(group < 0, -1 - np.arange(len(group)), group))
    )
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (group[order[1:]] != group[order[:-1]]) | (group[order[1:]] < 0)
    counted = np.empty(len(order), dtype=np.int64)
    counted[order] = np.arange(len(order)) - np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    return np.where(partly[group], counted, recorded), order


def _recorded_parents(table: pa.Table) -> Ints:
    """The row of each recorded parent; -1 where there is none, or it is not in the trace."""
    if "parent" not in table.column_names:
        return np.full(table.num_rows, -1)
    ids = table["id"].combine_chunks()
    rows = pc.index_in(table["parent"].combine_chunks(), value_set=ids, skip_nulls=True)
    return np.asarray(pc.fill_null(rows, -1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _seconds(table: pa.Table, name: str, absent: float) -> npt.NDArray[np.float64]:
    if name not in table.column_names:
        return np.full(table.num_rows, absent)
    return np.asarray(pc.fill_null(table[name], absent).to_numpy(), dtype=np.float64)


def _where(rows: npt.NDArray[np.bool_], values: pa.Array, table: pa.Table, name: str) -> pa.Array:
    """`values` in these rows, and what the column holds (if there is one) in the others."""
    if name not in table.column_names:
        return values
    return pc.if_else(pa.array(rows), values, table[name].combine_chunks())


# --- sessions that are not on record ------------------------------------------------------------------------


def _inferred(trace: Rows) -> pa.Table:
    """The table with `session`, `turn` and `parent` of the requests that continue one or are continued."""
    table = trace.table
    if "session" in table.column_names:
        raise TraceError("sessions cannot be inferred: the trace records some", remedy="link those")
    if not {"blocks", "block_tokens", "prompt_tokens"} <= set(table.column_names):
        remedy = "it takes hashes of prefix blocks, with block_tokens and prompt_tokens"
        raise TraceError("sessions cannot be inferred: the trace has no prefix blocks", remedy=remedy)
    parents, roots = _continued(trace)
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent is None else depths[parent] + 1)
    ids = table["id"].to_pylist()
    shared = {root for root, parent in zip(roots, parents, strict=True) if parent is not None}
    columns: dict[str, list[Any]] = {  # Any: texts or numbers
        "session": [ids[root] if root in shared else None for root in roots],
        "turn": [depth if root in shared else None for root, depth in zip(roots, depths, strict=True)],
        "parent": [None if parent is None else ids[parent] for parent in parents],
    }
    for name, kind in (("session", pa.string()), ("turn", pa.int64()), ("parent", pa.string())):
        table = with_column(table, name, pa.array(columns[name], kind))
    return table


class _Said(NamedTuple):
    """What a request leaves for a later one to continue."""

    arrived_s: float
    blocks: tuple[int, ...]
    """Its full ones."""
    block_tokens: int
    tokens: int
    """Of its prompt and its answer."""


def _continued(trace: Rows) -> tuple[list[int | None], list[int]]:
    """For each row the earlier row that it continues, and the first row of its session."""
    parents: list[int | None] = []
    roots: list[int] = []
    ends: dict[int, list[tuple[int, _Said]]] = {}  # the requests to continue, by their last full block
    first: dict[int, int] = {}  # the row in which each block first occurred
    for row, entry in enumerate(trace):
        parent = _continues(entry.request, ends)
        parents.append(parent)
        roots.append(row if parent is None else roots[parent])
        for block in entry.request.blocks or ():
            first.setdefault(block, row)
        said = _said(entry)
        if said is not None and roots[first[said.blocks[-1]]] == roots[row]:
            ends.setdefault(said.blocks[-1], []).append((row, said))
    return parents, roots


def _continues(request: Request, ends: dict[int, list[tuple[int, _Said]]]) -> int | None:
    blocks = request.blocks or ()
    for count in range(len(blocks), 0, -1):
        for row, said in reversed(ends.get(blocks[count - 1], ())):
            if (
                said.arrived_s < request.arrived_s
                and said.tokens <= (request.prompt_tokens or 0)
                and said.block_tokens == request.block_tokens
                and said.blocks == blocks[:count]
            ):
                return row
    return None


def _said(entry: TraceEntry) -> _Said | None:
    """None where the prompt has no full block, and nothing tells what continues it."""
    request = entry.request
    if not request.blocks or not request.block_tokens or not request.prompt_tokens:
        return None
    blocks = request.blocks[: request.prompt_tokens // request.block_tokens]
    tokens = request.prompt_tokens + max(1, entry.output_tokens or 0)
    return _Said(request.arrived_s, blocks, request.block_tokens, tokens) if blocks else None
