"""What the routing policies for fleets of language models do, in numbers."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    Composed,
    InFlightScorer,
    KvCost,
    KvUtilizationScorer,
    LeastOutstanding,
    LeastTokens,
    LeastWorkOracle,
    MaxScorePicker,
    Policy,
    PrefixAffinity,
    PrefixScorer,
    Request,
    RoundRobin,
    Route,
    RoutingPolicy,
    SessionAffinity,
    build,
)
from policies.testing import check_policy, parametrize_with_checks
from policies.views import Completion, ReplicaView, TokenSignals
from tests.policies.makers import replicas, request, reset

R0, R1, R2 = "replica/0", "replica/1", "replica/2"


def prompt(name: str, *blocks: int, block_tokens: int = 100, tokens: int | None = None) -> Request:
    """A request whose prompt fills these blocks, unless `tokens` says otherwise."""
    size = len(blocks) * block_tokens if tokens is None else tokens
    return request(name, blocks=blocks, block_tokens=block_tokens, prompt_tokens=size)


def chosen(policy: RoutingPolicy, item: Request, views: Sequence[ReplicaView], now_s: float = 0.0) -> str:
    answer = policy.route(item, views, now_s)
    assert isinstance(answer, Route)
    return answer.replica


def send(policy: Policy, item: Request, replica: str, now_s: float = 0.0) -> None:
    policy.on_dispatched(item, replica, now_s)


def end(policy: Policy, item: Request, replica: str, **fields: object) -> None:
    policy.on_completed(Completion(request=item, replica=replica, attempt=1, **fields), 0.0)


def path(steps: Sequence[int]) -> tuple[int, ...]:
    """The hashes of a prompt: each stands for all that comes before it."""
    hashes, last = [], 1
    for step in steps:
        last = last * 3 + step
        hashes.append(last)
    return tuple(hashes)


PATHS = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(path)
NAMES = st.sampled_from([R0, R1, R2])


@parametrize_with_checks(
    [
        lambda: LeastTokens(prefill_weight=0.0, decode_weight=5.0),
        lambda: SessionAffinity(fallback=RoundRobin(), max_imbalance=0.0, max_sessions=2),
        lambda: SessionAffinity(fallback=PrefixAffinity(), max_imbalance=None),
        lambda: PrefixAffinity(cache_threshold=0.0, balance_abs_threshold=0, balance_rel_threshold=1.0),
        lambda: KvCost(router_temperature=0.5, ttl_s=None, overlap_weight=3.0, max_tree_blocks=1),
        lambda: Composed(scorers=[(3.0, PrefixScorer()), (1.0, KvUtilizationScorer())]),
    ]
)
def test_llm_routing_conforms_with_other_parameters(check) -> None:
    check()


@pytest.mark.parametrize("cls", [LeastTokens, SessionAffinity, PrefixAffinity, KvCost, PrefixScorer])
def test_llm_routing_conforms_when_prompts_have_hashes(cls: type[Policy], monkeypatch) -> None:
    from policies._conformance import drive

    def hashed(rng: random.Random, number: int, now_s: float) -> Request:
        blocks = tuple(range(rng.randrange(3), rng.randrange(3, 12)))
        return prompt(f"request-{number}", *blocks, block_tokens=rng.choice([16, 512]))

    monkeypatch.setattr(drive, "random_request", hashed)
    check_policy(cls)


# --- least tokens ----------------------------------------------------------------------------------------------


class TestLeastTokens:
    def test_tokens_decide_and_not_requests(self) -> None:
        policy = reset(LeastTokens())
        send(policy, request("long", prompt_tokens=1000), R0)
        for name in "abc":
            send(policy, request(name, prompt_tokens=100), R1)
        assert chosen(policy, request(), replicas(1, 3)) == R1

    @pytest.mark.parametrize(
        ("prefill_weight", "decode_weight", "replica"),
        [(1.0, 1.0, R1), (1.0, 5.0, R0), (2.0, 5.0, R1), (0.0, 1.0, R0)],
    )
    def test_the_weights_of_prefill_and_decode_decide(self, prefill_weight, decode_weight, replica) -> None:
        policy = reset(LeastTokens(prefill_weight, decode_weight, default_output_tokens=100))
        send(policy, request("prefilling", prompt_tokens=300), R0)
        send(policy, request("decoding", prompt_tokens=300), R1)
        policy.on_first_token(request("decoding"), R1, 0.0)
        assert chosen(policy, request(), replicas(1, 1)) == replica  # 300 to prefill against 100 to decode

    def test_expected_output_is_the_mean_of_what_its_kind_generated(self) -> None:
        policy = reset(LeastTokens(default_output_tokens=100))
        coder = request("c", tenant="coder")
        for tokens in (10, 40):
            end(policy, coder, R0, output_tokens=tokens)
        end(policy, coder, R0, output_tokens=9999, failure="timeout")
        assert policy.expected_tokens(coder) == (100 + 10 + 40) / 3
        assert policy.expected_tokens(request("d", tenant="writer")) == 100

    def test_callers_who_make_up_tenants_do_not_fill_the_memory(self) -> None:
        policy = reset(LeastTokens())
        for number in range(3000):
            end(policy, request(tenant=f"t{number}"), R0, output_tokens=1)
        assert len(policy.lengths) == 1024

    def test_a_prompt_of_unknown_length_counts_as_told(self) -> None:
        policy = reset(LeastTokens(default_prompt_tokens=70))
        send(policy, request(), R0)
        assert policy.prefill_tokens == {R0: 70}

    def test_hooks_about_attempts_never_sent_change_nothing(self) -> None:
        policy = reset(LeastTokens())
        policy.on_first_token(request(), R0, 0.0)
        end(policy, request(), R0, failure="withdrawn")
        assert (policy.prefill_tokens, policy.decode_tokens) == ({}, {})


# --- session affinity ------------------------------------------------------------------------------------------


class TestSessionAffinity:
    TURN = request("turn", session="s")

    @given(counts=st.lists(st.integers(0, 16), min_size=3, max_size=3))
    def test_a_session_stays_whatever_the_fallback_prefers(self, counts: list[int]) -> None:
        policy = reset(SessionAffinity())
        send(policy, self.TURN, R1)
        assert chosen(policy, self.TURN, replicas(*counts)) == R1

    def test_the_first_turn_goes_by_the_fallback(self) -> None:
        assert chosen(reset(SessionAffinity()), self.TURN, replicas(2, 1, 3)) == R1

    def test_a_request_without_a_session_goes_by_its_user_and_without_either_by_the_fallback(self) -> None:
        policy = reset(SessionAffinity())
        send(policy, request(user="u"), R2)
        send(policy, request(), R2)
        assert chosen(policy, request(user="u"), replicas(0, 0, 5)) == R2
        assert chosen(policy, request(session="u"), replicas(0, 0, 5)) == R0  # a session named like a user
        assert chosen(policy, request(), replicas(0, 0, 5)) == R0

    def test_a_session_whose_replica_is_no_candidate_moves_for_good(self) -> None:
        policy = reset(SessionAffinity())
        send(policy, self.TURN, R1)
        [first, home, last] = replicas(9, 0, 3)
        assert chosen(policy, self.TURN, [first, last]) == R2
        send(policy, self.TURN, R2)
        assert chosen(policy, self.TURN, [first, home, last]) == R2

    def test_a_session_leaves_a_replica_that_is_too_far_above_the_mean(self) -> None:
        policy = reset(SessionAffinity(max_imbalance=4.0, fallback=RoundRobin()))
        send(policy, self.TURN, R0)
        assert chosen(policy, self.TURN, replicas(6, 0, 0)) == R0  # the mean is 2
        assert chosen(policy, self.TURN, replicas(7, 0, 0)) == R1
        assert chosen(policy, self.TURN, replicas(100)) == R0  # there is no other

    def test_no_imbalance_is_too_large_when_there_is_no_limit(self) -> None:
        policy = reset(SessionAffinity(max_imbalance=None))
        send(policy, self.TURN, R0)
        assert chosen(policy, self.TURN, replicas(1000, 0)) == R0

    def test_the_session_unused_for_longest_is_forgotten_first(self) -> None:
        policy = reset(SessionAffinity(max_sessions=2))
        for session in ("a", "b", "a", "c"):
            send(policy, request(session=session), R1)
        assert [key for _, key in policy.homes] == ["a", "c"]

    def test_the_fallback_gets_every_hook(self) -> None:
        policy = reset(SessionAffinity(fallback=KvCost()))
        item = prompt("p", 1, 2)
        send(policy, item, R0)
        assert policy.fallback.prefill_tokens == {R0: 200}
        policy.on_first_token(item, R0, 0.0)
        assert policy.fallback.prefill_tokens == {}
        end(policy, item, R0)
        assert policy.fallback.active.size(R0) == 0
        policy.on_replicas(replicas(), 0.0)
        assert policy.fallback.tree.holders == {}

    def test_the_fallback_is_written_as_a_table(self) -> None:
        table = {"policy": "session-affinity", "fallback": {"policy": "kv-cost", "overlap_weight": 2}}
        assert build(RoutingPolicy, table) == SessionAffinity(fallback=KvCost(overlap_weight=2.0))

    def test_an_oracle_as_fallback_needs_an_oracle_around_it(self) -> None:
        with pytest.raises(ValueError, match="the fallback is an oracle"):
            SessionAffinity(fallback=LeastWorkOracle())


# --- prefix affinity -------------------------------------------------------------------------------------------


class TestPrefixAffinity:
    def test_the_longest_match_wins_over_the_shorter_queue(self) -> None:
        policy = reset(PrefixAffinity())
        send(policy, prompt("a", 1, 2, 3), R1)
        send(policy, prompt("b", 1, 2, 3, 4), R2)
        assert chosen(policy, prompt("c", 1, 2, 3, 4, 5), replicas(0, 1, 60)) == R2

    def test_of_equal_matches_the_shorter_queue_and_then_the_first_wins(self) -> None:
        policy = reset(PrefixAffinity())
        for replica in (R0, R1, R2):
            send(policy, prompt("a", 1, 2), replica)
        assert chosen(policy, prompt("c", 1, 2, 3), replicas(3, 1, 1)) == R1

    @pytest.mark.parametrize(("blocks", "replica"), [((1, 8, 9), R2), ((1, 2, 9), R1)])
    def test_a_match_decides_only_above_the_threshold(self, blocks: tuple[int, ...], replica: str) -> None:
        policy = reset(PrefixAffinity(cache_threshold=0.5))
        send(policy, prompt("a", 5, 6, 7, 8, 9), R0)
        send(policy, prompt("b", 1, 2, 3), R1)
        send(policy, prompt("c", 4), R2)
        assert chosen(policy, prompt("d", *blocks), replicas(0, 0, 0)) == replica

    def test_half_is_not_above_one_half(self) -> None:
        policy = reset(PrefixAffinity(cache_threshold=0.5))
        send(policy, prompt("b", 1), R0)
        assert chosen(policy, prompt("d", 1, 2), replicas(0, 0)) == R1

    @pytest.mark.parametrize(
        ("counts", "replica"),
        [((64, 0), R0), ((65, 0), R1), ((300, 200), R0), ((301, 200), R1), ((300, 236), R0)],
    )
    def test_load_decides_only_when_both_thresholds_are_exceeded(self, counts, replica) -> None:
        policy = reset(PrefixAffinity())
        send(policy, prompt("a", 1, 2), R0)
        assert chosen(policy, prompt("b", 1, 2), replicas(*counts)) == replica

    def test_prompts_without_hashes_join_the_shortest_queue(self) -> None:
        policy = reset(PrefixAffinity())
        send(policy, prompt("a", 1, 2), R1)
        assert chosen(policy, request(), replicas(3, 2, 2)) == R1

    def test_a_replica_that_is_no_candidate_is_not_chosen_for_its_match(self) -> None:
        policy = reset(PrefixAffinity())
        send(policy, prompt("a", 1, 2), R1)
        assert chosen(policy, prompt("b", 1, 2), [replicas(0, 0, 0)[2]]) == R2

    def test_it_forgets_replicas_that_left_and_blocks_beyond_its_size(self) -> None:
        policy = reset(PrefixAffinity(max_tree_blocks=2))
        send(policy, prompt("a", 1, 2, 3), R0)
        send(policy, prompt("b", 7, 8), R1)
        assert policy.tree.holders.keys() == {1, 2, 7, 8}
        policy.on_replicas([ReplicaView(id=R1)], 0.0)
        assert policy.tree.holders.keys() == {7, 8}

    @given(prompts=st.lists(PATHS, min_size=1, max_size=25), count=st.integers(1, 4))
    def test_a_prompt_seen_before_goes_where_it_went(self, prompts, count) -> None:
        policy = reset(PrefixAffinity(cache_threshold=0.0))
        for number, blocks in enumerate(prompts):
            send(policy, item := prompt(f"r{number}", *blocks), chosen(policy, item, replicas(*[0] * count)))
        for blocks in prompts:
            replica = chosen(policy, prompt("again", *blocks), replicas(*[0] * count))
            assert policy.tree.depths(blocks, [replica]) == [len(blocks)]


# --- the cost of key-value blocks ------------------------------------------------------------------------------


class TestKvCost:
    def test_the_formula(self) -> None:
        policy = reset(KvCost(overlap_weight=2.0))
        decoding, prefilling = prompt("d", 1, 2, 3, 4), prompt("p", 1, 2, 7)
        send(policy, decoding, R0)
        policy.on_first_token(decoding, R0, 0.0)
        send(
            policy, prefilling, R0
        )  # 1 and 2 are cached: 100 tokens to prefill; 5 different blocks are active
        new = prompt("n", 1, 2, 3, 8, 9, tokens=450)
        # On 0: (100 + 450 - 300) / 100 = 2.5 blocks to prefill; 5 active and 2 that are not yet.
        # On 1: 4.5 blocks to prefill, 5 active.
        assert policy.costs(new, replicas(0, 0), 0.0) == [2 * 2.5 + 7, 2 * 4.5 + 5]

    def test_overlap_is_traded_against_load_as_the_weight_says(self) -> None:
        # What 0 knows saves it 4 blocks; 7 others are active there, 3 of them with a prefill to come.
        answers = {}
        for weight in (0.0, 1.0, 20.0):
            policy = reset(KvCost(overlap_weight=weight))
            for item in (prompt("known", 1, 2, 3, 4), prompt("busy", 11, 12, 13, 14)):
                send(policy, item, R0)
                policy.on_first_token(item, R0, 0.0)
            end(policy, prompt("known", 1, 2, 3, 4), R0)
            send(policy, prompt("busier", 21, 22, 23), R0)
            new = prompt("n", 1, 2, 3, 4)
            answers[weight] = policy.costs(new, replicas(0, 0), 0.0)
            assert chosen(policy, new, replicas(0, 0)) == (R0 if weight == 20.0 else R1)
        assert answers == {0.0: [11.0, 4.0], 1.0: [14.0, 8.0], 20.0: [71.0, 84.0]}

    def test_the_least_sum_wins_and_neither_the_longest_match_nor_the_least_load(self) -> None:
        policy = reset(KvCost())
        for replica, cached, busy in ((R0, 2, 0), (R1, 5, 0), (R2, 8, 4)):
            warm = prompt(f"warm {replica}", *range(1, cached + 1))
            send(policy, warm, replica)
            end(policy, warm, replica)
            for number in range(busy):
                item = prompt(f"busy {number}", 100 + number)
                send(policy, item, replica)
                policy.on_first_token(item, replica, 0.0)
        new = prompt("new", *range(1, 11))
        assert policy.costs(new, replicas(0, 0, 0), 0.0) == [8 + 10, 5 + 10, 2 + 14]
        assert chosen(policy, new, replicas(0, 0, 0)) == R1

    def test_ties_go_to_the_smaller_tree_and_then_to_the_first(self) -> None:
        policy = reset(KvCost())
        old = prompt("old", 50)
        send(policy, old, R0)
        end(policy, old, R0)
        assert chosen(policy, prompt("n", 1), replicas(0, 0, 0)) == R1

    def test_blocks_are_forgotten_after_their_time(self) -> None:
        policy = reset(KvCost())
        old = prompt("old", 1, 2)
        send(policy, old, R0)
        end(policy, old, R0)
        assert policy.costs(old, replicas(0, 0), 120.0) == [2.0, 4.0]
        assert policy.costs(old, replicas(0, 0), 120.5) == [4.0, 4.0]

    def test_the_reported_size_of_the_cache_bounds_what_is_remembered(self) -> None:
        policy = reset(KvCost(block_tokens=50))
        views = [ReplicaView(id=R0, tokens=TokenSignals(total_blocks=4))]
        item = prompt("a", 1, 2, 3)
        assert chosen(policy, item, views) == R0
        send(policy, item, R0)
        assert policy.tree.size(R0) == 2  # 4 blocks of 50 tokens hold 2 of 100

    def test_a_replica_comes_back_from_suspicion_with_its_load_but_without_its_cache(self) -> None:
        policy = reset(KvCost())
        send(policy, prompt("a", 1, 2), R0)
        policy.on_replicas([ReplicaView(id=R1)], 0.0)
        assert (policy.tree.size(R0), policy.active.size(R0)) == (0, 2)
        end(policy, prompt("a", 1, 2), R0, failure="replica-lost")
        assert (policy.active.size(R0), policy.prefill_tokens) == (0, {})

    def test_prompts_without_hashes_share_nothing_and_fill_blocks(self) -> None:
        policy = reset(KvCost(block_tokens=16))
        send(policy, request("a", prompt_tokens=33), R0)
        assert policy.active.size(R0) == 3
        assert policy.costs(request("b", prompt_tokens=16), replicas(0, 0), 0.0) == [49 / 16 + 4, 1 + 1]

    def test_the_chances_of_a_draw_are_those_of_the_formula(self) -> None:
        policy = reset(KvCost(router_temperature=0.5))
        send(policy, prompt("a", 1, 2), R1)
        draws = [chosen(policy, prompt("n", 3), replicas(0, 0)) for _ in range(40_000)]
        # Normalised costs 0 and 1, so 1 : exp(-2); four standard deviations are 260.
        assert draws.count(R0) == pytest.approx(0.8808 * 40_000, abs=260)

    def test_equal_costs_are_drawn_alike(self) -> None:
        policy = reset(KvCost(router_temperature=1e-9))
        draws = [chosen(policy, prompt("n", 3), replicas(0, 0)) for _ in range(40_000)]
        assert draws.count(R0) == pytest.approx(20_000, abs=400)

    def test_as_a_draw_gets_cold_the_least_cost_wins(self) -> None:
        policy = reset(KvCost(router_temperature=1e-9))
        send(policy, prompt("a", 1, 2), R0)
        assert {chosen(policy, prompt("n", 3), replicas(0, 0)) for _ in range(50)} == {R1}


# --- scorers ---------------------------------------------------------------------------------------------------


class TestScorers:
    def test_a_prefix_scores_its_share_of_the_blocks_that_are_looked_at(self) -> None:
        scorer = reset(PrefixScorer(max_prefix_blocks=4))
        scorer.on_dispatched(prompt("a", 1, 2, 3, 4, 5, 6), R1, 0.0)
        assert scorer.scores(prompt("b", 1, 2, 9, 9), replicas(0, 0), 0.0) == [0.0, 0.5]
        assert scorer.scores(prompt("b", 1, 2, 3, 4, 9), replicas(0, 0), 0.0) == [0.0, 1.0]
        assert scorer.scores(request(), replicas(0, 0), 0.0) == [0.0, 0.0]

    def test_a_prefix_scorer_forgets_replicas_that_left(self) -> None:
        scorer = reset(PrefixScorer())
        scorer.on_dispatched(prompt("a", 1), R1, 0.0)
        scorer.on_replicas([ReplicaView(id=R0)], 0.0)
        assert scorer.tree.holders == {}

    def test_kv_utilization_scores_what_is_left_of_the_cache(self) -> None:
        views = [
            ReplicaView(id=R0, tokens=TokenSignals(used_blocks=30, cached_blocks=70, total_blocks=100)),
            ReplicaView(id=R1, tokens=TokenSignals()),
            ReplicaView(id=R2),
        ]
        assert KvUtilizationScorer(unknown=0.25).scores(request(), views, 0.0) == [0.7, 0.25, 0.25]

    def test_weights_trade_the_prefix_against_the_queue(self) -> None:
        for weight, replica in ((0.5, R1), (1.5, R0)):
            router = reset(
                Composed(
                    scorers=[(weight, PrefixScorer()), (1.0, InFlightScorer())],
                    picker=MaxScorePicker(ties="first"),
                )
            )
            send(router, prompt("a", 1, 2), R0)
            assert chosen(router, prompt("b", 1, 2), replicas(1, 0)) == replica

    def test_parts_of_a_composed_router_hear_of_first_tokens(self) -> None:
        heard = []

        class Listening(InFlightScorer):
            def on_first_token(self, request: Request, replica: str, now_s: float) -> None:
                heard.append((request.id, replica, now_s))

        reset(Composed(scorers=[(1.0, Listening())])).on_first_token(request("r"), R0, 2.0)
        assert heard == [("r", R0, 2.0)]


def test_on_one_busy_prefix_the_four_differ_as_they_say() -> None:
    """The prompt is cached on 0, which has one long prompt to prefill; 1 has three short answers to decode."""
    views = replicas(1, 3)
    answers = {}
    for policy in (LeastOutstanding(), LeastTokens(), PrefixAffinity(), KvCost(), SessionAffinity()):
        reset(policy)
        warm = prompt("warm", 1, 2)
        for item, replica in [
            (warm, R0),
            *[(prompt(name, number), R1) for number, name in enumerate("abc", 10)],
        ]:
            send(policy, item, replica)
            policy.on_first_token(item, replica, 0.0)
        end(policy, warm, R0, output_tokens=10)
        send(policy, prompt("long", *range(20, 40)), R0)
        answers[policy.name()] = chosen(policy, prompt("next", 1, 2, 3), views)
    assert answers == {
        "least-outstanding": R0,
        "least-tokens": R1,
        "prefix-affinity": R0,
        "kv-cost": R1,
        "session-affinity": R0,
    }
