"""Who tries again, when, and for how long."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    AttemptTimeout,
    Completion,
    ExponentialBackoff,
    Failure,
    GiveUp,
    NoRetry,
    PolicyError,
    Request,
    Retry,
    RetryPolicy,
    build,
)
from policies.base import listeners
from tests.policies.makers import failure, request, reset


def delays(policy: ExponentialBackoff, attempts: int, completions: int = 0) -> list[float | None]:
    answers = [
        policy.after_failure(request(), failure(attempt, completions=completions), 0.0)
        for attempt in range(1, attempts + 1)
    ]
    return [answer.after_s if isinstance(answer, Retry) else None for answer in answers]


def test_no_retry_gives_up_at_once() -> None:
    assert NoRetry().after_failure(request(), failure(1), 0.0) == GiveUp("no retries")


def test_delays_double_up_to_the_cap_and_attempts_end() -> None:
    policy = reset(ExponentialBackoff(base_s=0.125, cap_s=1.0, jitter="none", max_attempts=6))
    assert delays(policy, 6) == [0.125, 0.25, 0.5, 1.0, 1.0, None]


def test_it_keeps_away_from_the_replica_that_failed() -> None:
    policy = reset(ExponentialBackoff())
    answer = policy.after_failure(request(), failure(1, "replica/7"), 0.0)
    assert isinstance(answer, Retry)
    assert answer.exclude == ("replica/7",)
    nowhere = policy.after_failure(request(), failure(1, None), 0.0)
    assert isinstance(nowhere, Retry)
    assert nowhere.exclude == ()


@pytest.mark.parametrize(("jitter", "least", "mean"), [("full", 0.0, 0.5), ("equal", 0.5, 0.75)])
def test_jitter_is_uniform_over_its_range(jitter: str, least: float, mean: float) -> None:
    policy = reset(ExponentialBackoff(base_s=1.0, jitter=jitter, budget_ratio=None))  # type: ignore[arg-type]
    drawn = [delays(policy, 1)[0] or 0.0 for _ in range(10_000)]
    assert least <= min(drawn) <= max(drawn) < 1.0
    # Five standard errors of the mean of 10,000 uniform draws over an interval of at most 1.
    assert sum(drawn) / len(drawn) == pytest.approx(mean, abs=0.015)


class TestBudget:
    def test_it_runs_out_and_completions_refill_it(self) -> None:
        policy = reset(ExponentialBackoff(budget_tokens=2.0, budget_ratio=0.5, jitter="none"))
        assert [delay is not None for delay in (delays(policy, 1) + delays(policy, 1) + delays(policy, 1))] == [
            True, True, False,
        ]  # fmt: skip
        assert delays(policy, 1, completions=1) == [None]
        assert delays(policy, 1, completions=2) == [0.05]
        assert delays(policy, 1, completions=3) == [None]

    def test_it_holds_no_more_than_its_tokens_however_much_completes(self) -> None:
        policy = reset(ExponentialBackoff(budget_tokens=2.0, budget_ratio=0.5, jitter="none"))
        assert [delays(policy, 1, completions=1_000)[0] is not None for _ in range(3)] == [True, True, False]

    def test_the_budget_costs_nothing_while_all_goes_well(self) -> None:
        assert listeners(ExponentialBackoff(), "on_completed") == []

    def test_no_ratio_means_no_budget(self) -> None:
        policy = reset(ExponentialBackoff(budget_tokens=0.0, budget_ratio=None))
        assert all(delays(policy, 1)[0] is not None for _ in range(1000))

    @given(
        events=st.lists(st.booleans(), max_size=200),
        ratio=st.floats(0, 1),
        tokens=st.floats(0, 20),
    )
    def test_retries_never_exceed_what_was_saved_and_earned(
        self, events: list[bool], ratio: float, tokens: float
    ) -> None:
        policy = reset(ExponentialBackoff(budget_ratio=ratio, budget_tokens=tokens))
        retries = completions = 0
        for completes in events:
            if completes:
                completions += 1
            elif isinstance(policy.after_failure(request(), failure(1, None, completions), 0.0), Retry):
                retries += 1
            assert retries <= tokens + ratio * completions + 1e-6


def test_what_a_replica_refuses_is_not_tried_elsewhere() -> None:
    policy = reset(ExponentialBackoff())
    refused = Failure(kind="refused", attempt=1, replica="replica/0")
    assert isinstance(policy.after_failure(request(), refused, 0.0), GiveUp)


# --- a limit for each attempt ------------------------------------------------------------------------------


class Patient(RetryPolicy):
    """Gives each attempt a second more than the one before, tries again at once, and counts what it hears."""

    def reset(self, rng: random.Random) -> None:
        self.heard = 0

    def after_failure(self, request: Request, failure: Failure, now_s: float) -> Retry | GiveUp:
        return Retry() if failure.attempt < 5 else GiveUp("five")

    def attempt_limit_s(self, request: Request, attempt: int, now_s: float) -> float:
        return float(attempt)

    def on_completed(self, completion: Completion, now_s: float) -> None:
        self.heard += 1


def test_a_limit_is_the_same_for_every_attempt() -> None:
    policy = reset(AttemptTimeout(limit_s=2.5))
    assert [policy.attempt_limit_s(request(), attempt, 99.0) for attempt in (1, 2, 50)] == [2.5, 2.5, 2.5]


def test_of_two_limits_the_shorter_one_counts() -> None:
    policy = reset(AttemptTimeout(limit_s=2.5, retry=Patient()))
    assert [policy.attempt_limit_s(request(), attempt, 0.0) for attempt in (1, 2, 3)] == [1.0, 2.0, 2.5]


def test_without_a_limit_an_attempt_takes_as_long_as_it_takes() -> None:
    assert ExponentialBackoff().attempt_limit_s(request(), 1, 0.0) is None


@pytest.mark.parametrize(
    "inner", [NoRetry(), Patient(), ExponentialBackoff(budget_tokens=3.0, max_attempts=9)]
)
def test_what_is_done_after_a_failure_is_what_the_inner_policy_says(inner: RetryPolicy) -> None:
    alone, within = reset(inner.fresh(), 7), reset(AttemptTimeout(retry=inner), 7)
    for attempt in range(1, 9):
        late = Failure(kind="timed-out", attempt=attempt, replica="replica/0")
        assert within.after_failure(request(), late, 0.0) == alone.after_failure(request(), late, 0.0)


def test_the_inner_policy_hears_and_is_reset_with_it() -> None:
    policy = reset(AttemptTimeout(retry=Patient()))
    assert isinstance(policy.retry, Patient)
    for hook in listeners(policy, "on_completed"):
        hook(Completion(request=request(), replica="replica/0", attempt=1), 0.0)
    assert policy.retry.heard == 1
    assert reset(policy).retry.heard == 0
    assert listeners(AttemptTimeout(), "on_completed") == []


def test_it_is_written_with_what_it_wraps() -> None:
    table = {"policy": "attempt-timeout", "limit_s": 2, "retry": {"policy": "no-retry"}}
    assert build(RetryPolicy, table, "$.retry") == AttemptTimeout(limit_s=2.0, retry=NoRetry())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"limit_s": 0.0}, "$.retry.limit_s: Expected `float` > 0.0"),
        ({"retry": {"policy": "fifo"}}, "$.retry.retry.policy: there is no retry policy `fifo`"),
        ({"retry": {"policy": "exponential-backoff", "factor": 0}}, "$.retry.retry.factor: Expected"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PolicyError) as caught:
        build(RetryPolicy, {"policy": "attempt-timeout", **changes}, "$.retry")
    assert str(caught.value).startswith(says)


def test_an_oracle_within_makes_an_oracle_of_the_whole() -> None:
    class Seer(NoRetry):
        oracle = True

    with pytest.raises(ValueError, match="a part is an oracle; use a subclass of AttemptTimeout"):
        AttemptTimeout(retry=Seer())
