"""What can be found in the paged cache, by whom, since when and until when; and what it says about growth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.actor import FleetError
from fleet.tokens.paged_cache import PagedKvCache
from policies import EvictionPolicy, Lfu, Lru, PolicyError
from tests.policies.makers import reset
from tests.tokens.sequences import compute, sequence

PATH = (1, 2, 3, 4)
FULL = 16  # tokens of PATH, in hashed blocks of 4


def cache(
    total: int = 100, block_tokens: int = 4, eviction: EvictionPolicy | None = None, **options
) -> PagedKvCache:
    return PagedKvCache(total, block_tokens, reset(Lru() if eviction is None else eviction), **options)


def run(kv: PagedKvCache, one, tokens: int | None = None):
    """Admit it and compute all, or so many tokens, of what remains."""
    kv.admit(one, 0.0)
    tokens = one.remaining_tokens if tokens is None else tokens
    kv.extend(one, tokens, 0.0)
    compute(one, tokens)
    kv.check()
    return one


# --- what is found -------------------------------------------------------------------------------------------


def test_equal_beginnings_are_shared_and_held_once() -> None:
    kv = cache()
    run(kv, sequence(1, PATH, FULL))
    two = run(kv, sequence(2, (1, 2, 3, 9), FULL))
    assert (two.cached_tokens, two.blocks, kv.used_blocks) == (12, 4, 5)


def test_of_a_prompt_that_is_there_entirely_the_last_chunk_is_computed_again() -> None:
    kv = cache()
    kv.release(run(kv, sequence(1, PATH, FULL)), 0.0)
    two, longer = sequence(2, PATH, FULL), sequence(3, PATH, FULL + 1)
    assert (kv.cached_tokens(two), kv.cached_tokens(longer)) == (12, 16)
    run(kv, two)
    assert (kv.used_blocks, kv.cached_blocks) == (4, 1)  # the one that it filled again is there twice


def test_what_two_compute_at_the_same_time_is_there_twice_and_both_are_kept() -> None:
    """vLLM 0.19, `BlockHashToBlockMap`: blocks of the same content are not made one."""
    kv = cache()
    both = [sequence(number, PATH, FULL) for number in (1, 2)]
    for one in both:
        kv.admit(one, 0.0)
    for one in both:
        kv.extend(one, FULL, 0.0)
        compute(one, FULL)
    assert [kv.blocks_held_alone(one) for one in both] == [4, 4]
    for one in both:
        kv.release(one, 0.0)
        kv.check()
    assert (kv.used_blocks, kv.cached_blocks) == (0, 8)


def test_a_copy_is_kept_when_the_one_that_could_be_found_went_first() -> None:
    kv = cache(total=9)
    both = [sequence(number, PATH, FULL) for number in (1, 2)]
    for one in both:
        kv.admit(one, 0.0)
    for one in both:
        kv.extend(one, FULL, 0.0)
        compute(one, FULL)
    kv.release(both[0], 0.0)
    filler = run(kv, sequence(3, (), 20))  # takes all that is empty and cached
    assert kv.cached_blocks == 0
    kv.release(both[1], 0.0)
    kv.release(filler, 0.0)
    kv.check()
    assert kv.cached_tokens(sequence(4, PATH, FULL + 1)) == FULL


@given(st.integers(1, FULL))
def test_nothing_is_found_that_was_not_filled(tokens: int) -> None:
    kv = cache()
    kv.admit(one := sequence(1, PATH, FULL), 0.0)
    assert kv.cached_tokens(sequence(2, PATH, 99)) == 0
    kv.extend(one, tokens, 0.0)
    assert kv.cached_tokens(sequence(2, PATH, 99)) == tokens // 4 * 4
    compute(one, tokens)
    kv.release(one, 0.0)
    assert kv.cached_tokens(sequence(2, PATH, 99)) == tokens // 4 * 4


def test_a_started_block_at_the_end_of_a_prompt_is_never_shared() -> None:
    kv = cache()
    run(kv, sequence(1, PATH, FULL - 1))
    assert kv.cached_tokens(sequence(2, PATH, FULL)) == 12


@pytest.mark.parametrize(
    ("block_tokens", "hashed_tokens", "found"),
    [(4, 4, 8), (1, 4, 8), (2, 4, 8), (8, 4, 8), (4, 2, 4), (8, 2, 0), (16, 2, 0), (3, 4, 0)],
)
def test_hashed_blocks_and_the_cache_s_share_where_one_is_a_multiple_of_the_other(
    block_tokens: int, hashed_tokens: int, found: int
) -> None:
    kv = cache(block_tokens=block_tokens)
    run(kv, sequence(1, (1, 1, 1), 3 * hashed_tokens, hashed_tokens))
    assert kv.cached_tokens(sequence(2, (1, 1, 2), 3 * hashed_tokens, hashed_tokens)) == found
    assert kv.unshareable == (block_tokens == 3)


def test_hashes_of_other_sizes_are_other_content() -> None:
    kv = cache(block_tokens=2)
    run(kv, sequence(1, (1, 1), 8, hashed_tokens=4))
    two = run(kv, sequence(2, (1, 1), 4, hashed_tokens=2))
    assert two.cached_tokens == 0
    kv.release(two, 0.0)
    kv.check()
    assert kv.cached_tokens(sequence(3, (1, 1), 9, hashed_tokens=4)) == 8


def test_hashes_that_repeat_within_a_prompt_are_not_taken_for_prefixes() -> None:
    kv = cache()
    kv.release(run(kv, sequence(1, PATH, FULL)), 0.0)
    broken = sequence(2, PATH, FULL + 1)
    first = broken.request.blocks[0]
    broken.hashes = (first, first, first, first)
    free, needed = kv.free_blocks, kv.blocks_for(broken, FULL + 1 - 4)
    run(kv, broken)
    assert (broken.cached_tokens, free - kv.free_blocks) == (4, needed)


def test_without_prefix_caching_nothing_is_shared_or_kept() -> None:
    kv = cache(prefix_caching=False)
    one, two = (run(kv, sequence(number, PATH, FULL)) for number in (1, 2))
    assert (two.cached_tokens, kv.used_blocks) == (0, 8)
    kv.release(one, 0.0)
    kv.release(two, 0.0)
    assert (kv.used_blocks, kv.cached_blocks, kv.unshareable) == (0, 0, 0)


def test_a_preempted_sequence_finds_its_prompt_again_and_is_counted_once() -> None:
    kv = cache()
    one = run(kv, sequence(1, PATH, FULL))
    kv.release(one, 0.0)
    one.preemptions += 1
    run(kv, one)
    assert (one.cached_tokens, kv.lookup_tokens, kv.hit_tokens) == (FULL, FULL, 0)


def test_what_is_not_to_be_trusted_is_dropped_unless_somebody_else_holds_it() -> None:
    kv = cache()
    one, two = run(kv, sequence(1, PATH, FULL)), run(kv, sequence(2, (1, 2), 9))
    kv.release(one, 0.0, keep=False)
    kv.check()
    assert (kv.cached_blocks, kv.cached_tokens(sequence(3, PATH, FULL))) == (0, 8)
    kv.release(two, 0.0, keep=False)
    assert (kv.used_blocks, kv.cached_blocks, len(kv.eviction)) == (0, 0, 0)


# --- eviction ------------------------------------------------------------------------------------------------


def test_cached_blocks_go_only_when_empty_ones_run_out_and_the_end_of_a_prompt_first() -> None:
    kv = cache(total=6)
    kv.release(run(kv, sequence(1, PATH, FULL)), 0.0)
    two = run(kv, sequence(2, (), 8))
    assert (kv.cached_blocks, kv.empty_blocks, kv.evictions) == (4, 0, 0)
    kv.extend(two, 4, 0.0)
    assert (kv.evictions, kv.cached_tokens(sequence(3, PATH, FULL + 1))) == (1, 12)


def test_what_was_evicted_is_not_found_though_it_was_a_moment_ago() -> None:
    kv = cache(total=6)
    kv.release(run(kv, sequence(1, PATH, FULL)), 0.0)
    grower, seeker = run(kv, sequence(2, (), 8)), sequence(3, PATH, FULL + 1)
    before = kv.cached_tokens(seeker)
    kv.extend(grower, 8, 0.0)
    assert (before, kv.cached_tokens(seeker)) == (16, 8)


def test_what_was_admitted_in_a_step_is_safe_from_what_is_extended_in_it() -> None:
    kv = cache(total=6)
    kv.release(run(kv, sequence(1, PATH, FULL)), 0.0)
    finder, grower = sequence(2, PATH, FULL + 1), sequence(3, (), 8)
    kv.admit(finder, 0.0)
    kv.admit(grower, 0.0)
    kv.extend(grower, 8, 0.0)
    assert (finder.computed_tokens, kv.blocks_for(finder, 1), kv.free_blocks) == (FULL, 1, 0)
    with pytest.raises(FleetError, match=r"1 blocks for 1 tokens .* 0 are free"):
        kv.extend(finder, 1, 0.0)
    kv.check()


def test_uses_while_a_block_is_held_count_as_uses() -> None:
    kv = cache(total=4, eviction=Lfu())
    popular = [run(kv, sequence(number, (7,), 5)) for number in (1, 2)]
    for one in popular:
        kv.release(one, 0.0)
    kv.release(run(kv, sequence(3, (8,), 5)), 0.0)
    run(kv, sequence(4, (), 12))
    assert [kv.cached_tokens(sequence(said, (said,), 5)) for said in (7, 8)] == [4, 0]


class Liar(Lru):
    """Names a block that is none."""

    def victim(self, now_s: float) -> int:
        return -1


def test_a_policy_that_evicts_what_is_no_candidate_is_blamed() -> None:
    kv = cache(total=4, eviction=Liar())
    kv.release(run(kv, sequence(1, PATH, FULL)), 0.0)
    with pytest.raises(PolicyError, match="Liar evicts -1"):
        run(kv, sequence(2, (), 4))


# --- growth --------------------------------------------------------------------------------------------------

DECODES = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def decoding(kv: PagedKvCache, prompts: list[int]) -> list:
    """Sequences whose prompts are computed, each with the block for its first decode step."""
    all_of_them = [run(kv, sequence(number, (), tokens)) for number, tokens in enumerate(prompts)]
    for one in all_of_them:
        kv.extend(one, 1, 0.0)
    return all_of_them


def fits(kv: PagedKvCache, decodes: list, steps: int) -> bool:
    return sum(kv.blocks_for(one, steps) for one in decodes) <= kv.free_blocks


@given(DECODES, st.integers(1, 5), st.integers(0, 30), st.integers(0, 200))
def test_steps_that_fit_is_the_largest_number_that_does(
    prompts: list[int], block_tokens: int, spare_blocks: int, at_most: int
) -> None:
    needed = sum(-(-(tokens + 1) // block_tokens) for tokens in prompts)
    kv = cache(needed + spare_blocks, block_tokens)
    decodes = decoding(kv, prompts)
    steps = kv.steps_that_fit(decodes, at_most)
    assert steps <= at_most
    assert fits(kv, decodes, steps)
    assert steps == at_most or not fits(kv, decodes, steps + 1)


@given(DECODES, st.integers(1, 5), st.integers(0, 30))
def test_a_bound_on_the_steps_changes_nothing_below_it(
    prompts: list[int], block_tokens: int, spare_blocks: int
) -> None:
    needed = sum(-(-(tokens + 1) // block_tokens) for tokens in prompts)
    kv = cache(needed + spare_blocks, block_tokens)
    decodes = decoding(kv, prompts)
    most = kv.steps_that_fit(decodes, 10**6)
    assert [kv.steps_that_fit(decodes, bound) for bound in range(most + 3)] == [*range(most + 1), most, most]


@given(DECODES, st.integers(1, 5), st.integers(1, 50))
def test_used_after_is_what_is_used_after(prompts: list[int], block_tokens: int, steps: int) -> None:
    kv = cache(10_000, block_tokens)
    decodes = decoding(kv, prompts)
    assert kv.used_after(decodes, 1) == kv.used_blocks
    foretold = kv.used_after(decodes, steps)
    for one in decodes:
        kv.extend(one, steps, 0.0)
    assert kv.used_blocks == foretold


def test_tokens_without_hashes_cost_nothing_however_many() -> None:
    kv = cache(10**15, 16)
    one = run(kv, sequence(1, (), 10**15))
    kv.extend(one, 1, 0.0)
    assert kv.steps_that_fit([one], 10**15) == 10**15
    assert (kv.used_blocks, kv.blocks_held_alone(one)) == (10**15 // 16 + 1, one.blocks)


# --- host memory ---------------------------------------------------------------------------------------------


def test_swapped_out_it_keeps_what_it_computed_and_gets_its_blocks_back() -> None:
    kv = cache(host_blocks=4)
    one = run(kv, sequence(1, PATH, FULL), 14)
    assert kv.swap_out(one, 0.0)
    kv.check()
    assert (one.swapped, one.computed_tokens, one.blocks, kv.used_blocks, kv.host_used_blocks) == (
        True,
        14,
        0,
        0,
        4,
    )
    assert (kv.cached_tokens(one), kv.blocks_for(one, 3)) == (0, 5)
    kv.admit(one, 0.0)
    kv.check()
    assert (one.swapped, one.computed_tokens, one.blocks, kv.used_blocks, kv.host_used_blocks) == (
        False,
        14,
        4,
        4,
        0,
    )


def test_without_room_in_host_memory_nothing_is_swapped() -> None:
    kv = cache(host_blocks=3)
    one = run(kv, sequence(1, PATH, FULL))
    assert not kv.swap_out(one, 0.0)
    assert (one.swapped, one.blocks, kv.used_blocks) == (False, 4, 4)


def test_what_has_computed_nothing_is_not_swapped() -> None:
    kv = cache(host_blocks=4)
    kv.admit(one := sequence(1, PATH, FULL), 0.0)
    assert not kv.swap_out(one, 0.0)
    assert not one.swapped


def test_what_ends_in_host_memory_leaves_it() -> None:
    kv = cache(host_blocks=4)
    one = run(kv, sequence(1, PATH, FULL))
    kv.swap_out(one, 0.0)
    kv.forget(one, 0.0)
    kv.check()
    assert (one.swapped, one.computed_tokens, kv.host_used_blocks) == (False, 0, 0)


def test_what_does_not_fit_is_not_swapped_in() -> None:
    kv = cache(total=5, host_blocks=4)
    one = run(kv, sequence(1, (), 15))
    kv.swap_out(one, 0.0)
    run(kv, sequence(2, (), 8))
    with pytest.raises(FleetError, match=r"4 blocks to swap in .* 3 are free"):
        kv.admit(one, 0.0)
    kv.check()


# --- misuse --------------------------------------------------------------------------------------------------


def test_commands_out_of_turn_are_errors() -> None:
    kv, one = cache(), sequence(1, PATH, FULL)
    for command in (kv.release, kv.swap_out):
        with pytest.raises(FleetError, match="was not admitted"):
            command(one, 0.0)
    kv.admit(one, 0.0)
    with pytest.raises(FleetError, match="was admitted already"):
        kv.admit(one, 0.0)


@pytest.mark.parametrize("size", [(0, 4), (4, 0)])
def test_a_cache_has_blocks_and_they_hold_tokens(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="needs blocks"):
        cache(*size)


@pytest.mark.parametrize("count", ["_used", "_cached", "_host_used"])
def test_the_check_finds_a_count_that_is_wrong(count: str) -> None:
    kv = cache()
    kv.release(run(kv, sequence(1, PATH, FULL)), 0.0)
    run(kv, sequence(2, PATH, FULL))
    kv.check()
    setattr(kv, count, getattr(kv, count) + 1)
    with pytest.raises(FleetError, match="counted"):
        kv.check()


def test_the_check_finds_candidates_that_are_missing() -> None:
    kv = cache()
    kv.release(run(kv, sequence(1, PATH, FULL)), 0.0)
    kv.eviction.victim(0.0)
    with pytest.raises(FleetError, match="candidates of the eviction policy: counted 3"):
        kv.check()


def test_the_check_finds_holders_that_are_wrong() -> None:
    kv = cache()
    run(kv, sequence(1, PATH, FULL))
    kv._chunks[91].holders += 1
    with pytest.raises(FleetError, match=r"holders of chunks \[91\]"):
        kv.check()
