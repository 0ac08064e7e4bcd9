"""The kit on hedges, breakers and limits of attempts: it catches who breaks the contract, and reaches what is rare."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from policies import (
    AttemptView,
    BreakerPolicy,
    CircuitBreaker,
    Hedge,
    HedgeAfterPercentile,
    HedgePolicy,
    Hold,
    NoRetry,
    OutlierEjection,
    Policy,
    Reject,
    ReplicaView,
    Request,
    Route,
    TiedRequests,
)
from policies._conformance.drive import answers
from policies.testing import check_policy
from tests.policies.makers import reset
from tests.policies.test_conformance_kit import failed_checks

# --- hedge -------------------------------------------------------------------------------------------------


def hedging(decide: Callable[..., object]) -> type[HedgePolicy]:
    """A hedge policy that answers like this as long as a request has one attempt."""

    class Sketch(HedgePolicy):
        def after_s(self, request: Request, attempts: Sequence[AttemptView], now_s: float) -> Any:
            return decide(attempts, now_s) if len(attempts) == 1 else None

    return Sketch


def test_the_one_that_the_violators_are_made_of_is_right() -> None:
    check_policy(hedging(lambda attempts, now_s: Hedge(0.1, exclude=(attempts[0].replica,))))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (0.1, "expected Hedge or None"),
        (Hedge(-0.1), "`after_s` must be a finite number of seconds, 0 or more"),
        (Hedge(math.inf), "`after_s` must be a finite number"),
        (Hedge(math.nan), "`after_s` must be a finite number"),
        (Hedge(None), "`after_s` must be a finite number"),  # type: ignore[arg-type]
        (Hedge(0.1, exclude=["replica/0"]), "`exclude` must be a tuple of replica ids"),  # type: ignore[arg-type]
        (Hedge(0.1, exclude=(0,)), "`exclude` must be a tuple of replica ids"),  # type: ignore[arg-type]
        (Hedge(0.1, tied=None), "`tied` must be True or False"),  # type: ignore[arg-type]
    ],
)
def test_an_answer_that_is_no_hedge_is_caught(answer: object, says: str) -> None:
    assert says in failed_checks(hedging(lambda *_: answer))["answers"]


@pytest.mark.parametrize("budget", [-0.1, math.inf, "much"])
def test_a_budget_that_is_no_share_is_caught(budget: Any) -> None:
    class Rich(hedging(lambda *_: None)):  # type: ignore[misc]
        @property
        def budget_ratio(self) -> Any:
            return budget

    assert "expected attempts added over requests let in" in failed_checks(Rich)["answers"]


def test_one_that_adds_attempts_without_end_is_caught() -> None:
    class Eager(HedgePolicy):
        def after_s(self, request: Request, attempts: Sequence[AttemptView], now_s: float) -> Hedge:
            return Hedge(0.1)

    failed = failed_checks(Eager)
    assert failed.keys() == {"stops"}
    assert "it gave one request 100 more attempts" in failed["stops"]


def test_one_that_adds_without_end_only_once_it_knows_something_is_caught() -> None:
    class Learns(HedgePolicy):
        def reset(self, rng: Any) -> None:
            self.known = 0

        def after_s(self, request: Request, attempts: Sequence[AttemptView], now_s: float) -> Hedge | None:
            return Hedge(0.1, tied=True) if self.known >= 1000 else None

        def on_completed(self, completion: Any, now_s: float) -> None:
            self.known += 1

    assert "stops" in failed_checks(Learns)


# --- breaker -----------------------------------------------------------------------------------------------


class Never(BreakerPolicy):
    """Allows nobody."""

    def allows(self, replica: ReplicaView, now_s: float) -> Any:
        return False


def none_allowed(answer: object) -> type[BreakerPolicy]:
    class Sketch(Never):
        def none_allowed(self, request: Request, replicas: Any, now_s: float) -> Any:
            return Hold(now_s - 1.0) if answer is Hold else answer

    return Sketch


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Route("replica/0"), "expected Hold, Reject or None"),
        (False, "expected Hold, Reject or None"),
        (Hold, "`until_s` must be a time after `now_s`"),
        (Hold(math.inf), "`until_s` must be a time after `now_s`"),
    ],
)
def test_an_answer_that_leaves_a_request_nowhere_is_caught(answer: object, says: str) -> None:
    assert says in failed_checks(none_allowed(answer))["answers"]


@pytest.mark.parametrize("answer", [None, Reject()])
def test_one_that_never_allows_a_replica_again_is_caught(answer: object) -> None:
    failed = failed_checks(none_allowed(answer))
    assert failed.keys() == {"recovers"}
    assert "still does not allow a replica" in failed["recovers"]


def test_an_answer_that_is_neither_true_nor_false_is_caught() -> None:
    class Counts(Never):
        def allows(self, replica: ReplicaView, now_s: float) -> Any:
            return replica.in_flight

    assert "expected True or False" in failed_checks(Counts)["answers"]


def test_one_that_counts_how_often_it_is_asked_is_caught() -> None:
    class Rations(BreakerPolicy):
        """Every tenth question of a replica is answered with no."""

        def reset(self, rng: Any) -> None:
            self.asked: Counter[str] = Counter()

        def allows(self, replica: ReplicaView, now_s: float) -> bool:
            self.asked[replica.id] += 1
            return self.asked[replica.id] % 10 != 0

    said = failed_checks(Rations)["asking_changes_nothing"]
    assert "twice in a row; count attempts in `on_dispatched`" in said


def test_one_whose_later_answers_depend_on_how_often_it_was_asked_is_caught() -> None:
    class Tires(BreakerPolicy):
        """Says the same twice in a row, and has forgotten after the next attempt."""

        def reset(self, rng: Any) -> None:
            self.asked = self.shown = 0

        def allows(self, replica: ReplicaView, now_s: float) -> bool:
            self.asked += 1
            return self.shown % 7 < 3

        def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
            self.shown = self.asked

    said = failed_checks(Tires)["asking_changes_nothing"]
    assert "when it is asked of each replica once, and not twice" in said


# --- limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit_s", [0, 0.0, -1.0, math.inf, math.nan, True, "1"])
def test_a_limit_that_no_attempt_can_have_is_caught(limit_s: Any) -> None:
    class Limits(NoRetry):
        def attempt_limit_s(self, request: Request, attempt: int, now_s: float) -> Any:
            return limit_s

    assert "expected a finite number of seconds above 0, or None" in failed_checks(Limits)["limits"]


def test_a_limit_that_changes_when_all_is_the_same_is_caught() -> None:
    class Moody(NoRetry):
        asked = [0]  # on the class, and so shared

        def attempt_limit_s(self, request: Request, attempt: int, now_s: float) -> float:
            self.asked[0] += 1
            return float(self.asked[0])

    assert "is_deterministic" in failed_checks(Moody)


# --- what the drives reach ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (HedgeAfterPercentile(), {"after_s None", "after_s Hedge"}),
        (TiedRequests(), {"after_s None", "after_s Hedge"}),
        (CircuitBreaker(), {"allows True", "allows False", "none_allowed Reject"}),
        (OutlierEjection(), {"allows True", "allows False", "none_allowed None"}),
        (
            OutlierEjection(consecutive_failures=2, max_ejected_fraction=1.0),
            {"allows True", "allows False", "none_allowed None"},
        ),
    ],
)
def test_every_kind_of_answer_of_the_shipped_ones_is_met(policy: Policy, expected: set[str]) -> None:
    met = {
        f"{question.partition('(')[0]} {answer if answer in (None, True, False) else type(answer).__name__}"
        for seed in (1, 2, 3)
        for question, answer in answers(reset(policy), seed)
    }
    assert met == expected


def test_a_request_never_has_two_attempts_at_one_replica_and_each_ends_once() -> None:
    live: list[tuple[str, str]] = []
    roles: set[str] = set()

    class Watches(TiedRequests):
        def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
            assert (request.id, replica) not in live
            live.append((request.id, replica))

        def on_completed(self, completion: Any, now_s: float) -> None:
            live.remove((completion.request.id, completion.replica))
            roles.add(completion.role)

        def on_request_ended(self, ending: Any, now_s: float) -> None:
            assert not [name for name, _ in live if name == ending.request.id]

    for seed in range(1, 6):
        live.clear()
        answers(Watches(copies=3), seed)
    assert roles == {"primary", "retry", "tied"}
