"""Prompts for requests that bring none: tokens that share exactly what the trace's hashes share."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.actor import FleetError
from fleet.engines.transformers.prompts import FIRST_ID, prompt_ids
from traces import Request

VOCABULARY = 49_152
hashes = st.integers(-(2**63), 2**63 - 1)
names = st.text(max_size=8)


@st.composite
def requests(draw):
    """With hashes for every started block, for full ones, for some, for more than there are; or without."""
    return Request(
        draw(names),
        0.0,
        draw(st.none() | st.integers(0, 300)),
        draw(st.none() | st.lists(hashes, max_size=12).map(tuple)),
        draw(st.none() | st.integers(1, 40)),
    )


@given(requests(), st.integers(0, 500), st.integers(1, 60_000))
def test_a_prompt_is_as_long_as_the_request_says_and_its_ids_lie_between_the_bounds(request, first, span):
    ids = prompt_ids(request, first + span, first_id=first)

    assert len(ids) == max(1, request.prompt_tokens or 1)
    assert all(type(id) is int and first <= id < first + span for id in ids)


@given(requests())
def test_low_ids_are_left_to_special_tokens(request):
    assert min(prompt_ids(request, VOCABULARY)) >= FIRST_ID


@given(st.lists(hashes, min_size=1, max_size=8), st.integers(1, 40), names, names, st.data())
def test_equal_leading_hashes_give_equal_leading_tokens(blocks, size, one, other, data):
    shared = data.draw(st.integers(0, len(blocks)))
    more = data.draw(st.lists(hashes, max_size=4))
    a = Request(one, 0.0, len(blocks) * size, tuple(blocks), size)
    b = Request(other, 1.0, (shared + len(more)) * size, (*blocks[:shared], *more), size)

    both = shared * size
    assert prompt_ids(a, VOCABULARY)[:both] == prompt_ids(b, VOCABULARY)[:both]


@given(hashes, hashes, hashes)
def test_the_tokens_of_a_block_depend_on_its_hash_alone(before, other, block):
    def second(first):
        return prompt_ids(Request("x", 0.0, 64, (first, block), 32), VOCABULARY)[32:]

    assert second(before) == second(other) == prompt_ids(Request("y", 0.0, 32, (block,), 32), VOCABULARY)


@given(hashes, st.integers(1, 32))
def test_a_partial_last_block_has_the_first_tokens_of_its_block(block, tokens):
    whole = prompt_ids(Request("a", 0.0, 32, (block,), 32), VOCABULARY)

    assert prompt_ids(Request("b", 0.0, tokens, (block,), 32), VOCABULARY) == whole[:tokens]


@given(requests(), hashes)
def test_what_comes_after_the_prompt_has_no_part_in_it(request, further):
    covered = (request.prompt_tokens or 1) <= len(request.blocks or ()) * (request.block_tokens or 0)
    longer = Request(
        request.id, 9.0, request.prompt_tokens, (*(request.blocks or ()), further), request.block_tokens
    )

    assert prompt_ids(longer, VOCABULARY) == prompt_ids(request, VOCABULARY) or not covered


def test_requests_with_other_hashes_or_other_ids_share_nothing():
    first = [prompt_ids(Request("a", 0.0, 16, (block,), 16), VOCABULARY) for block in range(100)]
    alone = [prompt_ids(Request(str(name), 0.0, 16), VOCABULARY) for name in range(100)]

    assert len({tuple(ids[:4]) for ids in [*first, *alone]}) == 200


def test_a_request_without_blocks_gets_the_same_tokens_each_time_and_a_longer_one_more_of_them():
    short, long = (prompt_ids(Request("r", 0.0, tokens), VOCABULARY) for tokens in (10, 40))

    assert short == long[:10]
    assert short == prompt_ids(Request("r", 5.0, 10, block_tokens=16), VOCABULARY)


def test_ids_are_spread_evenly_over_the_vocabulary():
    ids = prompt_ids(Request("r", 0.0, 20_000), 1_000, first_id=500)

    counts = [sum(500 + 50 * part <= id < 550 + 50 * part for id in ids) for part in range(10)]
    assert max(abs(count - 2_000) for count in counts) < 5 * 2_000**0.5


def test_the_tokens_are_the_same_in_every_process():
    code = (
        "from fleet.engines.transformers.prompts import prompt_ids; from traces import Request;"
        "print(prompt_ids(Request('r', 0.0, 9, (7,), 8), 49152))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True,
            text=True, check=True,
        ).stdout
        for seed in ("0", "1")
    }  # fmt: skip

    assert printed == {f"{prompt_ids(Request('r', 0.0, 9, (7,), 8), VOCABULARY)}\n"}
    assert printed == {"[37301, 42761, 3081, 22126, 24811, 47731, 44719, 34056, 38999]\n"}


@pytest.mark.parametrize(("vocabulary", "first"), [(256, 256), (10, 256), (10, -1), (0, 0), (2**32 + 1, 0)])
def test_a_vocabulary_without_ids_to_choose_from_is_an_error(vocabulary, first):
    with pytest.raises(FleetError, match="leave no token ids"):
        prompt_ids(Request("r", 0.0, 4), vocabulary, first_id=first)
