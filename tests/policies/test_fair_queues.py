"""Deficit round robin and start-time fair queueing: the bounds of their papers, and what they charge."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import Completion, PolicyError, QueueingPolicy
from policies.building import build
from policies.queueing.deficit_round_robin import DeficitRoundRobin
from policies.queueing.weighted_fair import WeightedFair
from policies.running_means import RunningMeans
from policies.testing import parametrize_with_checks
from tests.policies.makers import request, reset

FAIR: list[type[QueueingPolicy]] = [DeficitRoundRobin, WeightedFair]
WEIGHTS = {"a": 1.0, "b": 2.0, "c": 0.5}
MOST_TOKENS = 50


@parametrize_with_checks(
    [
        DeficitRoundRobin,
        lambda: DeficitRoundRobin(quantum_tokens=0.5, weights={"tenant-1": 20.0}, default_prompt_tokens=900),
        WeightedFair,
        lambda: WeightedFair(weights={"tenant-0": 0.01, "tenant-1": 100.0}, default_prompt_tokens=900),
    ]
)
def test_conformance(check):
    check()


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ({"policy": "deficit-round-robin", "quantum_tokens": 0.0}, r"\$\.queueing\.quantum_tokens"),
        ({"policy": "deficit-round-robin", "weights": {"a": -1.0}}, r"\$\.queueing\.weights"),
        ({"policy": "weighted-fair", "weights": {"a": 0.0}}, r"\$\.queueing\.weights"),
        ({"policy": "weighted-fair", "default_prompt_tokens": 0}, r"\$\.queueing\.default_prompt_tokens"),
    ],
)
def test_what_is_out_of_bounds_is_named(table, path):
    with pytest.raises(PolicyError, match=path):
        build(QueueingPolicy, table, "$.queueing")


# --- the bounds ------------------------------------------------------------------------------------------------


def backlog(seed: int, tenants: str, each: int = 40) -> list:
    """So many requests of each tenant, of 1 to 50 prompt tokens, in any order."""
    rng = random.Random(seed)
    asked = [
        request(f"{tenant}{number}", tenant=tenant, prompt_tokens=rng.randint(1, MOST_TOKENS))
        for tenant in tenants
        for number in range(each)
    ]
    rng.shuffle(asked)
    return asked


def widest_gap(taken: list, one: str, other: str, weights: dict[str, float]) -> float:
    """The most that what two tenants were given differs, over their weights, over any stretch in which both wait."""
    left = {tenant: sum(item.tenant == tenant for item in taken) for tenant in (one, other)}
    gap = least = most = widest = 0.0
    for item in taken:
        if not all(left.values()):
            break
        if item.tenant in left:
            left[item.tenant] -= 1
            share = item.prompt_tokens / weights[item.tenant]
            gap += share if item.tenant == one else -share
            least, most = min(least, gap), max(most, gap)
            widest = max(widest, gap - least, most - gap)
    return widest


def taken_in_order(policy: QueueingPolicy, asked: list) -> list:
    reset(policy)
    for item in asked:
        policy.push(item, 0.0)
    return [policy.pop(0.0) for _ in asked]


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_start_time_fair_queueing_keeps_the_bound_of_its_theorem_1(seed):
    taken = taken_in_order(WeightedFair(weights=WEIGHTS), backlog(seed, "abc"))
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        bound = MOST_TOKENS / WEIGHTS[one] + MOST_TOKENS / WEIGHTS[other]
        assert widest_gap(taken, one, other, WEIGHTS) <= bound + 1e-9


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 7.0, 50.0, 1000.0]))
def test_deficit_round_robin_keeps_the_bound_of_its_theorem_2(seed, quantum):
    """The quantum, and twice the largest request, over the smallest weight."""
    taken = taken_in_order(DeficitRoundRobin(quantum_tokens=quantum, weights=WEIGHTS), backlog(seed, "abc"))
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        bound = quantum + 2 * MOST_TOKENS / min(WEIGHTS[one], WEIGHTS[other])
        assert widest_gap(taken, one, other, WEIGHTS) <= bound + 1e-9


@pytest.mark.parametrize("cls", FAIR)
def test_tenants_get_shares_of_their_weights(cls):
    policy = reset(cls(weights={"a": 3.0}))
    for number in range(400):
        for tenant in "ab":
            policy.push(request(f"{tenant}{number}", tenant=tenant, prompt_tokens=512), 0.0)
    first = [policy.pop(0.0).tenant for _ in range(200)]
    assert 148 <= first.count("a") <= 152


class RoundsOneByOne(DeficitRoundRobin):
    """As the paper says it: round after round, whether anybody takes anything or not."""

    def _skip_rounds(self) -> None: ...


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 3.0, 17.0, 64.0]))
def test_deficit_round_robin_takes_what_it_would_take_round_by_round(seed, quantum):
    asked = backlog(seed, "abc", each=10)
    parameters = {"quantum_tokens": quantum, "weights": WEIGHTS}
    assert taken_in_order(DeficitRoundRobin(**parameters), asked) == taken_in_order(
        RoundsOneByOne(**parameters), asked
    )


def test_deficit_round_robin_takes_turns_as_the_paper_says():
    """The first packet of 200 leaves 300 of a quantum of 500, with which the next turn is worth 800."""
    policy = reset(DeficitRoundRobin(quantum_tokens=500.0))
    for tenant, sizes in (("one", (200, 750, 20)), ("two", (500, 500)), ("three", (600,))):
        for number, size in enumerate(sizes):
            policy.push(request(f"{tenant}{number}", tenant=tenant, prompt_tokens=size), 0.0)
    assert policy.pop(0.0).id == "one0"
    assert policy.deficits["one"] == 300
    assert [policy.pop(0.0).id for _ in range(5)] == ["two0", "one1", "one2", "two1", "three0"]


def test_when_another_tenant_leaves_nobody_has_a_turn_twice():
    policy = reset(DeficitRoundRobin(quantum_tokens=100.0))
    for tenant in "abc":
        for number in range(3):
            policy.push(request(f"{tenant}{number}", tenant=tenant, prompt_tokens=60), 0.0)
    assert policy.pop(0.0).id == "a0"
    for number in range(3):
        assert policy.remove(f"b{number}")
    assert [policy.pop(0.0).id for _ in range(4)] == ["c0", "a1", "a2", "c1"]


def test_who_comes_back_at_once_begins_where_it_finished():
    policy = reset(WeightedFair())
    for number in range(4):
        policy.push(request(f"b{number}", tenant="b", prompt_tokens=10), 0.0)
    policy.push(request("a0", tenant="a", prompt_tokens=25), 0.0)
    assert [policy.pop(0.0).id for _ in range(2)] == ["b0", "a0"]
    policy.push(request("a1", tenant="a", prompt_tokens=1), 0.0)
    assert [policy.pop(0.0).id for _ in range(4)] == ["b1", "b2", "a1", "b3"]


# --- what is charged -------------------------------------------------------------------------------------------


def ended(asked, tokens: int) -> Completion:
    return Completion(request=asked, replica="replica/0", attempt=1, output_tokens=tokens)


def fine_grained(cls: type[QueueingPolicy]) -> QueueingPolicy:
    return reset(DeficitRoundRobin(quantum_tokens=10.0) if cls is DeficitRoundRobin else cls())


@pytest.mark.parametrize("cls", FAIR)
class TestCharges:
    def test_one_tenant_alone_is_first_in_first_out(self, cls):
        policy = reset(cls())
        for number in range(50):
            policy.push(request(f"r{number}", prompt_tokens=1 + number % 7), 0.0)
        assert [policy.pop(0.0).id for _ in range(50)] == [f"r{number}" for number in range(50)]

    def test_tenants_with_long_answers_are_taken_less_often(self, cls):
        policy = fine_grained(cls)
        answers, served_tokens = {"short": 10, "long": 90}, {"short": 0, "long": 0}
        for number in range(500):
            for tenant in answers:
                policy.push(request(f"{tenant}{number}", tenant=tenant, prompt_tokens=10), 0.0)
        for _ in range(400):
            taken = policy.pop(0.0)
            policy.on_dispatched(taken, "replica/0", 0.0)
            served_tokens[taken.tenant] += 10 + answers[taken.tenant]
            policy.on_completed(ended(taken, answers[taken.tenant]), 0.0)
        assert served_tokens["short"] == pytest.approx(served_tokens["long"], rel=0.05)

    def test_what_an_answer_had_more_than_expected_is_charged_when_it_ended(self, cls):
        policy = fine_grained(cls)
        for tenant in "ab":
            for number in range(4):
                policy.push(request(f"{tenant}{number}", tenant=tenant, prompt_tokens=10), 0.0)
        taken = policy.pop(0.0)
        policy.on_completed(ended(taken, 25), 0.0)
        assert [policy.pop(0.0).tenant for _ in range(4)] == ["b", "b", "b", "b"]

    def test_a_failed_attempt_that_nobody_knows_of_teaches_nothing_and_owes_nothing(self, cls):
        policy = fine_grained(cls)
        policy.push(request("a", tenant="a", prompt_tokens=10), 0.0)
        taken = policy.pop(0.0)
        lost = Completion(request=taken, replica="replica/0", attempt=1, failure="replica-lost")
        policy.on_completed(lost, 0.0)
        assert policy.charges.cost(taken) == 10
        assert len(policy.charges) == 0

    def test_what_a_batching_policy_picks_by_name_is_charged_too(self, cls):
        policy = fine_grained(cls)
        picked = request("a0", tenant="a", prompt_tokens=1000)
        for item in (picked, *(request(f"a{n}", tenant="a", prompt_tokens=10) for n in range(1, 6))):
            policy.push(item, 0.0)
        for number in range(6):
            policy.push(request(f"b{number}", tenant="b", prompt_tokens=10), 0.0)
        assert policy.remove("a0")
        policy.on_dispatched(picked, "replica/0", 0.0)
        assert [policy.pop(0.0).tenant for _ in range(6)].count("b") >= 5

    def test_tenants_that_are_made_up_do_not_pile_up(self, cls):
        policy = reset(cls())
        for number in range(10_000):
            asked = request(f"r{number}", tenant=f"t{number}", prompt_tokens=5)
            policy.push(asked, 0.0)
            policy.on_dispatched(policy.pop(0.0), "replica/0", 0.0)
            policy.on_completed(ended(asked, 3), 0.0)
        kept = policy.deficits if cls is DeficitRoundRobin else policy.finishes
        assert len(kept) <= 1_025
        assert len(policy.charges) == 0

    def test_who_was_away_does_not_come_back_with_service_saved_up(self, cls):
        policy = fine_grained(cls)
        policy.push(request("early", tenant="away", prompt_tokens=1), 0.0)
        policy.pop(0.0)
        for number in range(30):
            policy.push(request(f"a{number}", tenant="busy", prompt_tokens=10), 0.0)
        for _ in range(10):
            policy.pop(0.0)
        for number in range(20):
            policy.push(request(f"b{number}", tenant="away", prompt_tokens=10), 0.0)
        tenants = [policy.pop(0.0).tenant for _ in range(20)]
        assert 9 <= tenants.count("away") <= 11
        assert all(tenants[n : n + 3].count("away") < 3 for n in range(18))


def test_a_group_that_nothing_is_heard_of_is_forgotten_before_others():
    means = RunningMeans(most=2)
    means.add("a", 1.0)
    means.add("b", 2.0)
    means.add("a", 3.0)
    means.add("c", 5.0)
    assert [means.mean(group) for group in "abc"] == [2.0, None, 5.0]
    assert means.mean("b", "c", "a") == 5.0
    assert len(means) == 2


def test_virtual_time_never_goes_back():
    policy = reset(WeightedFair(weights=WEIGHTS))
    rng, seen, waiting = random.Random(3), [], 0
    for number in range(2000):
        if waiting and rng.random() < 0.5:
            policy.pop(0.0)
            waiting -= 1
            seen.append(policy.virtual)
        else:
            policy.push(request(str(number), tenant=rng.choice("abc"), prompt_tokens=rng.randint(1, 50)), 0.0)
            waiting += 1
    assert all(one <= other for one, other in pairwise(seen))
