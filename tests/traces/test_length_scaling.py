"""Scaled lengths fit a small model and leave alone what prompts share."""

import math
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces import strategies
from tests.traces.test_trace import of
from traces import Request, Trace, TraceEntry, TraceError, Transform, describe, load_trace

FACTORS = st.floats(0.001, 50)
LIMITS = st.none() | st.integers(1, 200)


@st.composite
def prefix_trees(draw, partial_hashed=None):
    """A trace whose prompts begin with full blocks of earlier ones, and go on with blocks of their own."""
    size = draw(st.integers(1, 64))
    hashed = draw(st.booleans()) if partial_hashed is None else partial_hashed
    entries, fresh = [], iter(range(10_000))
    for number in range(draw(st.integers(1, 8))):
        blocks = ()
        if entries and draw(st.booleans()):
            before = draw(st.sampled_from(entries)).request
            blocks = before.blocks[: draw(st.integers(0, before.prompt_tokens // size))]
        blocks += tuple(next(fresh) for _ in range(draw(st.integers(0, 5))))
        rest = draw(st.integers(0, size - 1))
        prompt = len(blocks) * size + rest
        if rest and hashed:
            blocks += (next(fresh),)
        request = Request(str(number), float(number), prompt, blocks, size)
        entries.append(TraceEntry(request, draw(st.integers(0, 500))))
    return Trace.from_entries(entries)


def lengths(trace, name):
    return trace.column(name).to_pylist()


def shared(trace):
    """How many leading hashes each two prompts have in common."""
    blocks = [entry.request.blocks for entry in trace]
    return [
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
        for a in blocks
        for b in blocks
    ]


@given(prefix_trees(partial_hashed=True), FACTORS, LIMITS)
def test_every_started_block_has_a_hash_still(trace, factor, most):
    for entry in trace.scale_lengths(factor, max_prompt_tokens=most):
        request = entry.request
        assert len(request.blocks) == math.ceil(request.prompt_tokens / request.block_tokens)


@given(prefix_trees(partial_hashed=False), FACTORS, LIMITS)
def test_where_only_full_blocks_had_hashes_they_have_them_still(trace, factor, most):
    for entry in trace.scale_lengths(factor, max_prompt_tokens=most):
        request = entry.request
        full = request.prompt_tokens // request.block_tokens
        # A prompt of a part of a block is 1 token at least, and that may be a full block now. And a prompt of full
        # blocks alone does not say whether partial ones have hashes; cut within a block, it keeps that one's.
        assert full <= len(request.blocks) <= full + 1 or (request.prompt_tokens == 1 and not request.blocks)


@given(prefix_trees(), FACTORS)
def test_prompts_share_the_blocks_that_they_shared(trace, factor):
    assert shared(trace.scale_lengths(factor)) == shared(trace)


@given(prefix_trees(), FACTORS, st.integers(1, 200))
def test_a_cut_prompt_keeps_its_beginning(trace, factor, most):
    whole, cut = trace.scale_lengths(factor), trace.scale_lengths(factor, max_prompt_tokens=most)

    for before, after in zip(whole, cut, strict=True):
        assert after.request.prompt_tokens == min(before.request.prompt_tokens, most)
        assert before.request.blocks[: len(after.request.blocks)] == after.request.blocks
        assert len(after.request.blocks) <= math.ceil(most / after.request.block_tokens)


@given(prefix_trees(), FACTORS)
def test_a_prompt_has_as_many_full_blocks_as_it_had_and_part_of_one_where_it_had_that(trace, factor):
    for before, after in zip(trace, trace.scale_lengths(factor), strict=True):
        old, new = before.request, after.request
        size = new.block_tokens
        assert size == max(1, math.floor(old.block_tokens * factor + 0.5))
        assert (new.prompt_tokens == 0) == (old.prompt_tokens == 0)
        if size > 1:
            assert new.prompt_tokens // size == old.prompt_tokens // old.block_tokens
            assert (new.prompt_tokens % size > 0) == (old.prompt_tokens % old.block_tokens > 0)


@given(prefix_trees(), st.integers(1, 8))
def test_a_whole_factor_is_met_exactly(trace, factor):
    scaled = trace.scale_lengths(factor)

    for name in ("block_tokens", "output_tokens"):
        assert lengths(scaled, name) == [count * factor for count in lengths(trace, name)]
    for before, after in zip(lengths(trace, "prompt_tokens"), lengths(scaled, "prompt_tokens"), strict=True):
        assert after == before * factor


@strategies.few
@given(strategies.traces)
def test_a_factor_of_one_changes_no_request_however_odd(trace):
    assert list(trace.scale_lengths()) == list(trace)


@strategies.few
@given(strategies.traces, st.floats(0.001, 100), LIMITS, LIMITS)
def test_whatever_the_trace_nothing_is_touched_but_lengths_and_absent_stays_absent(
    trace, factor, most, longest
):
    scaled = trace.scale_lengths(factor, max_prompt_tokens=most, max_output_tokens=longest)

    assert scaled.table.column_names == trace.table.column_names
    touched = {"prompt_tokens", "output_tokens", "block_tokens", "blocks"}
    for name in trace.table.column_names:
        assert lengths(scaled, name) == lengths(trace, name) or name in touched
        assert [value is None for value in lengths(scaled, name)] == [v is None for v in lengths(trace, name)]
    for name, bound in (("prompt_tokens", most), ("output_tokens", longest)):
        for before, after in zip(lengths(trace, name), lengths(scaled, name), strict=True):
            assert not before or 1 <= after <= (bound or math.inf)


@given(st.integers(0, 10**6), FACTORS)
def test_lengths_without_blocks_are_rounded_to_the_nearest_and_at_least_one(tokens, factor):
    (entry,) = of(0.0, prompt_tokens=[tokens], output_tokens=[tokens]).scale_lengths(factor)

    nearest = max(min(tokens, 1), math.floor(tokens * factor + 0.5))
    assert (entry.request.prompt_tokens, entry.output_tokens) == (nearest, nearest)


def test_outputs_may_have_a_factor_of_their_own():
    (entry,) = of(0.0, prompt_tokens=[100], output_tokens=[100]).scale_lengths(0.5, output_factor=0.1)

    assert (entry.request.prompt_tokens, entry.output_tokens) == (50, 10)


def test_chat_in_blocks_of_64_becomes_chat_in_blocks_of_16_with_the_same_prefix_hits():
    chat = load_trace("chat-small")

    small = chat.scale_lengths(0.25)

    assert set(lengths(small, "block_tokens")) == {16}
    assert describe(small).prefix_hit_share == describe(chat).prefix_hit_share
    assert describe(small).prompt_tokens.mean == pytest.approx(
        describe(chat).prompt_tokens.mean / 4, rel=0.001
    )


def test_the_header_says_what_was_done_and_composing_says_it_twice():
    trace = of(0.0, 1.0, prompt_tokens=[900, 4], output_tokens=[70, 2])

    scaled = trace.scale_lengths(0.1, max_prompt_tokens=60, output_factor=0.5).scale_lengths(
        max_output_tokens=30
    )

    assert scaled.header.provenance == "derived"
    assert scaled.header.transforms == (
        Transform("scale_lengths", {"factor": 0.1, "max_prompt_tokens": 60, "output_factor": 0.5}),
        Transform("scale_lengths", {"factor": 1.0, "max_output_tokens": 30}),
    )
    assert (lengths(scaled, "prompt_tokens"), lengths(scaled, "output_tokens")) == ([60, 1], [30, 1])


@pytest.mark.parametrize(
    "parameters",
    [
        {"factor": 0},
        {"factor": math.inf},
        {"output_factor": -1},
        {"max_prompt_tokens": 0},
        {"max_output_tokens": -3},
        {"factor": 1e300},
    ],
)
def test_an_impossible_parameter_is_an_error(parameters):
    with pytest.raises(TraceError, match="scale_lengths"):
        of(0.0, prompt_tokens=[100]).scale_lengths(**parameters)
