"""Finagle's retry budget: how many retries there may be, whatever fails."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Ending, ExponentialBackoff, GiveUp, NoRetry, PolicyError, Retry, RetryPolicy, build
from policies.resilience.attempt_timeout import AttemptTimeout
from policies.resilience.retry_budget import SLICES, RetryBudget
from policies.testing import parametrize_with_checks
from tests.policies.makers import failure, request, reset


@parametrize_with_checks(
    [
        RetryBudget,
        lambda: RetryBudget(ttl_s=1.0, min_retries_per_s=0.0, percent_can_retry=1000.0),
        lambda: RetryBudget(
            ttl_s=60.0, min_retries_per_s=500.0, percent_can_retry=0.0, retry=AttemptTimeout(limit_s=3.0)
        ),
    ]
)
def test_conformance(check: Any) -> None:
    check()


class AlwaysAgain(RetryPolicy):
    """Never gives up, so that the budget alone decides."""

    def after_failure(self, request: object, failure: object, now_s: float) -> Retry:
        return Retry()


def budget(**fields: Any) -> RetryBudget:
    return reset(RetryBudget(retry=AlwaysAgain(), **fields))


def ask(policy: RetryBudget, now_s: float, name: str = "r") -> bool:
    """A retry was granted, and sent."""
    granted = isinstance(policy.after_failure(request(name), failure(1), now_s), Retry)
    if granted:
        policy.on_dispatched(request(name), "replica/0", now_s)
    return granted


def granted(policy: RetryBudget, now_s: float, most: int = 10_000) -> int:
    count = 0
    while count < most and ask(policy, now_s):
        count += 1
    return count


def test_one_that_just_began_has_the_reserve_and_no_more() -> None:
    assert granted(budget(), 0.0) == 100  # 10 a second for 10 s


def test_five_requests_are_one_retry() -> None:
    policy = budget(min_retries_per_s=0.0)
    earned = []
    for number in range(25):
        policy.on_dispatched(request(str(number)), "replica/0", 1.0)
        earned.append(granted(policy, 1.0))
    assert earned == [0, 0, 0, 0, 1] * 5


def test_what_was_deposited_is_forgotten_after_the_time_to_live() -> None:
    for later_s, expected in ((8.9, 20), (10.1, 0)):
        policy = budget(min_retries_per_s=0.0)
        for number in range(100):
            policy.on_dispatched(request(str(number)), "replica/0", 0.0)
        assert granted(policy, later_s) == expected


def test_the_reserve_comes_back_when_what_it_gave_is_forgotten() -> None:
    policy = budget(percent_can_retry=0.0)
    assert [granted(policy, at_s) for at_s in (0.0, 5.0, 9.9, 10.1, 11.0)] == [100, 0, 0, 100, 0]


def test_a_retry_that_is_sent_is_no_new_request() -> None:
    policy = budget(min_retries_per_s=0.0, percent_can_retry=1.0)
    policy.on_dispatched(request("r"), "replica/0", 0.0)
    assert granted(policy, 0.0) == 1


def test_a_retry_that_the_other_policy_would_not_make_costs_nothing() -> None:
    policy = reset(RetryBudget(retry=NoRetry()))
    before = policy.balance(0.0)
    assert policy.after_failure(request(), failure(1), 0.0) == GiveUp("no retries")
    assert policy.balance(0.0) == before


def test_what_is_retried_and_then_ends_is_forgotten() -> None:
    policy = budget()
    policy.after_failure(request("r"), failure(1), 0.0)
    policy.on_request_ended(Ending(request=request("r"), outcome="cancelled", attempts=1, e2e_s=1.0), 1.0)
    assert not policy.retrying


def test_the_limit_of_an_attempt_is_that_of_the_other_policy() -> None:
    policy = reset(RetryBudget(retry=AttemptTimeout(limit_s=3.0)))
    assert policy.attempt_limit_s(request(), 1, 0.0) == 3.0
    assert reset(RetryBudget()).attempt_limit_s(request(), 1, 0.0) is None


@given(
    seed=st.integers(0, 10_000), rate_per_s=st.sampled_from([0.5, 20.0]),
    min_retries_per_s=st.sampled_from([0.0, 0.5, 3.0]), percent=st.sampled_from([0.0, 0.2, 2.0]),
)  # fmt: skip
def test_whatever_fails_retries_stay_below_the_reserve_and_their_part_of_requests(
    seed: int, rate_per_s: float, min_retries_per_s: float, percent: float
) -> None:
    rng, ttl_s = random.Random(seed), 2.0
    policy = budget(ttl_s=ttl_s, min_retries_per_s=min_retries_per_s, percent_can_retry=percent)
    now_s, sent, retried = 0.0, [], []
    for number in range(200):
        now_s += rng.expovariate(rate_per_s)
        policy.on_dispatched(request(str(number)), "replica/0", now_s)
        sent.append(now_s)
        for _ in range(rng.choice([0, 1, 1, 20])):
            if ask(policy, now_s, str(number)):
                retried.append(now_s)
    assert retried or not min_retries_per_s
    for end_s in retried:
        within = sum(end_s - ttl_s * (SLICES - 1) / SLICES <= at_s <= end_s for at_s in retried)
        requests = sum(end_s - ttl_s <= at_s <= end_s for at_s in sent)
        assert within <= min_retries_per_s * ttl_s + percent * requests + 1e-6


@given(outage=st.integers(200, 600))
def test_in_a_long_outage_it_goes_on_with_a_fifth_more_load(outage: int) -> None:
    policy, retries = budget(min_retries_per_s=0.0, ttl_s=10.0), 0
    for number in range(outage):
        policy.on_dispatched(request(str(number)), "replica/0", number / 10)
        retries += ask(policy, number / 10, str(number))
    assert retries == pytest.approx(outage * 0.2, abs=1)


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"ttl_s": 61.0}, r"\$\.retry\.ttl_s"),
        ({"percent_can_retry": -0.1}, r"\$\.retry\.percent_can_retry"),
        ({"retry": {"policy": "exponential-backoff", "base_s": -1.0}}, r"\$\.retry\.retry\.base_s"),
    ],
)
def test_bad_parameters_are_named(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyError, match=path):
        build(RetryPolicy, {"policy": "retry-budget", **parameters}, "$.retry")


def test_the_default_inside_has_no_budget_of_its_own() -> None:
    inner = RetryBudget().retry
    assert isinstance(inner, ExponentialBackoff)
    assert inner.budget_ratio is None
