"""Who tries again, when, and for how long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import ExponentialBackoff, Failure, GiveUp, NoRetry, Retry
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
