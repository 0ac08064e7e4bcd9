"""What routing policies remember: it agrees with the obvious, stays within bounds, and nothing is left in the end."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from policies import KvCost, LeastTokens, Policy, Request
from policies.routing.attempts import Attempts
from policies.routing.prefix_tree import PrefixTree
from policies.views import FailureKind, ReplicaView, TokenSignals
from tests.policies.makers import request, reset
from tests.policies.test_llm_routing import NAMES, PATHS, R0, R1, R2, end

ENDS: tuple[FailureKind | None, ...] = (None, "replica-lost", "timeout", "withdrawn", "refused")


class TestAttempts:
    def test_what_was_sent_first_ends_first(self) -> None:
        attempts: Attempts[str] = Attempts()
        attempts.add("r", R0, "older")
        attempts.add("r", R0, "newer")
        attempts.add("r", R1, "elsewhere")
        assert attempts.of("r", R0) == ["older", "newer"]
        assert [attempts.take("r", R0) for _ in range(3)] == ["older", "newer", None]
        assert len(attempts) == 1


# --- the index -------------------------------------------------------------------------------------------------


@dataclass
class SlowTree:
    """The index as one would write it down first: a list of (block, last use) for each replica."""

    max_blocks: int
    used: dict[str, list[int]] = field(default_factory=dict)

    def insert(self, replica: str, blocks: Sequence[int]) -> None:
        kept = [block for block in self.used.get(replica, []) if block not in blocks[: self.max_blocks]]
        kept += [*reversed(blocks[: self.max_blocks])]
        self.used[replica] = kept[-self.max_blocks :]

    def depth(self, blocks: Sequence[int], replica: str) -> int:
        has = self.used.get(replica, [])
        return next((depth for depth, block in enumerate(blocks) if block not in has), len(blocks))


class TestPrefixTree:
    @given(inserts=st.lists(st.tuples(NAMES, PATHS), max_size=30), asked=PATHS, max_blocks=st.integers(1, 12))
    def test_it_agrees_with_the_obvious_one(self, inserts, asked, max_blocks) -> None:
        tree, slow = PrefixTree(max_blocks), SlowTree(max_blocks)
        for now_s, (replica, blocks) in enumerate(inserts):
            tree.insert(replica, blocks, float(now_s))
            slow.insert(replica, blocks)
        names = [R2, R0, R1]
        assert tree.depths(asked, names) == [slow.depth(asked, name) for name in names]
        assert [tree.size(name) for name in names] == [len(slow.used.get(name, [])) for name in names]

    @given(inserts=st.lists(st.tuples(NAMES, PATHS), max_size=30), max_blocks=st.integers(1, 12))
    def test_what_a_replica_has_is_whole_prefixes_within_bounds(self, inserts, max_blocks) -> None:
        tree = PrefixTree(max_blocks)
        for replica, blocks in inserts:
            tree.insert(replica, blocks, 0.0)
            assert tree.size(replica) <= max_blocks
            for bit in (tree.bit(name) for name in (R0, R1, R2)):
                has = {block for block, holders in tree.holders.items() if holders & bit}
                assert all(block // 3 in has for block in has if block >= 9)

    @given(inserts=st.lists(st.tuples(NAMES, PATHS), max_size=20), kept=st.sets(NAMES))
    def test_nothing_is_left_of_a_replica_that_left(self, inserts, kept) -> None:
        tree, never = PrefixTree(8), PrefixTree(8)
        for replica, blocks in inserts:
            tree.insert(replica, blocks, 0.0)
            if replica in kept:
                never.insert(replica, blocks, 0.0)
        tree.keep_only(kept)
        assert tree.holders.keys() == never.holders.keys()
        for replica in (R0, R1, R2):
            assert tree.size(replica) == never.size(replica)
        tree.insert("replica/9", (1,), 0.0)  # takes a bit that was given back, and none of what went with it
        assert tree.depths((1, 4), ["replica/9"]) == [1]
        tree.keep_only(())
        assert tree.holders == {}

    def test_blocks_expire_when_unused_for_longer_than_their_time(self) -> None:
        tree = PrefixTree(8, ttl_s=10.0)
        tree.insert(R0, (1, 2), 0.0)
        tree.insert(R0, (1,), 5.0)
        tree.expire(10.0)
        assert tree.depths((1, 2), [R0]) == [2]
        tree.expire(10.5)
        assert tree.depths((1, 2), [R0]) == [1]
        tree.expire(15.5)
        assert (tree.size(R0), tree.holders) == (0, {})

    def test_the_reported_size_of_a_cache_bounds_it_in_blocks_of_the_prompts(self) -> None:
        tree = PrefixTree(1000)
        view = ReplicaView(id=R0, tokens=TokenSignals(total_blocks=96))
        tree.learn_limits([view, ReplicaView(id=R1)], block_tokens=16, hashed_tokens=512)
        for replica in (R0, R1):
            tree.insert(replica, (1, 2, 3, 4, 5), 0.0)
        assert (tree.size(R0), tree.size(R1)) == (3, 5)  # 96 blocks of 16 tokens hold 3 of 512

    def test_the_size_of_a_cache_is_learnt_again_of_a_replica_that_comes_back(self) -> None:
        tree = PrefixTree(1000)
        views = [ReplicaView(id=name, tokens=TokenSignals(total_blocks=2)) for name in (R0, R1)]
        tree.learn_limits(views, block_tokens=16, hashed_tokens=16)
        tree.keep_only({R0})
        tree.learn_limits(views, block_tokens=16, hashed_tokens=16)
        tree.insert(R1, (1, 2, 3), 0.0)
        assert tree.size(R1) == 2

    def test_what_came_again_after_all_of_it_expired_expires_again(self) -> None:
        tree = PrefixTree(8, ttl_s=10.0)
        for now_s in (0.0, 20.0):
            tree.insert(R0, (1, 2), now_s)
            tree.expire(now_s + 10.5)
            assert (tree.size(R0), tree.holders) == (0, {})


# --- what is counted is taken back -----------------------------------------------------------------------------


@dataclass
class History:
    """Random hooks as attempts come, get their first token or not, fail, are retried and end."""

    rng: random.Random
    flying: list[tuple[Request, str, bool]] = field(default_factory=list)

    def steps(self, policy: Policy, count: int) -> Iterator[None]:
        for number in range(count):
            act = self.rng.random()
            if act < 0.4 or not self.flying:
                self._send(policy, number)
            elif act < 0.65:
                self._first_token(policy)
            else:
                self.finish(policy)
            yield

    def _send(self, policy: Policy, number: int) -> None:
        item = self._request(number)
        if (
            self.flying and self.rng.random() < 0.3
        ):  # a retry, maybe on the same replica, before the old one ended
            item = self.rng.choice(self.flying)[0]
        replica = self.rng.choice([R0, R1, R2])
        policy.on_dispatched(item, replica, float(number))
        self.flying.append((item, replica, False))

    def _request(self, number: int) -> Request:
        start = self.rng.randrange(3)
        hashed = self.rng.random() < 0.7
        return request(
            f"r{number}",
            prompt_tokens=self.rng.choice([None, 0, 1, self.rng.randrange(5000)]),
            blocks=tuple(range(start, start + self.rng.randrange(5))) if hashed else None,
            block_tokens=self.rng.choice([None, 16, 512]),
            tenant=self.rng.choice([None, "a"]),
        )

    def _first_token(self, policy: Policy) -> None:
        index = self.rng.randrange(len(self.flying))
        item, replica, had = self.flying[index]
        if not had:
            policy.on_first_token(item, replica, 0.0)
            self.flying[index] = item, replica, True

    def finish(self, policy: Policy) -> None:
        item, replica, _ = self.flying.pop(self.rng.randrange(len(self.flying)))
        failure = self.rng.choice(ENDS)
        end(policy, item, replica, failure=failure, output_tokens=self.rng.randrange(900))


@given(seed=st.integers(0, 2**32), steps=st.integers(0, 80))
def test_least_tokens_counts_only_what_is_in_flight(seed: int, steps: int) -> None:
    policy, history = reset(LeastTokens()), History(random.Random(seed))
    for _ in history.steps(policy, steps):
        assert len(policy.attempts) == len(history.flying)
        assert all(
            count > 0 for counts in (policy.prefill_tokens, policy.decode_tokens) for count in counts.values()
        )
        waiting = sum(
            512 if item.prompt_tokens is None else item.prompt_tokens for item, _, _ in history.flying
        )
        assert sum(policy.prefill_tokens.values()) <= waiting
    while history.flying:
        history.finish(policy)
    assert (policy.prefill_tokens, policy.decode_tokens, len(policy.attempts)) == ({}, {}, 0)


@given(seed=st.integers(0, 2**32), steps=st.integers(0, 80))
def test_kv_cost_counts_each_active_block_once_and_leaves_none(seed: int, steps: int) -> None:
    policy, history = reset(KvCost()), History(random.Random(seed))
    for _ in history.steps(policy, steps):
        for replica in (R0, R1, R2):
            mine = [item for item, where, _ in history.flying if where == replica]
            hashed = {block for item in mine for block in item.blocks or ()}
            unhashed = sum(-(-(512 if item.prompt_tokens is None else item.prompt_tokens) // (item.block_tokens or 16))
                           for item in mine if not item.blocks)  # fmt: skip
            assert policy.active.size(replica) == len(hashed) + unhashed
        assert all(tokens > 0 for tokens in policy.prefill_tokens.values())
    while history.flying:
        history.finish(policy)
    assert (policy.prefill_tokens, policy.active.holders, len(policy.attempts)) == ({}, {}, 0)
    assert [policy.active.size(replica) for replica in (R0, R1, R2)] == [0, 0, 0]
