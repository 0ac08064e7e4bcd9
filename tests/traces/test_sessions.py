"""Sessions: who follows whom, how long they think, what their prompts hold and share."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from traces import Lengths, TraceError, describe, sessions


@pytest.fixture(scope="module")
def chat():
    return sessions(
        20.0,
        300,
        seed=1,
        turns=4,
        think_s=6,
        prompt_tokens=Lengths.lognormal(80, 1),
        output_tokens=Lengths.lognormal(150, 1),
        system_tokens=100,
        block_tokens=32,
    )


def by_session(trace):
    grouped = {}
    for entry in trace:
        grouped.setdefault(entry.request.session, []).append(entry)
    return grouped.values()


def test_sessions_start_as_a_poisson_process(chat):
    starts = np.array([turns[0].request.arrived_s for turns in by_session(chat)])

    assert abs(len(starts) - 6000) < 4 * math.sqrt(6000)
    assert starts.max() < 300
    assert stats.kstest(np.diff(starts), "expon", args=(0, 1 / 20)).pvalue > 0.001


def test_turns_are_geometric_or_fixed(chat):
    lengths = np.array([len(turns) for turns in by_session(chat)])
    fixed = sessions(5, 50, seed=1, turns=3, turns_law="fixed")

    assert abs(lengths.mean() - 4) < 4 * math.sqrt(12 / len(lengths))
    assert lengths.var() == pytest.approx(12, rel=0.1)
    assert {len(turns) for turns in by_session(fixed)} == {3}


def test_think_times_are_exponential_and_stand_before_every_turn_but_the_first(chat):
    thinking = np.array([entry.think_s for entry in chat if entry.request.turn])

    assert stats.kstest(thinking, "expon", args=(0, 6)).pvalue > 0.001
    assert all(entry.think_s is None for entry in chat if entry.request.turn == 0)


def test_each_turn_follows_its_parent_by_its_think_time_at_the_least(chat):
    for turns in by_session(chat):
        assert [turn.request.turn for turn in turns] == list(range(len(turns)))
        assert turns[0].request.parent is None
        for parent, turn in pairwise(turns):
            assert turn.request.parent == parent.request.id
            assert turn.request.arrived_s == pytest.approx(parent.request.arrived_s + turn.think_s)


def test_a_prompt_holds_the_system_prompt_and_everything_said(chat):
    for turns in by_session(chat):
        assert turns[0].request.prompt_tokens >= 100
        for parent, turn in pairwise(turns):
            assert turn.request.prompt_tokens >= parent.request.prompt_tokens + parent.output_tokens


def test_every_started_block_has_a_hash(chat):
    assert all(len(e.request.blocks) == math.ceil(e.request.prompt_tokens / 32) for e in chat)


def test_a_turn_shares_its_parents_whole_blocks_and_others_only_the_system_prompt_s(chat):
    shared = 100 // 32
    owner = {}
    for turns in by_session(chat):
        for parent, turn in pairwise(turns):
            whole = parent.request.prompt_tokens // 32
            assert turn.request.blocks[:whole] == parent.request.blocks[:whole]
            assert not set(turn.request.blocks) & set(parent.request.blocks[whole:])
        for turn in turns:
            assert turn.request.blocks[:shared] == (0, 1, 2)[:shared]
            for block in turn.request.blocks[shared:]:
                assert owner.setdefault(block, turn.request.session) == turn.request.session


def test_the_unbounded_cache_hits_what_was_shared(chat):
    assert describe(chat).prefix_hit_share > 0.6
    alone = sessions(5, 50, seed=1, turns=1, prompt_tokens=100, block_tokens=32)
    assert describe(alone).prefix_hit_share == 0


def test_sessions_without_lengths_have_none():
    trace = sessions(5, 50, seed=1)

    assert {"prompt_tokens", "output_tokens", "blocks"} & set(trace.table.column_names) == set()


@pytest.mark.parametrize("turns", [0.5, 2.5])
def test_impossible_turns_are_an_error(turns):
    with pytest.raises(TraceError, match="give at least 1, a whole number if they are fixed"):
        sessions(1, 10, turns=turns, turns_law="fixed")
