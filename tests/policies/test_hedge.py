"""Who gets a second attempt, when, and how many."""

import math
import random
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    AttemptView,
    Completion,
    Ending,
    Hedge,
    HedgeAfterPercentile,
    HedgePolicy,
    NoHedge,
    PolicyError,
    TiedRequests,
    build,
)
from policies.resilience.latency_window import LatencyWindow
from tests.policies.makers import request, reset

# --- what is known of latencies, some of which were cut short ----------------------------------------------

Seen = list[tuple[float, bool]]
"""Seconds, and whether it was cut short."""
seen = st.lists(st.tuples(st.integers(0, 9).map(float), st.booleans()), max_size=40)
shares = st.integers(1, 19).map(lambda twentieths: twentieths / 20)


def window(values: Seen, share: float, size: int = 1000) -> LatencyWindow:
    filled = LatencyWindow(size, share)
    for seconds, cut_short in values:
        filled.add(seconds, cut_short=cut_short)
    return filled


def product_limit(values: Seen, share: Fraction) -> float | None:
    """The estimate as its definition says it, in exact arithmetic."""
    ends = sorted({seconds for seconds, cut_short in values if not cut_short})
    if not ends:
        return None
    survival = Fraction(1)
    for end in ends:
        at_risk = sum(seconds >= end for seconds, _ in values)
        ended = sum(seconds == end and not cut_short for seconds, cut_short in values)
        survival *= Fraction(at_risk - ended, at_risk)
        if 1 - survival >= share:
            return end
    return max(seconds for seconds, _ in values)


@given(values=seen, twentieths=st.integers(1, 19))
def test_the_quantile_is_the_product_limit_estimate(values: Seen, twentieths: int) -> None:
    assert window(values, twentieths / 20).quantile_s == product_limit(values, Fraction(twentieths, 20))


@given(values=st.lists(st.floats(0, 100), min_size=1, max_size=60), share=shares, size=st.integers(1, 50))
def test_without_any_cut_short_it_is_the_plain_quantile_of_the_last(
    values: list[float], share: float, size: int
) -> None:
    last = sorted(values[-size:])
    expected = last[math.ceil(share * len(last) - 1e-9) - 1]
    assert window([(value, False) for value in values], share, size).quantile_s == expected


@given(values=seen, more=seen, size=st.integers(1, 30), share=shares)
def test_what_has_left_the_window_is_forgotten(values: Seen, more: Seen, size: int, share: float) -> None:
    last = (values + more)[-size:]
    filled = window(values + more, share, size)
    assert len(filled) == len(last)
    assert filled.quantile_s == window(last, share, size).quantile_s


def test_by_hand() -> None:
    """1, 2, more than 3, 4: after 2 half are left, and all of those end at 4."""
    values = [(1.0, False), (2.0, False), (3.0, True), (4.0, False)]
    assert [window(values, share).quantile_s for share in (0.25, 0.5, 0.51, 0.99)] == [1.0, 2.0, 4.0, 4.0]


def test_the_longest_counts_as_having_ended_and_without_any_end_nothing_is_known() -> None:
    assert window([(1.0, False), (7.0, True), (5.0, True)], 0.9).quantile_s == 7.0
    assert window([(7.0, True)], 0.9).quantile_s is None
    assert window([], 0.9).quantile_s is None


def test_what_was_cut_short_at_once_says_nothing() -> None:
    long = [(float(number), False) for number in range(1, 101)]
    assert window(long + [(0.0, True)] * 100, 0.95).quantile_s == 95.0


def test_the_estimate_is_taken_anew_with_each_hundredth_of_the_window() -> None:
    filled = window([(1.0, False)] * 1000, 0.5)
    assert filled.quantile_s == 1.0
    estimates = []
    for _ in range(1000):
        filled.add(9.0, cut_short=False)
        estimates.append(filled.quantile_s)
    first = estimates.index(9.0)
    assert 500 <= first + 1 <= 510
    assert set(estimates[first:]) == {9.0}


# --- HedgeAfterPercentile ----------------------------------------------------------------------------------


def attempt(role: str = "primary", sent_s: float = 0.0, **fields: Any) -> AttemptView:
    return AttemptView(
        role=role, replica=fields.pop("replica", "replica/0"), pool="default", sent_s=sent_s, **fields
    )  # type: ignore[arg-type]


class Served:
    """Tells a policy of attempts that were sent and that ended."""

    def __init__(self, policy: HedgePolicy) -> None:
        self.policy = reset(policy)
        self.count = 0

    def __call__(
        self, took_s: float, failure: Any = None, role: Any = "primary", sent_s: float = 0.0, times: int = 1
    ) -> None:
        for _ in range(times):
            self.count += 1
            one = request(f"r{self.count}")
            self.policy.on_dispatched(one, "replica/0", sent_s)
            done = Completion(request=one, replica="replica/0", attempt=1, failure=failure, role=role)
            self.policy.on_completed(done, sent_s + took_s)
            self.ends(one.id)

    def ends(self, name: str) -> None:
        self.policy.on_request_ended(
            Ending(request=request(name), outcome="completed", attempts=1, e2e_s=0.0), 0.0
        )

    def after_s(self, *attempts: AttemptView, name: str = "new", now_s: float = 0.0) -> float | None:
        answer = self.policy.after_s(request(name), attempts or (attempt(),), now_s)
        return None if answer is None else answer.after_s


def test_no_hedge_adds_none() -> None:
    assert Served(NoHedge()).after_s() is None


def test_it_hedges_after_the_percentile_of_attempts() -> None:
    served = Served(HedgeAfterPercentile(percentile=0.9, min_samples=10))
    for number in range(1, 11):
        assert served.after_s() is None
        served(0.1 * number)
    assert served.after_s() == pytest.approx(0.9)


def test_an_attempt_takes_as_long_as_it_was_out_whenever_its_request_arrived() -> None:
    served = Served(HedgeAfterPercentile(min_samples=1))
    served(2.0, sent_s=1000.0)
    assert served.after_s() == 2.0


def test_the_time_runs_from_when_the_last_attempt_was_sent() -> None:
    served = Served(HedgeAfterPercentile(min_samples=1, max_hedges=3))
    served(2.0)
    primary, hedge = attempt(sent_s=10.0), attempt("hedge", sent_s=12.0)
    assert served.after_s(primary, now_s=10.5) == 1.5
    assert served.after_s(primary, now_s=99.0) == 0.0
    assert served.after_s(primary, hedge, now_s=12.0) == 2.0


def test_only_primary_attempts_are_learnt_from() -> None:
    served = Served(HedgeAfterPercentile(min_samples=1))
    for role in ("retry", "hedge", "tied", "shadow", "escalation"):
        served(5.0, role=role)
    assert served.after_s() is None
    served(1.0)
    assert served.after_s() == 1.0


def test_the_first_hedge_comes_after_so_many_answers() -> None:
    served = Served(HedgeAfterPercentile(min_samples=3))
    served(1.0, failure="engine-error", times=50)
    served(1.0, times=2)
    assert served.after_s() is None
    served(1.0)
    assert served.after_s() == 1.0


def test_one_that_was_withdrawn_took_at_least_as_long_as_it_was_out() -> None:
    """Of twenty, two were withdrawn beyond the others: left out, the 95th percentile would be 1.8."""
    served = Served(HedgeAfterPercentile(min_samples=1))
    for number in range(1, 19):
        served(0.1 * number)
    served(2.5, failure="withdrawn")
    served(3.0, failure="timed-out")
    assert served.after_s() == 3.0


def test_of_an_answer_in_tokens_the_first_one_counts() -> None:
    served = Served(HedgeAfterPercentile(min_samples=1))
    one = request("streams")
    served.policy.on_dispatched(one, "replica/0", 1.0)
    served.policy.on_first_token(one, "replica/0", 1.25)
    gone = Completion(request=one, replica="replica/0", attempt=1, failure="withdrawn")
    served.policy.on_completed(gone, 60.0)
    served(0.25)
    assert served.after_s() == 0.25


def percentile_after(
    seed: int, fates: Any, requests: int = 30_000, percentile: float = 0.95
) -> tuple[float, float]:
    """What it learns of attempts whose seconds `fates` draws, and the fraction of requests that it hedged.

    `fates(rng, after_s)`: seconds until the primary attempt ends, and its failure, if a hedge is sent after so long.
    """
    rng, hedged = random.Random(seed), 0
    served = Served(HedgeAfterPercentile(percentile=percentile, window=10_000))
    for _ in range(requests):
        after_s = served.after_s()
        took_s, failure = fates(rng, math.inf if after_s is None else after_s)
        hedged += after_s is not None and took_s > after_s
        served(took_s, failure)
    estimate_s = served.after_s()
    assert estimate_s is not None
    return estimate_s, hedged / requests


# Of exponential latencies with mean 1 the 95th percentile is ln 20 = 3.00. The standard error of its estimate from
# 10,000 is sqrt(0.05 · 0.95 / 10,000) / 0.05 = 0.044, and twice that where half are cut short; 0.25 is over two.
LN_20 = math.log(20.0)


def test_hedges_that_win_do_not_move_the_percentile_and_one_in_twenty_is_hedged() -> None:
    """Left out, those that lose against their hedges would take the estimate down until half are hedged."""

    def race(rng: random.Random, after_s: float) -> tuple[float, str | None]:
        primary_s, hedge_s = rng.expovariate(1.0), after_s + rng.expovariate(4.0)
        return (primary_s, None) if primary_s <= hedge_s else (hedge_s, "withdrawn")

    estimate_s, hedged = percentile_after(1, race)
    assert estimate_s == pytest.approx(LN_20, abs=0.2)
    # Of 30,000 Bernoulli draws with 0.05; the estimate's own error adds 0.05 · 0.044 / 1 = 0.002.
    assert hedged == pytest.approx(0.05, abs=0.008)


def test_clients_that_leave_do_not_move_the_percentile() -> None:
    """The longer a request takes, the likelier its client leaves: half of them, and the slow ones first."""

    def leave(rng: random.Random, after_s: float) -> tuple[float, str | None]:
        answer_s, patience_s = rng.expovariate(1.0), rng.expovariate(0.5)
        return (answer_s, None) if answer_s <= patience_s else (patience_s, "withdrawn")

    assert percentile_after(1, leave)[0] == pytest.approx(LN_20, abs=0.25)


def test_what_fails_at_once_does_not_move_the_percentile() -> None:
    def fail(rng: random.Random, after_s: float) -> tuple[float, str | None]:
        return (0.001, "engine-error") if rng.random() < 0.5 else (rng.expovariate(1.0), None)

    assert percentile_after(1, fail)[0] == pytest.approx(LN_20, abs=0.25)


def test_a_request_gets_no_more_hedges_than_it_may_however_they_end() -> None:
    served = Served(HedgeAfterPercentile(min_samples=1, max_hedges=2))
    served(1.0)
    primary = attempt()
    assert served.after_s(primary) == 1.0
    assert served.after_s(primary, attempt("hedge")) == 1.0
    assert served.after_s(primary, attempt("hedge"), attempt("hedge")) is None
    lost = Completion(
        request=request("new"), replica="replica/1", attempt=2, failure="engine-error", role="hedge"
    )
    served.policy.on_completed(lost, 1.0)
    assert served.after_s(primary) == 1.0
    assert served.after_s(primary, attempt("hedge")) is None
    served.policy.on_completed(lost, 1.0)
    assert served.after_s(attempt("retry")) is None
    assert served.after_s(name="another") == 1.0


def test_nothing_is_kept_of_requests_that_have_ended() -> None:
    policy = HedgeAfterPercentile(window=10)
    served = Served(policy)
    served(1.0, times=100)
    served(1.0, role="hedge", times=100)
    assert len(policy.attempts) == len(policy.spent) == 0
    assert len(policy.latencies) == 10


# --- TiedRequests ------------------------------------------------------------------------------------------


def test_a_tied_request_waits_in_two_queues() -> None:
    policy = reset(TiedRequests())
    first = attempt(sent_s=5.0)
    assert policy.after_s(request(), [first], 5.0) == Hedge(0.0, tied=True)
    assert policy.after_s(request(), [first, attempt("tied", 5.0, replica="replica/1")], 5.0) is None


def test_each_copy_comes_a_delay_after_the_last_one() -> None:
    policy = reset(TiedRequests(copies=3, delay_s=0.25))
    copies = [attempt(sent_s=5.0)]
    for sent_s in (5.0, 5.25):
        answer = policy.after_s(request(), copies, sent_s)
        assert answer == Hedge(0.25, tied=True)
        copies.append(attempt("tied", sent_s + 0.25))
    assert policy.after_s(request(), copies, 5.5) is None


def test_what_runs_gets_no_more_copies() -> None:
    policy = reset(TiedRequests(copies=5))
    assert policy.after_s(request(), [attempt(started_s=1.0)], 1.0) is None
    waits_again = policy.after_s(request(), [attempt("retry", 2.0)], 2.0)
    assert waits_again == Hedge(0.0, tied=True)


# --- budgets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "ratio"), [(NoHedge(), None), (HedgeAfterPercentile(), 0.1), (TiedRequests(), 1.0)]
)
def test_a_budget_is_a_parameter_of_those_that_have_one(policy: HedgePolicy, ratio: float | None) -> None:
    assert policy.budget_ratio == ratio
    assert policy.parameters().get("budget_ratio") == ratio


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (
            {"policy": "hedge-after-percentile", "budget_ratio": -0.1},
            "$.hedge.budget_ratio: Expected `float` >= 0.0",
        ),
        (
            {"policy": "hedge-after-percentile", "percentile": 1.0},
            "$.hedge.percentile: Expected `float` < 1.0",
        ),
        ({"policy": "tied-requests", "copies": 1}, "$.hedge.copies: Expected `int` >= 2"),
    ],
)
def test_what_cannot_be_is_refused(table: dict[str, Any], says: str) -> None:
    with pytest.raises(PolicyError) as caught:
        build(HedgePolicy, table, "$.hedge")
    assert str(caught.value) == says
