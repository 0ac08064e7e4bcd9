"""Any schedule of admissions, growth, preemption, swapping and failure: the account is that of the blocks."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fleet.actor import FleetError
from fleet.tokens.paged_cache import PagedKvCache
from policies import Gdsf, Lfu, Lru, OldestFirst
from tests.policies.makers import reset
from tests.tokens.block_model import BlockModel
from tests.tokens.sequences import compute, sequence

POLICIES = {
    "lru": Lru,
    "empty first": lambda: Lru(empty_first=True),
    "head first": lambda: Lru(tail_first=False),
    "lfu": Lfu,
    "gdsf": Gdsf,
    "fifo": OldestFirst,
}
SIZES = [(4, 4), (2, 4), (4, 2), (1, 3), (4, 6)]
"""Tokens of a block of the cache and of a hashed one; the last two do not fit each other."""
PICK = st.integers(0, 99)


class Schedules(RuleBasedStateMachine):
    """`cache` and the block by block model get the same commands; after each all that can be asked is compared."""

    @initialize(
        policy=st.sampled_from(sorted(POLICIES)), sizes=st.sampled_from(SIZES), total=st.integers(4, 16)
    )
    def start(self, policy: str, sizes: tuple[int, int], total: int) -> None:
        block_tokens, self.hashed_tokens = sizes
        self.cache = PagedKvCache(total, block_tokens, reset(POLICIES[policy]()), host_blocks=6)
        self.model = BlockModel(total, block_tokens, reset(POLICIES[policy]()))
        self.waiting, self.running, self.arrived = [], [], 0

    @rule(path=st.lists(st.integers(0, 1), min_size=1, max_size=4), last_tokens=st.integers(1, 6))
    def arrive(self, path: list[int], last_tokens: int) -> None:
        tokens = (len(path) - 1) * self.hashed_tokens + min(last_tokens, self.hashed_tokens)
        self.arrived += 1
        self.waiting.append(sequence(self.arrived, path, tokens, self.hashed_tokens))

    @precondition(lambda self: self.waiting)
    @rule(pick=PICK, share=st.floats(0.01, 1.0))
    def admit(self, pick: int, share: float) -> None:
        """Admit, and compute some of the rest, as a step does."""
        one = self.waiting[pick % len(self.waiting)]
        cache, free = self.cache, self.cache.free_blocks
        cached = cache.cached_tokens(one)
        tokens = max(1, int(share * (one.remaining_tokens - cached)))
        needed = cache.blocks_for(one, tokens)
        if needed > free:
            return
        if one.swapped:
            self.model.swap_in(one)
        else:
            self.model.admit(one)
        before = one.computed_tokens
        cache.admit(one, 0.0)
        assert one.computed_tokens == (before if before else cached)
        cache.extend(one, tokens, 0.0)
        self.model.extend(one, tokens)
        assert free - cache.free_blocks == needed
        compute(one, tokens)
        self.waiting.remove(one)
        self.running.append(one)

    @precondition(lambda self: self.running)
    @rule(pick=PICK, tokens=st.integers(1, 12))
    def extend(self, pick: int, tokens: int) -> None:
        one = self.running[pick % len(self.running)]
        tokens = min(tokens, one.remaining_tokens)
        free, needed = self.cache.free_blocks, self.cache.blocks_for(one, tokens)
        if needed > free:
            with pytest.raises(FleetError, match="are free"):
                self.cache.extend(one, tokens, 0.0)
            return
        self.cache.extend(one, tokens, 0.0)
        self.model.extend(one, tokens)
        assert free - self.cache.free_blocks == needed
        compute(one, tokens)

    @precondition(lambda self: self.running)
    @rule(pick=PICK, keep=st.booleans(), again=st.booleans())
    def release(self, pick: int, keep: bool, again: bool) -> None:
        one = self.running.pop(pick % len(self.running))
        free, alone = self.cache.free_blocks, self.cache.blocks_held_alone(one)
        self.model.release(one, keep, again)
        self.cache.release(one, 0.0, keep=keep, comes_back=again)
        assert self.cache.free_blocks - free == alone
        assert one.blocks == one.computed_tokens == 0
        if again:
            self.waiting.insert(0, one)

    @precondition(lambda self: self.running)
    @rule(pick=PICK)
    def swap_out(self, pick: int) -> None:
        one = self.running[pick % len(self.running)]
        room = self.cache.host_blocks - self.cache.host_used_blocks
        needed, computed = -(-one.computed_tokens // self.cache.block_tokens), one.computed_tokens
        if needed <= room:
            self.model.release(one)
        assert self.cache.swap_out(one, 0.0) == (needed <= room) == one.swapped
        assert one.computed_tokens == computed
        if one.swapped:
            self.running.remove(one)
            self.waiting.insert(0, one)

    @precondition(lambda self: self.waiting)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        one = self.waiting.pop(pick % len(self.waiting))
        self.cache.forget(one, 0.0)
        self.model.own.pop(one.id, None)
        assert not one.swapped

    @invariant()
    def the_account_is_that_of_the_blocks(self) -> None:
        if not hasattr(self, "cache"):
            return
        cache, model = self.cache, self.model
        cache.check()
        assert (cache.used_blocks, cache.cached_blocks) == (model.used(), model.cached())
        assert cache.empty_blocks == cache.total_blocks - model.used() - model.cached() >= 0
        for one in self.running:
            assert one.blocks == len(model.lists[one.id])
            assert cache.blocks_held_alone(one) == model.held_alone(one)
            assert cache.cached_tokens(one) == 0
        for one in self.waiting:
            if not one.swapped:
                tokens = cache.cached_tokens(one)
                assert tokens < one.total_tokens
                assert tokens == model.hits(one)[1]
        swapped = [one.computed_tokens for one in self.waiting if one.swapped]
        assert cache.host_used_blocks == sum(-(-tokens // cache.block_tokens) for tokens in swapped)


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=150, stateful_step_count=40)
