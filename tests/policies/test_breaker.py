"""Which replicas may be asked, which may not, and for how long."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    BreakerPolicy,
    CircuitBreaker,
    Completion,
    NoBreaker,
    OutlierEjection,
    PolicyError,
    Reject,
    ReplicaView,
    build,
)
from tests.policies.makers import replicas, request, reset

ZERO = "replica/0"


class Fleet:
    """Sends attempts to replicas and tells a breaker what came of them, at times that the test sets."""

    def __init__(self, policy: BreakerPolicy, count: int = 1) -> None:
        self.policy = reset(policy)
        self.now_s = 0.0
        self.sent = 0
        self.out: dict[str, str] = {}
        """The replica of each attempt that has not ended."""
        self.has(count)

    def has(self, count: int) -> None:
        """These replicas, and no others."""
        self.policy.on_replicas(replicas(*[0] * count), self.now_s)

    def away(self, for_s: float) -> None:
        """No replica may be chosen for so long, and then the first one may."""
        self.has(0)
        self.now_s += for_s
        self.has(1)

    def allows(self, replica: str = ZERO) -> bool:
        return self.policy.allows(ReplicaView(id=replica), self.now_s)

    def sends(self, replica: str = ZERO) -> str:
        self.sent += 1
        name = f"r{self.sent}"
        self.out[name] = replica
        self.policy.on_dispatched(request(name), replica, self.now_s)
        return name

    def ends(self, name: str, failure: Any = None) -> None:
        done = Completion(request=request(name), replica=self.out.pop(name), attempt=1, failure=failure)
        self.policy.on_completed(done, self.now_s)

    def serves(self, outcomes: str, replica: str = ZERO, took_s: float = 0.0) -> None:
        """One letter an attempt: `.` good, `x` failed, `w` withdrawn, `r` refused, `o` overloaded."""
        failures = {".": None, "x": "engine-error", "w": "withdrawn", "r": "refused", "o": "overloaded"}
        for letter in outcomes:
            name = self.sends(replica)
            self.now_s += took_s
            self.ends(name, failures[letter])


def test_no_breaker_allows_all() -> None:
    fleet = Fleet(NoBreaker())
    fleet.serves("x" * 1000)
    assert fleet.allows()


# --- CircuitBreaker: closed --------------------------------------------------------------------------------


def breaker(**parameters: Any) -> CircuitBreaker:
    return CircuitBreaker(**{"window": 10, "min_calls": 4, "open_s": 5.0, **parameters})


@pytest.mark.parametrize(
    ("outcomes", "allowed"),
    [
        ("xxx", True),  # too few to judge
        ("xxxx", False),
        ("..xx", False),  # half of four
        ("...xx", True),  # two of five
        ("...xxx", False),
        ("." * 20 + "xxxx", True),
        ("." * 20 + "xxxxx", False),  # of the last ten
        ("xxxwwww", True),  # what was withdrawn is none
        ("xxxroro", True),
    ],
)
def test_it_opens_when_the_fraction_of_failures_reaches_the_threshold(outcomes: str, allowed: bool) -> None:
    fleet = Fleet(breaker())
    fleet.serves(outcomes)
    assert fleet.allows() is allowed


def test_it_opens_at_the_very_threshold_whatever_its_binary_form() -> None:
    fleet = Fleet(breaker(window=30, min_calls=30, failure_threshold=0.1))
    fleet.serves("." * 27 + "xxx")
    assert not fleet.allows()


@pytest.mark.parametrize(
    ("parameters", "took_s", "allowed"),
    [
        ({}, 1e6, True),  # slowness is not judged
        ({"slow_after_s": 1.0}, 1.0, True),
        ({"slow_after_s": 1.0}, 1.001, False),
    ],
)
def test_it_opens_when_all_are_slow(parameters: dict[str, float], took_s: float, allowed: bool) -> None:
    fleet = Fleet(breaker(**parameters))
    fleet.serves("....", took_s=took_s)
    assert fleet.allows() is allowed


def test_it_opens_when_the_fraction_of_slow_ones_reaches_its_threshold() -> None:
    fleet = Fleet(breaker(slow_after_s=1.0, slow_threshold=0.4, failure_threshold=None))
    fleet.serves("xxxxxx")
    assert fleet.allows()
    fleet.serves("...", took_s=2.0)
    assert fleet.allows()
    fleet.serves(".", took_s=2.0)
    assert not fleet.allows()


def test_one_that_was_withdrawn_when_it_was_slow_already_was_slow() -> None:
    """Else a replica whose attempts all lose against their hedges would look well."""
    fleet = Fleet(breaker(slow_after_s=1.0))
    fleet.serves("wwww", took_s=0.5)
    assert fleet.allows()
    fleet.serves("wwww", took_s=1.5)
    assert not fleet.allows()


def test_replicas_are_judged_apart() -> None:
    fleet = Fleet(breaker(), 2)
    fleet.serves("xxxx", "replica/1")
    assert [fleet.allows(name) for name in (ZERO, "replica/1")] == [True, False]


# --- CircuitBreaker: open, half-open -----------------------------------------------------------------------


def opened(**parameters: Any) -> Fleet:
    fleet = Fleet(breaker(**parameters))
    fleet.serves("xxxx")
    assert not fleet.allows()
    return fleet


def test_it_stays_open_for_its_time_and_then_tries() -> None:
    fleet = opened()
    fleet.now_s = 4.999
    assert not fleet.allows()
    fleet.now_s = 5.0
    assert fleet.allows()


def test_half_open_it_allows_so_many_trials_and_no_more() -> None:
    fleet = opened(half_open_calls=2)
    fleet.now_s = 5.0
    assert [fleet.allows() for _ in range(5)] == [True] * 5  # to ask is not to try
    fleet.sends()
    assert fleet.allows()
    fleet.sends()
    assert not fleet.allows()


def test_when_all_trials_went_well_it_closes_and_holds_nothing_against_the_replica() -> None:
    fleet = opened(half_open_calls=2)
    fleet.now_s = 5.0
    first, second = fleet.sends(), fleet.sends()
    fleet.ends(first)
    assert not fleet.allows()
    fleet.ends(second)
    fleet.serves("xxx")
    assert fleet.allows()


def test_the_first_bad_trial_opens_it_again() -> None:
    fleet = opened(half_open_calls=3)
    fleet.now_s = 6.0
    first, second = fleet.sends(), fleet.sends()
    fleet.ends(first)
    fleet.ends(second, "timed-out")
    fleet.now_s = 10.9
    assert not fleet.allows()
    fleet.now_s = 11.0
    assert fleet.allows()


def test_a_slow_trial_is_a_bad_one() -> None:
    fleet = opened(slow_after_s=1.0)
    fleet.now_s = 5.0
    fleet.serves(".", took_s=1.5)
    assert not fleet.allows()


@pytest.mark.parametrize("outcome", ["w", "r", "o"])
def test_a_trial_that_says_nothing_gives_its_place_back(outcome: str) -> None:
    fleet = opened()
    fleet.now_s = 5.0
    fleet.serves(outcome)
    assert fleet.allows()
    fleet.serves("x")
    assert not fleet.allows()


def test_what_was_sent_before_it_opened_neither_closes_nor_opens_it() -> None:
    fleet = Fleet(breaker())
    early, late = fleet.sends(), fleet.sends()
    fleet.serves("xxxx")
    fleet.now_s = 5.0
    fleet.ends(early)
    trial = fleet.sends()
    assert not fleet.allows()
    fleet.ends(late, "engine-error")
    fleet.ends(trial)
    assert fleet.allows()


def test_what_routing_sends_while_it_is_open_is_no_trial() -> None:
    fleet = opened(when_all_open="ignore")
    sent = fleet.sends()
    fleet.now_s = 5.0
    fleet.ends(sent)
    assert fleet.allows()
    fleet.sends()
    assert not fleet.allows()


def test_what_fails_while_it_is_open_does_not_keep_it_open() -> None:
    fleet = opened(when_all_open="ignore")
    fleet.now_s = 4.0
    fleet.serves("xxxx")
    fleet.now_s = 5.0
    assert fleet.allows()


def test_a_replica_that_is_away_for_a_while_keeps_its_breaker() -> None:
    fleet = opened()
    fleet.away(1.0)
    assert not fleet.allows()
    counting = Fleet(breaker())
    counting.serves("xx")
    late = counting.sends()
    counting.has(0)
    counting.ends(late, "engine-error")
    counting.away(1.0)
    counting.serves("x")
    assert not counting.allows()


def test_a_trial_that_is_out_while_its_replica_is_away_is_still_out() -> None:
    fleet = opened()
    fleet.now_s = 5.0
    trial = fleet.sends()
    fleet.away(1.0)
    assert not fleet.allows()
    fleet.ends(trial)
    assert fleet.allows()


@pytest.mark.parametrize(("open_s", "away_s"), [(5.0, 300.0), (400.0, 400.0)])
def test_a_replica_that_stays_away_is_forgotten_with_all_that_it_had(open_s: float, away_s: float) -> None:
    fleet = opened(open_s=open_s)
    old = [fleet.sends() for _ in range(4)]
    fleet.has(0)
    fleet.now_s += away_s - 0.001
    fleet.has(0)
    assert len(fleet.policy.circuits) == 1  # type: ignore[attr-defined]
    fleet.now_s += 0.001
    fleet.has(0)
    assert not len(fleet.policy.circuits)  # type: ignore[attr-defined]
    fleet.has(1)
    assert fleet.allows()
    fleet.sends()
    for name in old:
        fleet.ends(name, "replica-lost")
    assert fleet.allows()


def test_when_all_are_open_requests_are_refused_or_the_breakers_are_ignored() -> None:
    candidates = replicas(0, 0)
    refused = breaker().none_allowed(request(), candidates, 0.0)
    assert refused == Reject("the circuit breakers of all candidates are open")
    assert breaker(when_all_open="ignore").none_allowed(request(), candidates, 0.0) is None


class Model:
    """The three states, as a textbook has them: what `allows` should say."""

    def __init__(self, policy: CircuitBreaker) -> None:
        self.policy, self.state, self.last = policy, "closed", list[bool]()
        self.until_s, self.trials, self.era = 0.0, dict[str, str](), 0
        self.eras: dict[str, int] = {}

    def allows(self, now_s: float) -> bool:
        if self.state == "open" and now_s >= self.until_s:
            self.state, self.trials = "half-open", {}
        busy = [name for name, how in self.trials.items() if how != "gone"]
        return self.state == "closed" or (
            self.state == "half-open" and len(busy) < self.policy.half_open_calls
        )

    def sends(self, name: str, now_s: float) -> None:
        self.allows(now_s)
        self.eras[name] = self.era
        if self.state == "half-open":
            self.trials[name] = "out"

    def ends(self, name: str, letter: str, now_s: float) -> None:
        if self.eras.pop(name) != self.era:
            return
        if self.state == "closed" and letter != "w":
            self.last = [*self.last, letter == "x"][-self.policy.window :]
            if len(self.last) >= self.policy.min_calls and sum(self.last) >= 0.5 * len(self.last):
                self.becomes("open", now_s)
        elif name in self.trials:
            self.trials[name] = {".": "good", "x": "bad", "w": "gone"}[letter]
            if letter == "x":
                self.becomes("open", now_s)
            elif list(self.trials.values()).count("good") == self.policy.half_open_calls:
                self.becomes("closed", now_s)

    def becomes(self, state: str, now_s: float) -> None:
        self.state, self.last, self.trials, self.era = state, [], {}, self.era + 1
        self.until_s = now_s + self.policy.open_s


@given(
    seed=st.integers(0, 10_000), window=st.integers(1, 8), calls=st.integers(1, 8), trials=st.integers(1, 3)
)
def test_it_does_what_the_three_states_say(seed: int, window: int, calls: int, trials: int) -> None:
    policy = breaker(window=window, min_calls=min(calls, window), open_s=3.0, half_open_calls=trials)
    fleet, model, rng = Fleet(policy), Model(policy), random.Random(seed)
    for _ in range(200):
        fleet.now_s += rng.choice([0.0, 0.5, 2.0])
        assert fleet.allows() is model.allows(fleet.now_s)
        if rng.random() < 0.5 and fleet.allows():
            model.sends(fleet.sends(), fleet.now_s)
        elif fleet.out:
            name, letter = rng.choice(list(fleet.out)), rng.choice("..xxw")
            fleet.ends(name, {".": None, "x": "engine-error", "w": "withdrawn"}[letter])
            model.ends(name, letter, fleet.now_s)


# --- OutlierEjection: failures in a row --------------------------------------------------------------------


def test_five_failures_in_a_row_eject_a_replica_for_half_a_minute() -> None:
    fleet = Fleet(OutlierEjection(), 2)
    fleet.serves("xxxx.xxxx")
    assert fleet.allows()
    fleet.serves("x")
    assert [fleet.allows(), fleet.allows("replica/1")] == [False, True]
    fleet.now_s = 29.999
    assert not fleet.allows()
    fleet.now_s = 30.0
    assert fleet.allows()


@pytest.mark.parametrize("letter", ["w", "r", "o"])
def test_what_says_nothing_is_no_failure_and_no_answer(letter: str) -> None:
    fleet = Fleet(OutlierEjection())
    fleet.serves(letter * 100)
    assert fleet.allows()
    fleet.serves(f"xx{letter}xx{letter}x")
    assert not fleet.allows()


def test_what_ends_while_its_replica_is_ejected_is_no_news() -> None:
    fleet = Fleet(OutlierEjection(max_ejected_fraction=1.0))
    fleet.serves("x" * 5 + "x" * 54)
    fleet.now_s = 30.0
    assert fleet.allows()
    fleet.serves("xxxx")
    assert fleet.allows()


def ejected_for(fleet: Fleet) -> float:
    """Have the replica fail now; the seconds until it is allowed again."""
    began_s = fleet.now_s
    fleet.serves("x" * 5)
    while not fleet.allows():
        fleet.now_s += 1.0
    return fleet.now_s - began_s


def test_each_ejection_in_a_row_is_longer_up_to_the_longest() -> None:
    fleet = Fleet(OutlierEjection())
    lasted = [ejected_for(fleet) for _ in range(12)]
    assert lasted == [30.0, 60.0, 90.0, 120.0, 150.0, 180.0, 210.0, 240.0, 270.0, 300.0, 300.0, 300.0]


def test_every_good_interval_makes_the_next_ejection_shorter() -> None:
    fleet = Fleet(OutlierEjection())
    lasted = []
    for pause_s in (0.0, 0.0, 9.0, 10.0, 25.0, 1e6):
        fleet.now_s += pause_s
        lasted.append(ejected_for(fleet))
    assert lasted == [30.0, 60.0, 90.0, 90.0, 60.0, 30.0]


def test_failures_in_a_row_need_not_be_judged() -> None:
    fleet = Fleet(OutlierEjection(consecutive_failures=None))
    fleet.serves("x" * 1000)
    assert fleet.allows()


# --- OutlierEjection: success rate -------------------------------------------------------------------------


def rated(*percents: int, volume: int = 100, **parameters: Any) -> Fleet:
    """An interval in which the replicas served so many attempts each, this part of them well; and its end."""
    fleet = Fleet(OutlierEjection(consecutive_failures=None, **parameters), len(percents))
    for number, percent in enumerate(percents):
        good = volume * percent // 100
        fleet.serves("." * good + "x" * (volume - good), f"replica/{number}")
    fleet.now_s = 10.0
    fleet.serves(".", "replica/0")
    return fleet


def ejected(fleet: Fleet, count: int) -> list[int]:
    return [number for number in range(count) if not fleet.allows(f"replica/{number}")]


def test_the_example_of_envoy() -> None:
    """Of 50, 100, 100, 100, 100 % the mean is 90, the deviation 20, and the threshold 90 - 1.9 · 20 = 52."""
    assert ejected(rated(50, 100, 100, 100, 100), 5) == [0]
    assert ejected(rated(50, 100, 100, 100, 100, stdev_factor=2.0), 5) == []  # 50 is not below 50


@pytest.mark.parametrize(
    ("rates", "parameters", "expected"),
    [
        ((0, 100, 100, 100), {}, []),  # four are too few,
        ((0, 100, 100, 100), {"minimum_hosts": 4}, []),  # and no deviation of four is above sqrt(3) = 1.73
        ((0, 100, 100, 100), {"minimum_hosts": 4, "stdev_factor": 1.7}, [0]),
        ((0, 100, 100, 100, 100), {"request_volume": 101}, []),
        # Nobody is worse than the others, though the mean of five times 1/9 is above it in binary.
        ((12,) * 5, {"volume": 9, "request_volume": 9, "stdev_factor": 0.0}, []),
        ((10, 0, *[100] * 20), {"max_ejected_fraction": 0.0}, [1]),  # one may be; the worst
        ((10, 0, *[100] * 20), {"max_ejected_fraction": 0.09}, [1]),
        ((10, 0, *[100] * 20), {"max_ejected_fraction": 0.1}, [0, 1]),
        ((0, 0, *[100] * 7), {}, []),  # two of nine: 1.87 deviations
        ((0, 0, *[100] * 8), {"max_ejected_fraction": 0.2}, [0, 1]),  # two of ten: 2
    ],
)
def test_who_does_far_worse_than_the_others_is_ejected(
    rates: tuple[int, ...], parameters: dict[str, Any], expected: list[int]
) -> None:
    assert ejected(rated(*rates, **parameters), len(rates)) == expected


def test_an_interval_is_judged_as_of_its_end_however_late_that_is_noticed() -> None:
    fleet = rated(50, 100, 100, 100, 100)
    assert ejected(fleet, 5) == [0]
    late = Fleet(OutlierEjection(consecutive_failures=None), 5)
    for number in range(5):
        late.serves(("x" if number == 0 else ".") * 100, f"replica/{number}")
    late.now_s = 39.0
    late.serves(".", "replica/1")
    assert ejected(late, 5) == [0]  # until 10 + 30
    late.now_s = 40.0
    assert ejected(late, 5) == []


def test_those_that_are_ejected_are_not_compared() -> None:
    """With the one at 20 % among them, 85 % would be no outlier."""
    fleet = Fleet(OutlierEjection(max_ejected_fraction=1.0), 6)
    for number in range(1, 6):
        fleet.serves("." * 70 + "x." * 15 if number == 1 else "." * 100, f"replica/{number}")
    fleet.serves("." * 2 + "xxxx." * 30 + "xxxxx")
    assert ejected(fleet, 6) == [0]
    fleet.now_s = 10.0
    fleet.serves(".", "replica/2")
    assert ejected(fleet, 6) == [0, 1]


def test_each_interval_is_judged_alone() -> None:
    fleet = rated(60, 100, 100, 100, 100, volume=60)
    for number in range(5):
        fleet.serves("." * 60, f"replica/{number}")
    fleet.now_s = 20.0
    fleet.serves(".", "replica/1")
    assert ejected(fleet, 5) == []  # 60 and 60, not 120


def test_no_more_are_ejected_than_may_be_and_one_that_has_gone_frees_its_place() -> None:
    fleet = Fleet(OutlierEjection(max_ejected_fraction=0.5), 4)
    for number in range(4):
        fleet.serves("x" * 5, f"replica/{number}")
    assert ejected(fleet, 4) == [0, 1]
    fleet.policy.on_replicas(replicas(0, 0, 0, 0)[1:], 0.0)
    fleet.serves("x" * 5, "replica/2")
    assert ejected(fleet, 4) == [0, 1]  # two of the three that are left are more than half
    fleet.policy.on_replicas(replicas(0, 0, 0, 0)[2:], 0.0)
    fleet.serves("x" * 5, "replica/2")
    assert ejected(fleet, 4) == [0, 1, 2]  # one of the two that are left
    fleet.has(4)  # with the rest of their ejections
    fleet.serves("x" * 5, "replica/3")
    assert ejected(fleet, 4) == [0, 1, 2]


def test_a_replica_that_is_away_for_a_while_keeps_what_is_known_of_it() -> None:
    fleet = Fleet(OutlierEjection())
    fleet.serves("xxxx")
    fleet.away(1.0)
    fleet.serves("x")
    assert not fleet.allows()
    fleet.away(28.0)
    assert not fleet.allows()
    fleet.now_s = 31.0
    assert fleet.allows()
    assert ejected_for(fleet) == 60.0, "the second in a row"


def test_what_fails_while_its_replica_is_away_ejects_it_at_the_next_failure_after() -> None:
    fleet = Fleet(OutlierEjection())
    lost = [fleet.sends() for _ in range(5)]
    fleet.has(0)
    for name in lost:
        fleet.ends(name, "replica-lost")
    fleet.has(1)
    assert fleet.allows()
    fleet.serves("x")
    assert not fleet.allows()


@pytest.mark.parametrize("policy", [breaker(), OutlierEjection()])
def test_what_is_kept_is_bounded_in_a_fleet_whose_replicas_come_and_go(policy: BreakerPolicy) -> None:
    fleet = Fleet(policy)
    for number in range(2_000):
        fleet.policy.on_replicas([ReplicaView(id=f"replica/{number}")], fleet.now_s)
        fleet.serves("x" * 5, f"replica/{number}")
        fleet.now_s += 3.0
    kept = fleet.policy.circuits if isinstance(policy, CircuitBreaker) else fleet.policy.hosts  # type: ignore[attr-defined]
    assert len(kept) <= 300 / 3 + 1


@given(
    count=st.integers(1, 30),
    fraction=st.integers(0, 100),
    failing=st.lists(st.integers(0, 29), max_size=40),
)
def test_the_part_that_is_ejected_never_exceeds_its_bound(
    count: int, fraction: int, failing: list[int]
) -> None:
    fleet = Fleet(OutlierEjection(consecutive_failures=1, max_ejected_fraction=fraction / 100), count)
    for number in failing:
        fleet.serves("x", f"replica/{number % count}")
        assert len(ejected(fleet, count)) <= max(1, fraction * count // 100)
    most = max(1, fraction * count // 100)
    assert len(ejected(fleet, count)) == min(most, len({number % count for number in failing}))


def test_when_nobody_is_allowed_all_are() -> None:
    fleet = Fleet(OutlierEjection())
    fleet.serves("x" * 5)
    assert not fleet.allows()
    assert fleet.policy.none_allowed(request(), replicas(0), 0.0) is None


# --- what cannot be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (
            {"policy": "circuit-breaker", "window": 10, "min_calls": 11},
            "$.breaker.min_calls: 11 attempts never are in a window of 10; it would never open",
        ),
        (
            {"policy": "circuit-breaker", "failure_threshold": None},
            "$.breaker.failure_threshold: missing, and so is `slow_after_s`; it would never open. Give one of them",
        ),
        (
            {"policy": "circuit-breaker", "failure_threshold": 0.0},
            "$.breaker.failure_threshold: Expected `float` > 0.0",
        ),
        (
            {"policy": "circuit-breaker", "when_all_open": "hold"},
            "$.breaker.when_all_open: Invalid enum value 'hold'",
        ),
        (
            {"policy": "outlier-ejection", "base_ejection_s": 600.0},
            "$.breaker.max_ejection_s: 300 is less than base_ejection_s=600",
        ),
    ],
)
def test_what_cannot_be_is_refused(table: dict[str, Any], says: str) -> None:
    with pytest.raises(PolicyError) as caught:
        build(BreakerPolicy, table, "$.breaker")
    assert str(caught.value) == says
