"""Closed-loop sessions: users who read an answer, think, and ask again with all that was said."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from traces.errors import TraceError
from traces.recipe import recorded
from traces.synthesis.build import Tokens, check, described, draw, stream, synthetic
from traces.trace import Trace

Ints = npt.NDArray[np.int64]


@recorded("sessions")
def sessions(
    sessions_per_s: float,
    duration_s: float,
    seed: int = 0,
    *,
    turns: float = 4.0,
    turns_law: Literal["geometric", "fixed"] = "geometric",
    think_s: float = 10.0,
    prompt_tokens: Tokens = None,
    output_tokens: Tokens = None,
    system_tokens: int = 0,
    block_tokens: int | None = None,
) -> Trace:
    """Sessions that start as a Poisson process; an exponential think time precedes each turn but the first.

    A follow-up is sent `TraceEntry.think_s` after the answer to its `parent`; its `arrived_s` is the sum of
    the think times so far, a lower bound that a load generator raises by the time the answers took. So turns
    may lie beyond `duration_s`.

    Expected sessions: rate·duration; expected requests: that times `turns`. Geometric turns have mean m =
    `turns` and variance m² - m; fixed ones are `turns` exactly. Think times have mean and standard deviation
    `think_s`.

    Args:
        sessions_per_s: Rate at which sessions start.
        duration_s: Sessions start in [0, duration_s).
        seed: Of every random stream.
        turns: Mean number of turns, at least 1.
        turns_law: Their law on 1, 2, ….
        think_s: Mean think time.
        prompt_tokens: What a user adds in one turn. The prompt is `system_tokens`, every turn so far and, if
            `output_tokens` is given, every answer so far.
        output_tokens: The answer's length.
        system_tokens: Beginning of every prompt, the same for all sessions.
        block_tokens: Gives `blocks` in blocks of this size: whole blocks of the system prompt are shared by
            all, whole blocks of a conversation by its later turns, and a last, partial block by nobody.
    """
    check("sessions", sessions_per_s=sessions_per_s, duration_s=duration_s, turns=turns, think_s=think_s)
    _check_counts(turns, system_tokens, block_tokens, fixed=turns_law == "fixed")
    arrivals = stream(seed, "arrivals")
    starts = np.sort(arrivals.uniform(0, duration_s, arrivals.poisson(sessions_per_s * duration_s)))
    lengths = stream(seed, "turns").geometric(1 / turns, len(starts))
    if turns_law == "fixed":
        lengths = np.full(len(starts), int(turns))
    session = np.repeat(np.arange(len(starts)), lengths)
    turn = _within(np.arange(len(session)), lengths)
    thought = np.where(turn > 0, stream(seed, "think").exponential(think_s, len(session)), 0.0)
    columns = _identity(session, turn) | {
        "arrived_s": pa.array(starts[session] + _running(thought, lengths)),
        "think_s": pa.array(thought, mask=turn == 0),
    }
    added = draw(prompt_tokens, stream(seed, "prompt"), len(session))
    answer = draw(output_tokens, stream(seed, "output"), len(session))
    if answer is not None:
        columns["output_tokens"] = pa.array(answer)
    if added is not None:
        prompt = _prompts(added, answer, lengths, system_tokens)
        columns["prompt_tokens"] = pa.array(prompt)
        if block_tokens is not None:
            columns["blocks"] = _blocks(prompt, session, lengths, system_tokens, block_tokens)
            columns["block_tokens"] = pa.array(np.full(len(prompt), block_tokens))
    header = synthetic(
        "sessions",
        seed,
        {
            "sessions_per_s": sessions_per_s,
            "duration_s": duration_s,
            "turns": turns,
            "turns_law": turns_law,
            "think_s": think_s,
            "prompt_tokens": described(prompt_tokens),
            "output_tokens": described(output_tokens),
            "system_tokens": system_tokens,
            "block_tokens": block_tokens,
        },
    )
    return Trace(pa.table(columns), header)


def _check_counts(turns: float, system_tokens: int, block_tokens: int | None, *, fixed: bool) -> None:
    if turns < 1 or (fixed and turns != int(turns)):
        raise TraceError(
            f"sessions: turns = {turns}", remedy="give at least 1, a whole number if they are fixed"
        )
    if system_tokens < 0 or (block_tokens is not None and block_tokens < 1):
        raise TraceError(
            f"sessions: system_tokens = {system_tokens}, block_tokens = {block_tokens}",
            remedy="give a whole number from 0 on, and one from 1 on",
        )


def _within(values: Ints, lengths: Ints) -> Ints:
    """`values` less the first value of their session: positions become positions within it."""
    firsts = (np.cumsum(lengths) - lengths).astype(int)
    within: Ints = values - np.repeat(values[firsts], lengths)
    return within


def _running(values: npt.NDArray[Any], lengths: Ints) -> npt.NDArray[Any]:
    """Running sum of `values` within each session, a session's first included. `Any`: floats or integers."""
    totals = np.cumsum(values)
    firsts = (np.cumsum(lengths) - lengths).astype(int)
    running: npt.NDArray[Any] = totals - np.repeat(totals[firsts] - values[firsts], lengths)
    return running


def _identity(session: Ints, turn: Ints) -> dict[str, pa.Array]:
    names = [f"s{number}" for number in session.tolist()]
    ids = [f"{name}.{position}" for name, position in zip(names, turn.tolist(), strict=True)]
    parents = [None if position == 0 else ids[row - 1] for row, position in enumerate(turn.tolist())]
    return {
        "id": pa.array(ids, pa.string()),
        "session": pa.array(names, pa.string()),
        "turn": pa.array(turn),
        "parent": pa.array(parents, pa.string()),
    }


def _prompts(added: Ints, answer: Ints | None, lengths: Ints, system_tokens: int) -> Ints:
    """System prompt, every user turn so far, and every answer before this turn."""
    prompts: Ints = _running(added, lengths)
    prompts += system_tokens
    if answer is not None:
        prompts += _running(answer, lengths) - answer
    return prompts


def _blocks(prompt: Ints, session: Ints, lengths: Ints, system_tokens: int, block_tokens: int) -> pa.Array:
    """Block hashes: the shared ones first, then a range for each session, then one for each partial block."""
    shared = system_tokens // block_tokens
    last = (np.cumsum(lengths) - 1).astype(int)
    whole = prompt // block_tokens
    room = whole[last]  # prompts only grow, so a session's last has the most blocks
    base = shared + np.cumsum(room) - room
    partial = shared + int(room.sum()) + np.arange(len(prompt))
    started = -(-prompt // block_tokens)
    offsets = np.zeros(len(prompt) + 1, dtype=np.int64)
    np.cumsum(started, out=offsets[1:])
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], started)
    row = np.repeat(np.arange(len(prompt)), started)
    hashes = base[session[row]] + position
    hashes[position < shared] = position[position < shared]
    hashes[position == whole[row]] = partial[row][position == whole[row]]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(hashes))
