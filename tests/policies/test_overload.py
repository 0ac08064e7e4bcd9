"""Admission under overload: by gradient, deadline and priority, and for less instead of not at all."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import AdmissionPolicy, Admit, Completion, Degrade, Ending, FleetView, PolicyError, Reject
from policies.admission.brownout import Brownout
from policies.admission.dagor import Dagor
from policies.admission.deadline_feasible import DeadlineFeasible
from policies.admission.gradient_concurrency import GradientConcurrency
from policies.admission.priority_shedding import PriorityShedding
from policies.building import build
from policies.testing import parametrize_with_checks
from tests.policies.makers import request, reset
from traces.schema import Slo


@parametrize_with_checks(
    [
        GradientConcurrency,
        lambda: GradientConcurrency(
            initial_limit=1, min_limit=1, max_limit=3, smoothing=1.0, window_s=0.0, window_requests=1
        ),
        DeadlineFeasible,
        lambda: DeadlineFeasible(margin=50.0, deadline_s=0.01, memory_requests=1.0),
        PriorityShedding,
        lambda: PriorityShedding(thresholds=(), lowest=-2, load="in_flight"),
        lambda: PriorityShedding(thresholds=(0.0, 0.1), lowest=-5),
        Dagor,
        lambda: Dagor(target_s=1e-6, window_s=0.01, window_requests=3, alpha=0.9, beta=0.5, user_levels=1),
        Brownout,
        lambda: Brownout(setpoint_s=1e-3, period_s=0.01, pole=0.0, forgetting=0.5, model="small"),
    ]
)
def test_conformance(check):
    check()


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ({"policy": "gradient-concurrency", "smoothing": 0.0}, r"\$\.admission\.smoothing"),
        ({"policy": "gradient-concurrency", "min_limit": 300}, r"\$\.admission\.min_limit: 300 is above max_limit"),
        ({"policy": "deadline-feasible", "margin": 0.0}, r"\$\.admission\.margin"),
        ({"policy": "priority-shedding", "thresholds": [3.0, 2.0]}, r"\$\.admission\.thresholds: must not fall"),
        ({"policy": "priority-shedding", "thresholds": [-1.0]}, r"\$\.admission\.thresholds"),
        ({"policy": "dagor", "alpha": 1.0}, r"\$\.admission\.alpha"),
        ({"policy": "brownout", "pole": 1.0}, r"\$\.admission\.pole"),
        ({"policy": "brownout", "max_output_tokens": None}, r"\$\.admission\.max_output_tokens"),
    ],
)  # fmt: skip
def test_what_is_out_of_bounds_is_named(table, path):
    with pytest.raises(PolicyError, match=path):
        build(AdmissionPolicy, table, "$.admission")


def ends(policy: AdmissionPolicy, name: str, now_s: float, outcome="completed", e2e_s=1.0, **fields) -> None:
    ended = Ending(request=request(name, **fields), outcome=outcome, attempts=1, e2e_s=e2e_s)
    policy.on_request_ended(ended, now_s)


# --- the gradient of latency -----------------------------------------------------------------------------------

LATENCIES = [(0.1, 20)] * 12 + [(0.4, 30)] * 6 + [(0.2, 5)] + [(0.9, 40)] * 5 + [(0.02, 20)] * 6
"""Seconds that a request took, and how many were in flight with it."""


def limits(policy: GradientConcurrency, samples=LATENCIES) -> list[float]:
    """After each request, every one a window of its own."""
    reset(policy)
    seen, now_s = [], 0.0
    for number, (latency_s, in_flight) in enumerate(samples):
        policy.let_in[str(number)] = now_s, in_flight
        now_s += latency_s
        ends(policy, str(number), now_s)
        seen.append(policy.limit)
    return seen


EACH = {"window_s": 0.0, "window_requests": 1}


class TestGradientConcurrency:
    def test_the_limits_are_those_of_netflixs_gradient2(self):
        """Recorded from its formula, worked by itself: it grows by 0.8, shrinks at four times the latency."""
        expected = [20 + 0.8 * n for n in range(1, 13)]
        expected += [27.44, 25.496, 23.7464, 22.17176, 20.754584, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0]
        expected += [20 + 0.8 * n for n in range(1, 7)]
        assert limits(GradientConcurrency(**EACH)) == pytest.approx(expected)

    def test_and_with_other_parameters(self):
        expected = [50.0] * 12 + [
            29.5, 23.535, 21.72233, 21.610919524, 22.35057069736033, 23.5684795275183, 23.5684795275183,
            16.323380792510918, 14.481522425541996, 14.43650642778219, 15.213311004164074, 16.43990287423476,
            18.43990287423476, 20.43990287423476, 22.43990287423476, 24.43990287423476, 26.43990287423476,
            28.43990287423476,
        ]  # fmt: skip
        policy = GradientConcurrency(
            initial_limit=50, min_limit=5, max_limit=60, queue_size=2, smoothing=1.0, rtt_tolerance=1.0,
            long_window_windows=4, **EACH,
        )  # fmt: skip
        assert limits(policy) == pytest.approx(expected)

    def test_the_long_latency_comes_down_faster_when_it_is_twice_the_short_one(self):
        policy = GradientConcurrency(**EACH)
        limits(policy, [(1.0, 20)] * 20 + [(0.1, 20)])
        assert policy.long_s == pytest.approx(0.95 * (1.0 - 0.9 * 2 / 601))

    def test_at_the_limit_it_refuses(self):
        policy = reset(GradientConcurrency())
        assert policy.admit(request("a"), FleetView(in_flight=19), 0.0) == Admit()
        assert policy.admit(request("b"), FleetView(in_flight=20), 0.0) == Reject("too many in flight")

    def test_a_window_is_a_second_with_ten_requests_or_more(self):
        policy = reset(GradientConcurrency())
        ended = [1.0 + n * 0.1 for n in range(10)]
        for number in range(10):
            policy.admit(request(str(number)), FleetView(in_flight=15), 0.0)
        ends(policy, "0", ended[0])  # the first window ends with the first request, which is not enough
        assert (policy.limit, policy.ends_s) == (20.0, 2.0)
        for number in range(1, 10):
            ends(policy, str(number), ended[number])
        assert policy.limit == 20.0
        for number in range(10, 12):
            policy.admit(request(str(number)), FleetView(in_flight=15), 2.05)
            ends(policy, str(number), 2.1)
        assert policy.limit == pytest.approx(20.8)

    def test_what_failed_or_was_cancelled_says_nothing_and_what_ran_out_of_time_does(self):
        policy = reset(GradientConcurrency(**EACH))
        for outcome, limit in (("failed", 20.0), ("cancelled", 20.0), ("expired", 20.8)):
            policy.admit(request("a"), FleetView(in_flight=19), 0.0)
            ends(policy, "a", 1.0, outcome=outcome)
            assert policy.limit == pytest.approx(limit)
        assert not policy.let_in

    def test_an_answer_in_no_time_has_no_gradient(self):
        policy = reset(GradientConcurrency(**EACH))
        policy.admit(request("a"), FleetView(), 1.0)
        ends(policy, "a", 1.0)
        assert policy.limit == 20.0

    @given(st.lists(st.tuples(st.floats(1e-6, 1e6), st.integers(1, 500)), max_size=60))
    def test_the_limit_keeps_its_bounds(self, samples):
        seen = limits(GradientConcurrency(min_limit=3, max_limit=50, **EACH), samples)
        assert all(3 <= limit <= 50 for limit in seen)


# --- deadlines -------------------------------------------------------------------------------------------------


def backlogged(policy: DeadlineFeasible, *, gap_s: float, service_s: float, ready: int = 2) -> float:
    """A fleet with a queue from which one leaves every `gap_s`. Answers what the time is then."""
    for number in range(101):
        policy.admit(request(f"w{number}"), FleetView(queue_depth=number, ready_replicas=ready), 0.0)
    now_s = 0.0
    for number in range(60):
        now_s += gap_s
        policy.on_completed(
            Completion(request=request(f"w{number}"), replica="replica/0", attempt=1, service_s=service_s),
            now_s,
        )
        ends(policy, f"w{number}", now_s)
    return now_s


class TestDeadlineFeasible:
    def test_what_waits_before_it_and_its_service_must_fit_into_what_it_has_left(self):
        policy = reset(DeadlineFeasible())
        now_s = backlogged(policy, gap_s=0.1, service_s=0.4)
        assert policy.expected_s(20) == pytest.approx(20 * 0.1 + 0.4)
        fleet = FleetView(queue_depth=20, ready_replicas=2)
        for deadline_s, answer in ((2.41, Admit()), (2.39, Reject("cannot make its deadline"))):
            assert policy.admit(request(arrived_s=now_s, deadline_s=deadline_s), fleet, now_s) == answer

    def test_time_since_its_arrival_is_gone(self):
        policy = reset(DeadlineFeasible())
        now_s = backlogged(policy, gap_s=0.1, service_s=0.4)
        asked = request(arrived_s=now_s - 1.0, deadline_s=1.5)
        assert isinstance(policy.admit(asked, FleetView(queue_depth=2, ready_replicas=2), now_s), Reject)
        assert isinstance(policy.admit(asked, FleetView(queue_depth=0, ready_replicas=2), now_s), Admit)

    def test_more_replicas_drain_the_queue_sooner(self):
        policy = reset(DeadlineFeasible())
        backlogged(policy, gap_s=0.1, service_s=0.0)
        policy.admit(request(), FleetView(queue_depth=20, ready_replicas=8), 99.0)
        assert policy.expected_s(20) == pytest.approx(20 * 0.1 / 4)

    def test_of_its_times_the_deadline_comes_before_the_objective_and_that_before_the_parameter(self):
        policy = reset(DeadlineFeasible(deadline_s=0.1))
        now_s = backlogged(policy, gap_s=0.1, service_s=0.4)
        fleet = FleetView(queue_depth=10, ready_replicas=2)
        asked = [
            request(arrived_s=now_s, deadline_s=9.0, slo=Slo(e2e_s=0.1)),
            request(arrived_s=now_s, slo=Slo(e2e_s=9.0)),
            request(arrived_s=now_s, slo=Slo(ttft_s=9.0)),
        ]
        assert [type(policy.admit(one, fleet, now_s)) for one in asked] == [Admit, Admit, Reject]

    def test_who_has_no_deadline_is_let_in_and_so_is_everybody_while_nothing_is_known(self):
        policy = reset(DeadlineFeasible())
        crowd = FleetView(queue_depth=10**6, ready_replicas=1)
        assert policy.admit(request(deadline_s=1e-3), crowd, 0.0) == Admit()
        now_s = backlogged(policy, gap_s=0.1, service_s=0.4)
        assert policy.admit(request(arrived_s=now_s), crowd, now_s) == Admit()
        assert (
            policy.admit(request(arrived_s=now_s, deadline_s=1.0), FleetView(queue_depth=9), now_s) == Admit()
        )

    def test_time_in_which_nobody_waits_does_not_count(self):
        policy = reset(DeadlineFeasible())
        for number in range(50):
            policy.admit(request(str(number)), FleetView(ready_replicas=1), number * 10.0)
            ends(policy, str(number), number * 10.0 + 0.1)
        assert policy.drained == 0.0

    def test_ends_of_a_batch_count_as_one_stretch_of_time(self):
        policy = reset(DeadlineFeasible(memory_requests=1e9))
        for number in range(80):
            policy.admit(request(str(number)), FleetView(queue_depth=number, ready_replicas=1), 0.0)
        for batch in range(8):
            for number in range(8):
                ends(policy, f"{batch}-{number}", 1.0 + batch)
        assert policy.drain_replica_s / policy.drained == pytest.approx(1 / 8, rel=0.01)


# --- priorities ------------------------------------------------------------------------------------------------


class TestPriorityShedding:
    @pytest.mark.parametrize(
        ("priority", "per_replica", "admitted"),
        [
            (-3, 4.9, True), (-3, 5.0, False), (None, 4.9, True), (0, 5.0, False), (1, 5.0, True),
            (1, 10.0, False), (2, 19.9, True), (2, 20.0, False), (3, 1e6, True), (9, 1e6, True),
        ],
    )  # fmt: skip
    def test_each_level_has_its_threshold(self, priority, per_replica, admitted):
        fleet = FleetView(queue_depth=int(10 * per_replica), in_flight=10**9, ready_replicas=10)
        answer = reset(PriorityShedding()).admit(request(priority=priority), fleet, 0.0)
        assert isinstance(answer, Admit) is admitted

    def test_without_a_ready_replica_the_load_is_that_of_one(self):
        policy = reset(PriorityShedding())
        assert isinstance(policy.admit(request(), FleetView(queue_depth=5), 0.0), Reject)
        assert isinstance(policy.admit(request(), FleetView(queue_depth=4), 0.0), Admit)

    @given(st.integers(0, 10**4), st.integers(0, 8), st.integers(-3, 6), st.integers(0, 5))
    def test_who_is_more_urgent_is_let_in_wherever_others_are(self, waiting, ready, priority, more):
        policy = reset(PriorityShedding())
        fleet = FleetView(queue_depth=waiting, ready_replicas=ready)
        one, other = (policy.admit(request(priority=p), fleet, 0.0) for p in (priority, priority + more))
        assert isinstance(other, Admit) or isinstance(one, Reject)


def window(
    policy: Dagor, start_s: float, *, wait_s: float | None, count: int = 1000, users: int = 500
) -> int:
    """A second of requests of three priorities, each of which that is let in waits so long. How many were let in."""
    admitted = 0
    for number in range(count):
        now_s = start_s + 0.999 * number / count
        asked = request(f"{start_s}-{number}", priority=number % 3, user=f"user-{number * 7 % users}")
        if isinstance(policy.admit(asked, FleetView(), now_s), Admit):
            admitted += 1
            if wait_s is not None:
                policy.on_completed(
                    Completion(
                        request=asked, replica="replica/0", attempt=1, e2e_s=wait_s + 0.1, service_s=0.1
                    ),
                    now_s,
                )
    return admitted


class TestDagor:
    def test_under_overload_a_twentieth_fewer_are_let_in_each_window(self):
        policy = reset(Dagor())
        admitted = [window(policy, float(second), wait_s=0.05) for second in range(1, 15)]
        assert admitted[0] == 1000
        for before, after in pairwise(admitted):
            assert 0.95 * before - 12 <= after <= 0.95 * before  # the levels are steps of some requests

    def test_without_it_a_hundredth_of_all_more_until_everybody_is(self):
        policy = reset(Dagor())
        window(policy, 1.0, wait_s=9.0)
        low = window(policy, 2.0, wait_s=0.0)
        grown = [window(policy, float(second), wait_s=0.0) for second in range(3, 20)]
        assert low < grown[0] <= low + 0.01 * 1000 + 12
        assert grown[-1] == 1000
        assert policy.level is None

    def test_waits_of_less_than_target_shed_nobody(self):
        policy = reset(Dagor())
        assert all(window(policy, float(second), wait_s=0.019) == 1000 for second in range(5))

    def test_what_is_shed_is_the_least_urgent(self):
        policy = reset(Dagor())
        for second in range(30):
            window(policy, float(second), wait_s=1.0)
        answers = {
            priority: [
                isinstance(policy.admit(request(str(n), priority=priority, user=f"u{n}"), FleetView(), 30.5), Admit)
                for n in range(200)
            ]
            for priority in (0, 1, 2)
        }  # fmt: skip
        shares = [sum(answers[priority]) / 200 for priority in (0, 1, 2)]
        assert shares == sorted(shares)
        assert shares[0] == 0.0
        assert sum(0.0 < share < 1.0 for share in shares) <= 1

    def test_a_user_keeps_its_place_for_an_hour(self):
        policy = reset(Dagor())
        levels = [
            policy._level_of(request(str(n), user="u"), at_s) for n, at_s in enumerate((0.0, 3599.0, 3601.0))
        ]
        assert levels[0] == levels[1]
        assert len({policy._level_of(request(user="u"), hour * 3600.0) for hour in range(30)}) > 10

    def test_a_window_ends_after_so_many_requests_too(self):
        policy = reset(Dagor(window_requests=100))
        window(policy, 0.0, wait_s=1.0, count=99)
        assert policy.level is None
        window(policy, 0.999, wait_s=1.0, count=2)
        assert policy.level is not None

    def test_those_that_ran_out_of_time_waited_and_those_that_failed_did_not(self):
        policy = reset(Dagor())
        for outcome, waits in (("failed", 0), ("cancelled", 0), ("expired", 1), ("shed", 2)):
            ends(policy, "a", 1.0, outcome=outcome, e2e_s=3.0)
            assert policy.waits == waits

    def test_the_most_urgent_are_let_in_however_long_it_lasts(self):
        policy = reset(Dagor(user_levels=1))
        for second in range(60):
            for number in range(100):
                policy.admit(request(f"{second}-{number}"), FleetView(), second + number * 0.009)
            ends(policy, "x", second + 0.95, outcome="expired", e2e_s=9.0)
        assert policy.admit(request(), FleetView(), 61.0) == Admit()


# --- brownout --------------------------------------------------------------------------------------------------

PERIODS = [
    [0.2, 0.3, 0.4],
    [0.5, 0.9],
    [2.0, 3.0, 2.5, 1.0],
    [4.0],
    [1.5, 1.2],
    [0.8, 0.1, 0.3],
    [0.4],
    [6.0, 6.5],
]


def dimmers(policy: Brownout, periods) -> list[float]:
    reset(policy)
    seen = []
    for number, latencies_s in enumerate(periods, 1):
        for latency_s in latencies_s:
            ends(policy, "a", 0.0, e2e_s=latency_s)
        policy.admit(request(), FleetView(), number * policy.period_s)
        seen.append(policy.dimmer)
    return seen


class TestBrownout:
    def test_the_dimmer_moves_as_in_its_authors_simulator(self):
        """Recorded from the law of `cf_mm.py` (cloud-control/brownout-lb-simulator) on the same latencies."""
        assert dimmers(Brownout(), PERIODS) == pytest.approx(
            [0.5390608573615718, 0.5438660192868554, 0.5092273407365562, 0.47239149004644243,
             0.46617034316793904, 0.4697125195360581, 0.4792807343335528, 0.4194409510552998]
        )  # fmt: skip

    def test_and_with_other_parameters(self):
        policy = Brownout(
            percentile=50.0, period_s=2.0, pole=0.5, forgetting=0.8, setpoint_s=0.6, initial_dimmer=0.9
        )
        assert dimmers(policy, PERIODS[:6]) == pytest.approx(
            [1.0, 0.8201431314365502, 0.0, 0.0, 0.0, 0.23169787422980775]
        )

    def test_a_request_is_served_in_full_with_the_probability_of_the_dimmer_else_for_less(self):
        policy = reset(Brownout(initial_dimmer=0.3, max_output_tokens=16, model="small"))
        asked = request(model="large")
        answers = [policy.admit(asked, FleetView(), 0.0) for _ in range(4000)]
        assert sum(answer == Admit() for answer in answers) / 4000 == pytest.approx(0.3, abs=0.03)
        less = request(model="small")
        assert Degrade(less, "brownout", max_output_tokens=16) in answers
        assert {type(answer) for answer in answers} == {Admit, Degrade}

    def test_a_period_in_which_nothing_ended_changes_nothing(self):
        policy = reset(Brownout())
        for number in range(100):
            policy.admit(request(), FleetView(), number * 1.0)
        assert policy.dimmer == 0.5

    def test_what_failed_at_once_is_no_low_latency_and_what_ran_out_of_time_is_a_high_one(self):
        policy = reset(Brownout())
        for outcome in ("failed", "shed", "cancelled"):
            ends(policy, "a", 0.0, outcome=outcome, e2e_s=0.001)
        assert policy.latencies_s == []
        ends(policy, "a", 0.0, outcome="expired", e2e_s=9.0)
        assert policy.latencies_s == [9.0]

    def test_it_comes_back_from_a_long_time_without_any_dimmer(self):
        policy = reset(Brownout())
        low = dimmers(policy, [[50.0]] * 400)
        assert low[-1] == 0.0
        assert policy.covariance <= 1000.0
        rng = random.Random(1)
        for number in range(401, 1500):
            ends(policy, "a", 0.0, e2e_s=rng.uniform(0.05, 0.15))
            policy.admit(request(), FleetView(), number * policy.period_s)
        assert policy.dimmer == 1.0

    @given(st.lists(st.lists(st.floats(0.0, 1e6), max_size=4), max_size=60))
    def test_the_dimmer_is_always_a_probability(self, periods):
        assert all(0.0 <= dimmer <= 1.0 for dimmer in dimmers(Brownout(), periods))
