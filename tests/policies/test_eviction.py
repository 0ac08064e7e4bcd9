"""Who goes first, in each eviction policy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import EvictionPolicy, Gdsf, KeyedEviction, Lfu, Lru, OldestFirst
from tests.policies.makers import reset

EVERY = [Lru, lambda: Lru(tail_first=False), Lfu, Gdsf, OldestFirst]


def released(policy: EvictionPolicy, *prompts: tuple[int, ...]) -> EvictionPolicy:
    reset(policy)
    for prompt in prompts:
        policy.released(prompt, 0.0)
    return policy


def use(policy: EvictionPolicy, block: int, times: int = 1) -> None:
    """Found while nobody holds it, and released again."""
    for _ in range(times):
        policy.reused(block, 0.0)
        policy.released((block,), 0.0)


def victims(policy: EvictionPolicy) -> list[int]:
    return [policy.victim(0.0) for _ in range(len(policy))]


def test_lru_evicts_what_was_released_longest_ago_and_of_a_prompt_its_end() -> None:
    assert victims(released(Lru(), (1, 2, 3), (4, 5))) == [3, 2, 1, 5, 4]
    assert victims(released(Lru(tail_first=False), (1, 2, 3), (4, 5))) == [1, 2, 3, 4, 5]


def test_lru_forgets_where_a_block_stood_before_it_was_used_again() -> None:
    policy = released(Lru(), (1,), (2,), (3,))
    use(policy, 1)
    assert victims(policy) == [2, 3, 1]


def test_lfu_evicts_what_was_used_least_and_among_equals_as_lru() -> None:
    policy = released(Lfu(), (1, 2), (3, 4))
    use(policy, 2, times=2)
    use(policy, 3)
    assert victims(policy) == [1, 4, 3, 2]


def test_lfu_counts_uses_while_a_block_is_held() -> None:
    policy = reset(Lfu())
    policy.shared(1, 0.0)  # before it was ever released
    policy.released((1,), 0.0)
    policy.released((2,), 0.0)
    assert victims(policy) == [2, 1]


def test_lfu_counts_anew_what_was_evicted() -> None:
    policy = released(Lfu(), (1,))
    use(policy, 1, times=5)
    assert policy.victim(0.0) == 1
    policy.released((2,), 0.0)
    use(policy, 2)
    policy.released((1,), 0.0)
    assert victims(policy) == [1, 2]


def test_gdsf_lets_old_fame_wear_off_and_lfu_does_not() -> None:
    order = {}
    for cls in (Lfu, Gdsf):
        policy = released(cls(), (1,))
        use(policy, 1, times=3)  # used 4 times: rated 4
        gone = []
        for newcomer in range(
            10, 20
        ):  # each is rated 1 + the clock, which is what the one before it went with
            policy.released((newcomer,), 0.0)
            gone.append(policy.victim(0.0))
        order[cls] = gone
    assert order[Lfu] == list(range(10, 20))
    assert order[Gdsf][:4] == [10, 11, 12, 1]  # 1, 2, 3, and at 4 the older one goes


def test_oldest_first_does_not_care_for_use() -> None:
    policy = released(OldestFirst(), (1,), (2,), (3,))
    use(policy, 1, times=9)
    assert victims(policy) == [1, 2, 3]


def test_oldest_first_counts_from_when_it_was_stored_again_once_it_was_evicted() -> None:
    policy = released(OldestFirst(), (1,), (2,))
    assert policy.victim(0.0) == 1
    policy.released((1,), 0.0)
    assert victims(policy) == [2, 1]


@pytest.mark.parametrize("make", EVERY, ids=lambda make: repr(make()))
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["release", "use", "share", "evict"]), st.integers(1, 6)), max_size=60
    )
)
def test_a_victim_is_a_candidate_and_the_length_is_how_many_there_are(
    make: type[EvictionPolicy], steps: list[tuple[str, int]]
) -> None:
    policy, candidates, held, stored = reset(make()), set(), set(), 0
    for what, number in steps:
        if what == "release":
            fresh = [*held, *range(stored, stored + number)]
            stored += number
            policy.released(fresh, 0.0)
            candidates.update(fresh)
            held.clear()
        elif what == "use" and candidates:
            block = sorted(candidates)[number % len(candidates)]
            policy.reused(block, 0.0)
            candidates.remove(block)
            held.add(block)
        elif what == "share" and held:
            policy.shared(sorted(held)[number % len(held)], 0.0)
        elif what == "evict" and candidates:
            candidates.remove(policy.victim(0.0))
        assert len(policy) == len(candidates)
    assert set(victims(policy)) == candidates


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True), max_size=12))
def test_lru_evicts_in_the_order_of_last_release(prompts: list[list[int]]) -> None:
    policy, order = reset(Lru(tail_first=False)), []
    for prompt in prompts:
        for block in prompt:
            if block in order:
                policy.reused(block, 0.0)
                order.remove(block)
        policy.released(prompt, 0.0)
        order += prompt
    assert victims(policy) == order


@pytest.mark.parametrize("cls", [Lfu, Gdsf, OldestFirst])
def test_what_is_used_again_and_again_does_not_pile_up(cls: type[KeyedEviction]) -> None:
    policy = released(cls(), (1,), (2,))
    for _ in range(10_000):
        use(policy, 1)
        assert len(policy.heap) <= 2 * len(policy) + 66
