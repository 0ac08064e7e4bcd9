"""Routing that learns from what came of earlier choices, or asks first."""

import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import LeastOutstanding, PolicyError, Random, RoundRobin, Route, RoutingPolicy, build
from policies.routing.draws import some_of, two_of
from policies.routing.gradual_shift import GradualShift
from policies.routing.join_idle_queue import JoinIdleQueue
from policies.routing.peak_ewma import PeakEwma
from policies.routing.predicted_latency import PredictedLatency
from policies.routing.prequal_hot_cold import PrequalHotCold
from policies.testing import parametrize_with_checks
from policies.views import Completion, FailureKind, ReplicaLoad, ReplicaView, TokenSignals
from tests.policies.makers import replicas, request, reset

R0, R1, R2 = "replica/0", "replica/1", "replica/2"


@parametrize_with_checks(
    [
        PeakEwma,
        lambda: PeakEwma(decay_s=0.01, failure_s=0.0),
        JoinIdleQueue,
        PrequalHotCold,
        lambda: PrequalHotCold(
            probes_per_request=0.4, removals_per_request=2.5, pool_size=2, max_age_s=100.0, hot_quantile=0.0,
            load_samples=1,
        ),
        lambda: PrequalHotCold(hot_quantile=1.0, probes_per_request=64.0, reuse_slack=0.0),
        PredictedLatency,
        lambda: PredictedLatency(choices=1, target="ttft", min_samples=1, exploration=0.0, forgetting=0.5),
        lambda: PredictedLatency(choices=64, min_samples=2, exploration=1.0, forgetting=1.0),
        GradualShift,
        lambda: GradualShift(routing=PrequalHotCold(), window_s=0.5, aggression=0.1, min_weight=0.0),
    ]
)  # fmt: skip
def test_conformance(check) -> None:
    check()


def chosen(policy: RoutingPolicy, views: Sequence[ReplicaView], now_s: float = 0.0, name: str = "r") -> str:
    answer = policy.route(request(name), views, now_s)
    assert isinstance(answer, Route)
    return answer.replica


def end(
    policy: RoutingPolicy, name: str, replica: str, now_s: float, failure: FailureKind | None = None
) -> None:
    policy.on_completed(Completion(request=request(name), replica=replica, attempt=1, failure=failure), now_s)


def run(policy: RoutingPolicy, replica: str, sent_s: float, ended_s: float, **how: FailureKind) -> None:
    policy.on_dispatched(request("run"), replica, sent_s)
    end(policy, "run", replica, ended_s, **how)


# --- draws -----------------------------------------------------------------------------------------------------


@given(count=st.integers(1, 30), wanted=st.integers(1, 40), seed=st.integers(0, 99))
def test_draws_are_different_candidates(count: int, wanted: int, seed: int) -> None:
    draw = random.Random(seed).random
    numbers = some_of(count, wanted, draw)
    assert len(numbers) == len(set(numbers)) == min(count, wanted)
    assert set(numbers) <= set(range(count))
    one, other = two_of(count, draw)
    assert {one, other} <= set(range(count))
    assert (one == other) == (count == 1)


def test_every_set_of_candidates_is_as_likely() -> None:
    draw = random.Random(1).random
    pairs = Counter(frozenset(two_of(4, draw)) for _ in range(12_000))
    sets = Counter(frozenset(some_of(4, 2, draw)) for _ in range(12_000))
    for counted in (pairs, sets):
        assert len(counted) == 6
        assert all(abs(count - 2000) < 170 for count in counted.values())  # four standard deviations


# --- Peak EWMA -------------------------------------------------------------------------------------------------


class TestPeakEwma:
    def test_the_average_is_that_of_its_source(self) -> None:
        """Reckoned by hand from Finagle's rule: a peak is taken, less is mixed in by e^(-time / 10 s)."""
        policy = reset(PeakEwma())
        run(policy, R0, 0.0, 1.0)
        assert policy.latencies[R0] == (1.0, 1.0)
        view = ReplicaView(id=R0, in_flight=1)
        assert policy.cost(view, 6.0) == (False, pytest.approx(2.0 * math.exp(-0.5)))
        run(policy, R0, 10.8, 11.0)
        assert policy.latencies[R0][0] == pytest.approx(math.exp(-1.0) + 0.2 * (1.0 - math.exp(-0.5)))
        run(policy, R0, 11.0, 16.0)
        assert policy.latencies[R0] == (5.0, 16.0)

    def test_one_never_heard_of_is_tried_at_once_and_then_waited_for(self) -> None:
        policy = reset(PeakEwma())
        run(policy, R0, 0.0, 0.001)
        assert {chosen(policy, replicas(0, 0), 0.001) for _ in range(20)} == {R1}
        assert {chosen(policy, replicas(9, 1), 0.001) for _ in range(20)} == {R0}

    def test_a_slow_one_is_tried_again_when_long_enough_nothing_was_heard_of_it(self) -> None:
        policy = reset(PeakEwma())
        run(policy, R0, 0.0, 10.0)
        run(policy, R1, 9.9, 10.0)
        assert {chosen(policy, replicas(0, 3), 10.0) for _ in range(20)} == {R1}
        for second in range(11, 80):
            run(policy, R1, second - 0.1, float(second))
        assert {chosen(policy, replicas(0, 3), 80.0) for _ in range(20)} == {R0}

    @pytest.mark.parametrize("failure", ["engine-error", "unreachable", "timed-out", "overloaded"])
    def test_what_fails_at_once_does_not_look_fast(self, failure: FailureKind) -> None:
        policy = reset(PeakEwma())
        run(policy, R0, 0.0, 0.0, failure=failure)
        run(policy, R1, 0.0, 1.0)
        assert {chosen(policy, replicas(0, 5), 1.0) for _ in range(20)} == {R1}
        assert policy.latencies[R0][0] == pytest.approx(10.0 * math.exp(-0.1))

    @pytest.mark.parametrize("failure", ["withdrawn", "refused"])
    def test_what_is_not_the_replicas_fault_is_a_bound_from_below(self, failure: FailureKind) -> None:
        policy = reset(PeakEwma())
        run(policy, R0, 0.0, 1.0)
        run(policy, R0, 1.0, 1.5, failure=failure)
        assert policy.latencies[R0][0] == 1.0
        run(policy, R0, 1.5, 4.0, failure=failure)
        assert policy.latencies[R0][0] == 2.5

    def test_nothing_is_kept_of_one_that_left_even_when_its_attempts_end_later(self) -> None:
        policy = reset(PeakEwma())
        policy.on_dispatched(request("late"), R0, 0.0)
        policy.on_replicas(replicas(0, 0)[1:], 1.0)
        end(policy, "late", R0, 2.0, failure="replica-lost")
        assert (policy.latencies, len(policy.sent)) == ({}, 0)


# --- join-idle-queue -------------------------------------------------------------------------------------------


class TestJoinIdleQueue:
    def told(self) -> JoinIdleQueue:
        policy = reset(JoinIdleQueue())
        policy.on_replicas(replicas(0, 0, 0), 0.0)
        return policy

    def test_the_one_that_is_idle_longest_goes_first(self) -> None:
        policy = self.told()
        for name in (R0, R1, R2):
            policy.on_dispatched(request(name), name, 0.0)
        assert policy.route(request(), replicas(1, 1, 1), 0.0).reason == "random"
        end(policy, R2, R2, 1.0)
        end(policy, R0, R0, 2.0)
        assert chosen(policy, replicas(0, 1, 0)) == R2
        assert chosen(policy, replicas(0, 1, 0)[:2]) == R0  # a retry that may not go there

    def test_with_none_idle_it_is_random(self) -> None:
        policy, other, views = self.told(), reset(Random()), replicas(1, 1, 1)
        for name in (R0, R1, R2):
            policy.on_dispatched(request(name), name, 0.0)
        assert [chosen(policy, views) for _ in range(20)] == [chosen(other, views) for _ in range(20)]

    @given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60))
    def test_the_queue_has_those_that_have_nothing_and_no_others(self, steps: list[tuple[int, bool]]) -> None:
        policy, counts = self.told(), [0, 0, 0]
        for number, comes in steps:
            name = f"replica/{number}"
            if comes:
                policy.on_dispatched(request(name), name, 0.0)
                counts[number] += 1
            elif counts[number]:
                end(policy, name, name, 0.0)
                counts[number] -= 1
            assert set(policy.idle) == {f"replica/{n}" for n, count in enumerate(counts) if not count}

    def test_one_that_leaves_is_not_idle_until_it_comes_back_with_nothing(self) -> None:
        policy = self.told()
        policy.on_dispatched(request("a"), R0, 0.0)
        policy.on_replicas(replicas(0, 0, 0)[1:], 1.0)
        end(policy, "a", R0, 2.0)
        assert list(policy.idle) == [R1, R2]
        policy.on_replicas(replicas(0, 0, 0), 3.0)
        assert list(policy.idle) == [R1, R2, R0]
        assert policy.in_flight == {}


# --- Prequal ---------------------------------------------------------------------------------------------------


def answer(
    policy: PrequalHotCold, replica: str, in_flight: int, latency_s: float | None, now_s: float = 0.0
) -> None:
    policy.on_load(
        ReplicaLoad(replica=replica, in_flight=in_flight, latency_s=latency_s, asked_s=now_s), now_s
    )


class TestPrequal:
    def test_the_defaults_are_those_of_the_paper(self) -> None:
        policy = PrequalHotCold()
        assert policy.parameters() == {
            "probes_per_request": 3.0, "removals_per_request": 1.0, "pool_size": 16, "max_age_s": 1.0,
            "hot_quantile": pytest.approx(0.8409, abs=1e-4), "reuse_slack": 1.0, "load_samples": 128,
        }  # fmt: skip
        # 2 / ((1 - 16 / 100) × 3 - 1), with the 100 replicas of the paper's testbed
        assert policy.reuses(100) == pytest.approx(1.3158, abs=1e-4)
        assert policy.reuses(10_000) == pytest.approx(1.0024, abs=1e-4)
        assert PrequalHotCold(probes_per_request=9.0).reuses(100) == 1.0
        assert policy.reuses(20) == math.inf

    def test_the_fastest_cold_one_wins(self) -> None:
        policy, views = reset(PrequalHotCold(removals_per_request=0.0)), replicas(*[0] * 8)
        for number, (load, latency_s) in enumerate(
            [(1, 0.3), (1, 0.2), (9, 0.1), (2, 0.4), (1, 0.5), (1, 0.6), (0, 0.7)]
        ):
            answer(policy, f"replica/{number}", load, latency_s)
        assert policy.hot_above() == 2  # the sixth of seven: 0.84 × 7 = 5.9
        decision = policy.route(request(), views, 0.0)
        assert (decision.replica, decision.reason) == (R1, "cold")

    def test_when_all_are_hot_the_least_loaded_wins(self) -> None:
        policy = reset(PrequalHotCold(hot_quantile=0.0))
        for replica, load, latency_s in ((R0, 5, 0.1), (R1, 3, 0.9), (R2, 4, 0.2)):
            answer(policy, replica, load, latency_s)
        decision = policy.route(request(), replicas(0, 0, 0), 0.0)
        assert (decision.replica, decision.reason) == (R1, "all are hot")

    def test_with_quantile_one_only_latency_counts(self) -> None:
        policy = reset(PrequalHotCold(hot_quantile=1.0))
        for replica, load, latency_s in ((R0, 50, 0.1), (R1, 0, 0.9)):
            answer(policy, replica, load, latency_s)
        assert chosen(policy, replicas(0, 0)) == R0

    def test_a_use_counts_in_the_pool_at_once_and_ends_with_its_budget(self) -> None:
        policy = reset(PrequalHotCold(removals_per_request=0.0, probes_per_request=64.0, hot_quantile=0.0))
        assert policy.reuses(40) == 1.0
        policy.probes(request(), replicas(*[0] * 40), 0.0)
        for replica, load in ((R0, 1), (R1, 2), (R2, 3)):
            answer(policy, replica, load, 0.1)
        views = replicas(*[0] * 40)
        assert chosen(policy, views) == R0
        assert [kept.replica for kept in policy.pool] == [R1, R2]
        endless = reset(PrequalHotCold(removals_per_request=0.0, hot_quantile=0.0))
        endless.probes(request(), replicas(0, 0), 0.0)
        answer(endless, R0, 1, 0.1)
        answer(endless, R1, 3, 0.1)
        assert [chosen(endless, replicas(0, 0)) for _ in range(4)] == [R0, R0, R0, R1]

    def test_old_answers_and_those_of_the_gone_are_dropped_and_then_anybody_is_asked(self) -> None:
        policy = reset(PrequalHotCold(removals_per_request=0.0))
        answer(policy, R0, 0, 0.1, 0.0)
        answer(policy, R1, 0, 0.2, 0.5)
        assert policy.route(request(), replicas(0, 0), 1.0).reason == "cold"
        assert policy.route(request(), replicas(0, 0), 1.1).reason == "too few answers"
        answer(policy, R0, 0, 0.1, 1.1)
        assert policy.route(request(), replicas(0, 0, 0)[1:], 1.1).reason == "too few answers"
        policy.on_replicas(replicas(0, 0)[1:], 1.1)
        assert [kept.replica for kept in policy.pool] == [R1]

    def test_removal_takes_the_worst_and_the_oldest_in_turns(self) -> None:
        policy, views = reset(PrequalHotCold(hot_quantile=0.5)), replicas(*[0] * 8)
        policy.probes(request(), views, 0.0)
        for number, (load, latency_s) in enumerate(
            [(0, 0.5), (0, 0.4), (7, 0.1), (9, 0.1), (0, 0.9), (0, 0.1)]
        ):
            answer(policy, f"replica/{number}", load, latency_s)
        assert chosen(policy, views) == "replica/5"
        assert [int(kept.replica[-1]) for kept in policy.pool] == [0, 1, 2, 4, 5]  # the hottest
        chosen(policy, views)
        assert [int(kept.replica[-1]) for kept in policy.pool] == [1, 2, 4, 5]  # the oldest

    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=80))
    def test_the_pool_is_bounded_and_has_one_answer_of_each_replica(
        self, loads: list[tuple[int, int]]
    ) -> None:
        policy = reset(PrequalHotCold(load_samples=10))
        for number, load in loads:
            answer(policy, f"replica/{number}", load, None)
        names = [kept.replica for kept in policy.pool]
        assert len(names) == len(set(names)) <= 16
        assert policy.sorted_loads == sorted(policy.loads)
        assert list(policy.loads) == [load for _, load in loads[-10:]]

    @given(rate=st.floats(0.0, 8.0), times=st.integers(1, 30))
    def test_so_many_different_replicas_are_asked_on_average(self, rate: float, times: int) -> None:
        policy = reset(PrequalHotCold(probes_per_request=rate))
        asked = [policy.probes(request(), replicas(*[0] * 9), 0.0) for _ in range(times)]
        assert sum(map(len, asked)) == pytest.approx(rate * times, abs=1.0 + 1e-6)
        assert all(len(names) == len(set(names)) for names in asked)

    def test_latency_is_that_of_attempts_that_met_about_as_many(self) -> None:
        policy = reset(PrequalHotCold())
        policy.on_replicas(replicas(0, 0), 0.0)
        for number in range(10):  # the n-th meets n with it, and takes n seconds
            policy.on_dispatched(request(f"r{number}"), R0, 0.0)
        for number in range(10):
            end(policy, f"r{number}", R0, number + 1.0)
        answer(policy, R0, 8, 99.0)
        answer(policy, R1, 8, 99.0)
        assert [kept.latency_s for kept in policy.pool] == [8.0, 99.0]
        assert (policy.in_flight, len(policy.attempts)) == ({}, 0)


# --- predicted latency -----------------------------------------------------------------------------------------


def learn(policy: PredictedLatency, law, count: int, seed: int = 0) -> None:
    """So many requests, each of which takes what the law says of its prompt and of what is in flight there."""
    rng = random.Random(seed)
    for number in range(count):
        views = replicas(*[rng.randrange(10) for _ in range(4)])
        item = request(f"r{number}", prompt_tokens=rng.randrange(4000))
        replica = policy.route(item, views, 0.0).replica
        view = views[int(replica[-1])]
        policy.on_dispatched(item, replica, 0.0)
        took_s = law(item.prompt_tokens, view.in_flight)
        policy.on_completed(Completion(request=item, replica=replica, attempt=1), took_s)


def linear(prompt_tokens: int, in_flight: int) -> float:
    return 0.1 + prompt_tokens / 10_000 + 0.05 * in_flight


class TestPredictedLatency:
    def test_it_finds_a_linear_law_and_then_the_fastest_replica(self) -> None:
        policy = reset(PredictedLatency(choices=4, exploration=0.0))
        learn(policy, linear, 300)
        views = replicas(7, 2, 5, 9)
        decision = policy.route(request("x", prompt_tokens=1000), views, 0.0)
        assert decision.replica == R1
        assert decision.scores == pytest.approx(
            {view.id: linear(1000, view.in_flight) for view in views}, rel=1e-3
        )
        assert policy.mean_absolute_error_s == pytest.approx(0.0, abs=2e-3)
        assert decision.reason == "predictions are off by 0%"

    def test_it_says_by_how_much_it_is_off(self) -> None:
        policy, rng = reset(PredictedLatency(exploration=0.0)), random.Random(5)
        assert (policy.mean_absolute_error_s, policy.mean_relative_error) == (None, None)
        learn(policy, lambda tokens, load: 1.0 + rng.choice([-0.3, 0.3]), 2000)
        assert policy.mean_absolute_error_s == pytest.approx(0.3, rel=0.1)
        assert policy.mean_relative_error == pytest.approx(0.3, rel=0.1)

    def test_it_follows_a_law_that_changes(self) -> None:
        policy = reset(PredictedLatency(forgetting=0.98))
        learn(policy, linear, 300)
        learn(policy, lambda tokens, load: 3.0 * linear(tokens, load), 600)
        assert policy.mean_relative_error is not None
        assert policy.mean_relative_error < 0.02

    def test_it_explores_until_it_has_learnt_from_enough(self) -> None:
        policy, views = reset(PredictedLatency(min_samples=30, exploration=0.0)), replicas(0, 9, 9)
        learn(policy, linear, 29)
        assert {policy.route(request(), views, 0.0).reason for _ in range(20)} == {"explores"}
        learn(policy, linear, 1)
        assert policy.route(request("y", prompt_tokens=1), views, 0.0).scores is not None

    def test_a_failure_that_came_early_teaches_nothing_and_a_late_one_that_it_takes_longer(self) -> None:
        policy = reset(PredictedLatency(exploration=0.0))
        learn(policy, linear, 100)
        item, view = request("x", prompt_tokens=1000), replicas(0)

        def fails_after(took_s: float) -> float:
            policy.route(item, view, 0.0)
            policy.on_dispatched(item, R0, 0.0)
            policy.on_completed(Completion(request=item, replica=R0, attempt=1, failure="timed-out"), took_s)
            return policy.route(item, view, 0.0).scores[R0]

        before = policy.route(item, view, 0.0).scores[R0]
        assert fails_after(0.0) == before
        assert fails_after(10.0) > before

    def test_what_another_chose_is_counted_and_not_learnt_from(self) -> None:
        policy = reset(PredictedLatency())
        policy.on_dispatched(request("hedge", prompt_tokens=2000), R0, 0.0)
        assert policy.in_flight == {R0: (1, 2.0)}
        end(policy, "hedge", R0, 1.0)
        assert (policy.in_flight, policy.model.samples, len(policy.attempts)) == ({}, 0, 0)

    def test_to_the_first_token_only_first_tokens_teach(self) -> None:
        policy = reset(PredictedLatency(target="ttft"))
        for number in range(3):
            item = request(f"r{number}", prompt_tokens=1000)
            replica = policy.route(item, replicas(0), 0.0).replica
            policy.on_dispatched(item, replica, 0.0)
            if number < 2:
                policy.on_first_token(item, replica, 0.5)
            policy.on_completed(Completion(request=item, replica=replica, attempt=1), 9.0)
        assert policy.model.samples == 2
        assert policy.model.predict(policy._features(item, replicas(0)[0])) == pytest.approx(0.5, rel=1e-2)

    @settings(max_examples=30)
    @given(seed=st.integers(0, 999), scale=st.sampled_from([1e-6, 1.0, 1e4]), forgetting=st.floats(0.5, 1.0))
    def test_predictions_stay_finite_whatever_comes(self, seed: int, scale: float, forgetting: float) -> None:
        policy, rng = reset(PredictedLatency(min_samples=5, forgetting=forgetting)), random.Random(seed)
        alike = rng.random() < 0.5
        signals = TokenSignals(waiting_tokens=rng.randrange(50_000), used_blocks=5, total_blocks=10)
        for number in range(300):
            view = ReplicaView(id=R0, in_flight=0 if alike else rng.randrange(500), tokens=signals)
            item = request(f"r{number}", prompt_tokens=1000 if alike else rng.randrange(100_000))
            scores = policy.route(item, [view], 0.0).scores
            assert scores is None or all(map(math.isfinite, scores.values()))
            policy.on_dispatched(item, R0, 0.0)
            policy.on_completed(Completion(request=item, replica=R0, attempt=1), scale * rng.expovariate(1.0))

    def test_what_always_looks_alike_leaves_room_for_what_comes_after(self) -> None:
        policy = reset(PredictedLatency(min_samples=5, forgetting=0.5))
        for number in range(3000):  # twice the doubt each time, without end, were it not bounded
            run_alone(policy, f"r{number}", 1000, 2.0)
        assert all(row[number] <= 1000.0 for number, row in enumerate(policy.model.covariance))
        for number in range(40):
            run_alone(policy, f"later{number}", 1000 * (number % 5), 1.0 + number % 5)
        assert policy.model.predict((1.0, 3.0, 0.0, 0.0, 0.0, 0.0)) == pytest.approx(4.0, rel=1e-2)


def run_alone(policy: PredictedLatency, name: str, prompt_tokens: int, took_s: float) -> None:
    """One request on the only replica, with nothing else in flight."""
    item = request(name, prompt_tokens=prompt_tokens)
    policy.route(item, replicas(0), 0.0)
    policy.on_dispatched(item, R0, 0.0)
    policy.on_completed(Completion(request=item, replica=R0, attempt=1), took_s)


# --- gradual shift ---------------------------------------------------------------------------------------------


def aged(*ages_s: float, now_s: float = 1000.0) -> list[ReplicaView]:
    return [ReplicaView(id=f"replica/{n}", ready_since_s=now_s - age_s) for n, age_s in enumerate(ages_s)]


class TestGradualShift:
    @pytest.mark.parametrize(
        ("aggression", "age_s", "weight"),
        [
            (1.0, 0.0, 0.1),
            (1.0, 30.0, 0.5),
            (1.0, 60.0, 1.0),
            (2.0, 15.0, 0.5),
            (0.5, 30.0, 0.25),
            (0.5, 6.0, 0.1),
        ],
    )
    def test_the_weight_is_that_of_envoy(self, aggression: float, age_s: float, weight: float) -> None:
        """Of the formula in Envoy's documentation of slow start mode, with its defaults."""
        assert GradualShift(aggression=aggression).weight(age_s) == pytest.approx(weight)

    def test_the_first_second_counts_as_a_whole_one(self) -> None:
        policy = GradualShift(window_s=4.0, min_weight=0.0)
        assert policy.weight(0.0) == policy.weight(1.0) == 0.25
        assert GradualShift(window_s=0.5).weight(0.1) == 1.0

    def test_a_new_replica_is_a_candidate_with_its_weight(self) -> None:
        policy, views = reset(GradualShift(routing=LeastOutstanding())), aged(30.0, 500.0)
        policy.on_replicas(views, 1000.0)
        counts = Counter(chosen(policy, views, 1000.0) for _ in range(10_000))
        assert counts[R0] == pytest.approx(5000, abs=200)  # four standard deviations

    def test_when_all_are_new_nobody_is_left_out(self) -> None:
        policy, views = reset(GradualShift(routing=RoundRobin(), min_weight=0.0)), aged(0.0, 0.0)
        policy.on_replicas(views, 1000.0)
        counts = Counter(chosen(policy, views, 1000.0) for _ in range(500))
        assert counts[R0] == pytest.approx(250, abs=20)

    def test_when_none_is_new_any_more_it_is_the_policy_itself(self) -> None:
        policy, views = reset(GradualShift(routing=Random())), aged(0.0, 500.0)
        policy.on_replicas(views, 1000.0)
        same = reset(Random())
        assert policy.new_until_s == 1060.0
        assert [chosen(policy, views, 1060.0) for _ in range(20)] == [chosen(same, views) for _ in range(20)]

    def test_its_policy_asks_for_loads_and_hears_of_them(self) -> None:
        policy = reset(GradualShift(routing=PrequalHotCold()))
        assert len(policy.probes(request(), replicas(*[0] * 9), 0.0)) == 3
        policy.on_load(ReplicaLoad(replica=R0, in_flight=1, latency_s=None, asked_s=0.0), 0.0)
        assert [kept.replica for kept in policy.routing.pool] == [R0]

    def test_an_oracle_needs_a_whole_that_is_one(self) -> None:
        class Foreknowing(LeastOutstanding):
            oracle = True

        with pytest.raises(ValueError, match="is an oracle"):
            GradualShift(routing=Foreknowing())


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (PeakEwma(decay_s=0.0), r"^\$\.routing\.decay_s: Expected `float` > 0.0$"),
        (PrequalHotCold(pool_size=1), r"^\$\.routing\.pool_size: Expected `int` >= 2$"),
        (PrequalHotCold(hot_quantile=1.5), r"^\$\.routing\.hot_quantile: Expected `float` <= 1.0$"),
        (PredictedLatency(forgetting=0.0), r"^\$\.routing\.forgetting: Expected `float` > 0.0$"),
        (PredictedLatency(target="itl"), r"^\$\.routing\.target: Invalid enum value 'itl'$"),
        (GradualShift(aggression=0.0), r"^\$\.routing\.aggression: Expected `float` > 0.0$"),
        (
            GradualShift(routing=PeakEwma(decay_s=-1.0)),
            r"^\$\.routing\.routing\.decay_s: Expected `float` > 0.0$",
        ),
    ],
)
def test_parameters_out_of_bounds_are_named(policy: RoutingPolicy, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        build(RoutingPolicy, policy, "$.routing")
