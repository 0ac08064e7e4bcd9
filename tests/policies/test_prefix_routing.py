"""Routing by cached prefixes and by what engines report: Preble, and the default of llm-d."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    Composed,
    KvUtilizationScorer,
    MaxScorePicker,
    PolicyError,
    PrefixScorer,
    RoutingPolicy,
    build,
)
from policies.routing.llm_d_default import LlmDDefault
from policies.routing.preble import Preble
from policies.routing.prefix_tree import PrefixTree
from policies.routing.queue_scorer import QueueScorer
from policies.testing import parametrize_with_checks
from policies.views import ReplicaView, TokenSignals
from tests.policies.makers import replicas, request, reset
from tests.policies.test_llm_routing import NAMES, PATHS, R0, R1, R2, chosen, end, prompt, send


@parametrize_with_checks(
    [
        Preble,
        lambda: Preble(window_s=0.01, rebalance_factor=1.0, max_tree_blocks=3, prefill_s_per_token=10.0),
        lambda: Preble(rebalance_factor=None, default_output_tokens=0, block_tokens=512),
        QueueScorer,
        lambda: QueueScorer(unknown=1.0),
        LlmDDefault,
        lambda: LlmDDefault(scorers=[(1.0, QueueScorer())], picker=MaxScorePicker(ties="first")),
    ]
)
def test_conformance(check) -> None:
    check()


# --- the index -------------------------------------------------------------------------------------------------


@given(inserts=st.lists(st.tuples(NAMES, PATHS), max_size=30), asked=PATHS, kept=st.sets(NAMES))
def test_ends_are_the_depths_of_those_that_hold_anything(inserts, asked, kept) -> None:
    tree = PrefixTree(8)
    for replica, blocks in inserts:
        tree.insert(replica, blocks, 0.0)
    tree.keep_only(kept)
    for replica in ("replica/8", "replica/9"):  # take bits that were given back
        tree.insert(replica, asked[:1], 0.0)
    names = [R0, R1, R2, "replica/8", "replica/9"]
    depths = dict(zip(names, tree.depths(asked, names), strict=True))
    ends = tree.ends(asked)
    found = {name: depth for depth, bits in ends for name in tree.owners(bits)}
    assert found == {name: depth for name, depth in depths.items() if depth}
    assert [depth for depth, _ in ends] == sorted({*found.values()})


def test_victims_are_those_that_would_have_to_go() -> None:
    tree = PrefixTree(4)
    tree.insert(R0, (1, 2, 3), 0.0)
    tree.insert(R0, (1,), 1.0)
    assert tree.room([R0, R1]) == [1, 4]
    assert (tree.victims(R0, 1), tree.victims(R0, 2), tree.victims(R0, 3)) == ([], [3], [3, 2])
    assert tree.victims(R0, 99) == [3, 2, 1]
    assert tree.victims(R1, 99) == []


# --- Preble ----------------------------------------------------------------------------------------------------


class TestPreble:
    def make(self, **parameters: object) -> Preble:
        """Times in tokens: a second for each to prefill, none for output."""
        return reset(Preble(**({"prefill_s_per_token": 1.0, "default_output_tokens": 0} | parameters)))

    @pytest.mark.parametrize(("known", "reason"), [(2, "explores"), (3, "exploits"), (4, "exploits")])
    def test_it_exploits_when_more_is_cached_than_is_not(self, known: int, reason: str) -> None:
        policy = self.make(rebalance_factor=None)
        send(policy, prompt("before", *range(known)), R1)
        decision = policy.route(prompt("r", 0, 1, 2, 3), replicas(0, 0, 0), 0.0)
        assert decision.reason == reason
        assert decision.replica == (R1 if reason == "exploits" else R0)

    def test_of_several_with_the_longest_match_the_one_with_the_least_load_is_exploited(self) -> None:
        policy = self.make(rebalance_factor=None)
        for replica, own in ((R0, 5), (R1, 1), (R2, 3)):
            send(policy, prompt("before", 1, 2, 3, *[1000 * own + n for n in range(own)]), replica)
        assert chosen(policy, prompt("r", 1, 2, 3, 9), replicas(0, 0, 0)) == R1

    def test_it_explores_for_the_least_load_and_prefill(self) -> None:
        policy = self.make()
        send(policy, prompt("before", 1, 2), R0)  # a load of 200 and 2 blocks of 5 there
        send(policy, prompt("other", 8), R1)  # a load of 100
        send(policy, prompt("another", 9), R2)
        item = prompt("r", 1, 2, 3, 4, 5)
        # 200 + 300 against 100 + 500
        assert policy.loads_s([R0, R1, R2]) == [200.0, 100.0, 100.0]
        assert chosen(policy, item, replicas(0, 0, 0)) == R0
        send(policy, prompt("more", 7, 6), R0)
        assert chosen(policy, item, replicas(0, 5, 0)) == R2  # of equal costs the fewest in flight

    def test_what_would_have_to_go_costs_what_it_takes_to_compute_it_again(self) -> None:
        policy = self.make(max_tree_blocks=4)
        send(policy, prompt("popular", 1, 2), R0)
        send(policy, prompt("popular", 1, 2), R0)
        send(policy, prompt("own", 5, 6), R1)
        views = replicas(0, 0)
        assert policy._evicted_tokens(R0, 2, 100) == 0.0
        # Block 2 goes first, which two of three requests used, then block 1.
        assert policy._evicted_tokens(R0, 3, 100) == pytest.approx(100 * 2 / 3)
        assert policy._evicted_tokens(R0, 4, 100) == pytest.approx(200 * 2 / 3)
        assert policy._evicted_tokens(R1, 4, 100) == pytest.approx(200 * 1 / 3)
        assert policy.loads_s([R0, R1]) == [200.0, 200.0]
        assert chosen(policy, prompt("r", 20, 21, 22, 23), views) == R1

    def test_load_is_of_the_window(self) -> None:
        policy = self.make(window_s=10.0)
        send(policy, prompt("old", 1, 2, 3), R0, 0.0)
        send(policy, prompt("new", 9), R1, 8.0)
        assert chosen(policy, prompt("r", 50), replicas(0, 0), 10.0) == R1
        assert chosen(policy, prompt("r", 50), replicas(0, 0), 10.1) == R0
        assert (policy.requests, policy.missed_tokens, policy.uses) == ({R1: 1}, {R1: 100}, {9: 1})

    def test_a_match_does_not_load_and_answers_do(self) -> None:
        policy = self.make(decode_s_per_token=2.0)
        send(policy, prompt("a", 1, 2), R0)
        send(policy, prompt("a", 1, 2), R0)
        assert policy.loads_s([R0]) == [200.0]
        end(policy, prompt("a", 1, 2), R0, output_tokens=11, ttft_s=1.0, e2e_s=6.0)
        assert (policy.output_tokens, policy.output_s) == (11.0, 0.5)
        assert policy.loads_s([R0]) == [200.0 + 2 * 11 * 0.5]
        end(policy, prompt("a", 1, 2), R0, output_tokens=1, ttft_s=1.0, e2e_s=1.0)  # says nothing of the pace
        end(policy, prompt("a", 1, 2), R0, output_tokens=500, failure="timed-out")
        assert (policy.output_tokens, policy.output_s) == (6.0, 0.5)

    def test_exploiting_stops_when_loads_are_too_far_apart(self) -> None:
        policy = self.make(rebalance_factor=2.0)
        send(policy, prompt("popular", 1, 2), R0)
        assert (
            policy.route(prompt("r", 1, 2), replicas(0, 0), 0.0).reason == "exploits"
        )  # 200 against one request
        for number in range(3):
            send(policy, prompt("own", 1, 2, 100 + number), R0)
        decision = policy.route(prompt("r", 1, 2), replicas(0, 0), 0.0)
        assert (decision.replica, decision.reason) == (R1, "rebalances")
        send(policy, prompt("elsewhere", 70, 71, 72), R1)
        assert policy.route(prompt("r", 1, 2), replicas(0, 0), 0.0).reason == "exploits"

    def test_prompts_without_hashes_are_spread_by_load(self) -> None:
        policy = self.make(default_prompt_tokens=100)
        for number in range(4):
            replica = chosen(policy, request(f"r{number}"), replicas(0, 0))
            assert replica == (R0, R1)[number % 2]
            send(policy, request(f"r{number}"), replica)
        assert policy.loads_s([R0, R1]) == [200.0, 200.0]

    def test_a_reported_cache_bounds_what_is_remembered(self) -> None:
        policy = self.make(max_tree_blocks=100)
        view = ReplicaView(id=R0, tokens=TokenSignals(total_blocks=10, block_tokens=20))
        policy.route(prompt("r", 1), [view], 0.0)
        send(policy, prompt("r", 1, 2, 3, 4), R0)
        assert policy.tree.size(R0) == 2

    @given(
        steps=st.lists(st.tuples(NAMES, PATHS, st.floats(0.0, 3.0)), max_size=40),
        names=st.lists(NAMES, max_size=3),
    )
    def test_the_window_counts_what_it_holds(self, steps, names: Sequence[str]) -> None:
        policy, now_s = self.make(window_s=4.0), 0.0
        for number, (replica, blocks, after_s) in enumerate(steps):
            now_s += after_s
            send(policy, prompt(f"r{number}", *blocks), replica, now_s)
            for name in (R0, R1, R2):
                mine = [sent for sent in policy.window if sent.replica == name]
                assert policy.requests.get(name, 0) == len(mine)
                assert policy.missed_tokens.get(name, 0) == sum(sent.missed_tokens for sent in mine)
        policy.route(request(), replicas(0), now_s + 5.0)
        assert (policy.requests, policy.missed_tokens, policy.uses, len(policy.window)) == ({}, {}, {}, 0)


# --- llm-d -----------------------------------------------------------------------------------------------------


def waiting(*counts: int | None) -> list[ReplicaView]:
    return [
        ReplicaView(id=f"replica/{n}", tokens=None if count is None else TokenSignals(waiting=count))
        for n, count in enumerate(counts)
    ]


class TestQueueScorer:
    @pytest.mark.parametrize(
        ("counts", "scores"), [((10, 5, 0), [0.0, 0.5, 1.0]), ((5, 5), [1.0, 1.0]), ((0, 0), [1.0, 1.0])]
    )
    def test_scores_are_those_of_the_published_scorer(
        self, counts: tuple[int, ...], scores: list[float]
    ) -> None:
        """The cases of `queue_test.go` in the Gateway API Inference Extension."""
        assert QueueScorer().scores(request(), waiting(*counts), 0.0) == scores

    def test_one_that_has_not_reported_is_neither_idle_nor_busy(self) -> None:
        assert QueueScorer().scores(request(), waiting(4, None, 0), 0.0) == [0.0, 0.5, 1.0]
        assert QueueScorer(unknown=0.2).scores(request(), waiting(None, 3), 0.0) == [0.2, 1.0]
        assert QueueScorer().scores(request(), waiting(None, None), 0.0) == [0.5, 0.5]

    @given(st.lists(st.one_of(st.none(), st.integers(0, 99)), min_size=1, max_size=12))
    def test_fewer_waiting_never_score_less(self, counts: list[int | None]) -> None:
        scores = QueueScorer().scores(request(), waiting(*counts), 0.0)
        known = sorted(
            (count, -score) for count, score in zip(counts, scores, strict=True) if count is not None
        )
        assert [score for _, score in known] == sorted(score for _, score in known)
        assert all(0.0 <= score <= 1.0 for score in scores)


class TestLlmDDefault:
    def test_it_is_composed_of_what_the_router_loads_without_a_configuration(self) -> None:
        policy = build(RoutingPolicy, {"policy": "llm-d-default"}, "$.routing")
        assert isinstance(policy, Composed)
        assert [(weight, type(scorer)) for weight, scorer in policy.scorers] == [
            (2.0, QueueScorer), (2.0, KvUtilizationScorer), (3.0, PrefixScorer),
        ]  # fmt: skip
        assert isinstance(policy.picker, MaxScorePicker)
        assert (policy.filters, policy.picker.ties) == ([], "random")

    def test_a_whole_prefix_outweighs_one_other_signal_and_not_both(self) -> None:
        policy = reset(LlmDDefault())
        send(policy, prompt("before", 1, 2), R0)
        item = prompt("r", 1, 2)

        def views(waits: int, used: int) -> list[ReplicaView]:
            busy = TokenSignals(waiting=waits, used_blocks=used, total_blocks=100)
            return [
                ReplicaView(id=R0, tokens=busy),
                ReplicaView(id=R1, tokens=TokenSignals(total_blocks=100)),
            ]

        assert chosen(policy, item, views(9, 40)) == R0  # 3 + 0 + 1.2 against 0 + 2 + 2
        assert chosen(policy, item, views(9, 60)) == R1  # 3 + 0 + 0.8
        assert policy.route(item, views(0, 100), 0.0).scores == {R0: 5.0, R1: 4.0}


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (Preble(window_s=0.0), r"^\$\.routing\.window_s: Expected `float` > 0.0$"),
        (Preble(rebalance_factor=0.5), r"^\$\.routing\.rebalance_factor: Expected `float` >= 1.0$"),
        (
            LlmDDefault(scorers=[(1.0, QueueScorer(unknown=2.0))]),
            r"^\$\.routing\.scorers\[0\]\[1\]\.unknown: Expected `float` <= 1.0$",
        ),
    ],
)
def test_parameters_out_of_bounds_are_named(policy: RoutingPolicy, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        build(RoutingPolicy, policy, "$.routing")
