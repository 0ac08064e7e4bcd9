"""What each routing policy does, in numbers."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    BusyScorer,
    Composed,
    FreshFilter,
    Hold,
    InFlightScorer,
    LeastOutstanding,
    LeastWorkOracle,
    MaxScorePicker,
    NotFullFilter,
    PolicyError,
    PowerOfTwoChoices,
    Random,
    Reject,
    RoundRobin,
    Route,
    RoutingPolicy,
    Scorer,
    SoftmaxPicker,
    WeightedRandom,
    build,
)
from policies.views import ReplicaView
from tests.policies.makers import completion, replicas, request, reset

REQUEST = request()
COUNTS = st.lists(st.integers(0, 20), min_size=1, max_size=12)


def routed(policy: RoutingPolicy, views: list[ReplicaView], times: int = 1) -> list[int]:
    """The numbers of the replicas that `times` requests go to."""
    answers = [policy.route(REQUEST, views, 0.0) for _ in range(times)]
    return [int(answer.replica.removeprefix("replica/")) for answer in answers if isinstance(answer, Route)]


def test_random_is_uniform_and_seeded() -> None:
    views = replicas(0, 0, 0, 0)
    assert routed(reset(Random(), seed=7), views, 10) == [1, 0, 2, 0, 2, 1, 0, 2, 0, 1]
    counts = Counter(routed(reset(Random()), views, 40_000))
    # Four standard deviations of a binomial with n = 40,000 and p = 1/4 are 346.
    assert all(abs(counts[number] - 10_000) < 346 for number in range(4))


@given(size=st.integers(1, 9), rounds=st.integers(1, 5))
def test_round_robin_gives_each_replica_the_same(size: int, rounds: int) -> None:
    assert routed(reset(RoundRobin()), replicas(*[0] * size), size * rounds) == list(range(size)) * rounds


def test_round_robin_goes_on_when_replicas_come_and_go() -> None:
    policy = reset(RoundRobin())
    assert routed(policy, replicas(0, 0, 0), 2) == [0, 1]
    assert routed(policy, replicas(0, 0, 0, 0), 2) == [2, 3]
    assert routed(policy, replicas(0, 0), 3) == [0, 1, 0]


@given(COUNTS)
def test_least_outstanding_takes_the_first_of_the_least_loaded(counts: list[int]) -> None:
    assert routed(LeastOutstanding(), replicas(*counts)) == [counts.index(min(counts))]


@given(counts=COUNTS, seed=st.integers(0, 1000))
def test_one_choice_is_random(counts: list[int], seed: int) -> None:
    views = replicas(*counts)
    one, other = reset(PowerOfTwoChoices(choices=1), seed), reset(Random(), seed)
    assert routed(one, views, 20) == routed(other, views, 20)


@given(counts=COUNTS, choices=st.integers(1, 6), seed=st.integers(0, 1000))
def test_power_of_two_choices_takes_the_best_of_independent_draws(
    counts: list[int], choices: int, seed: int
) -> None:
    rng = random.Random(seed)
    sample = [int(rng.random() * len(counts)) for _ in range(choices)]
    best = min(sample, key=lambda number: counts[number])
    assert routed(reset(PowerOfTwoChoices(choices=choices), seed), replicas(*counts)) == [best]


def test_power_of_two_choices_picks_the_idle_one_of_two_three_times_in_four() -> None:
    counts = Counter(routed(reset(PowerOfTwoChoices()), replicas(0, 5), 40_000))
    assert counts[0] == pytest.approx(30_000, abs=346)


class TestWeightedRandom:
    def test_chance_is_in_proportion_to_weight(self) -> None:
        views = [ReplicaView(id=f"replica/{n}", weight=weight) for n, weight in enumerate([1.0, 0.0, 3.0])]
        counts = Counter(routed(reset(WeightedRandom()), views, 40_000))
        assert counts[0] == pytest.approx(10_000, abs=346)
        assert counts[1] == 0

    def test_given_weights_replace_those_of_the_replicas(self) -> None:
        policy = reset(WeightedRandom(weights={"replica/0": 0.0, "replica/1": 0.0}))
        assert set(routed(policy, replicas(0, 0, 0), 50)) == {2}

    def test_weights_of_zero_throughout_mean_uniform(self) -> None:
        policy = reset(WeightedRandom(weights={"replica/0": 0.0, "replica/1": 0.0}))
        assert set(routed(policy, replicas(0, 0), 50)) == {0, 1}

    @given(st.lists(st.floats(0, 1e300), min_size=1, max_size=6))
    def test_a_replica_without_weight_gets_nothing_even_when_the_draw_is_extreme(
        self, weights: list[float]
    ) -> None:
        views = [ReplicaView(id=f"replica/{n}", weight=weight) for n, weight in enumerate([*weights, 0.0])]
        policy = reset(WeightedRandom())
        for draw in (0.0, 0.5, 1.0 - 2.0**-53):
            policy.random = lambda draw=draw: draw
            [number] = routed(policy, views)
            assert views[number].weight > 0.0 or not any(weights)


class TestLeastWorkOracle:
    LENGTHS = {"long": 1000, "short": 10, "brief": 5}

    def make(self) -> LeastWorkOracle:
        policy = reset(LeastWorkOracle())
        policy.reveal(self.LENGTHS.get)
        return policy

    def test_it_weighs_true_lengths_not_counts(self) -> None:
        policy = self.make()
        policy.on_dispatched(request("long"), "replica/0", 0.0)
        policy.on_dispatched(request("short"), "replica/1", 0.0)
        policy.on_dispatched(request("brief"), "replica/1", 0.0)
        assert routed(policy, replicas(1, 2)) == [1]

    def test_what_has_ended_weighs_nothing(self) -> None:
        policy = self.make()
        policy.on_dispatched(request("long"), "replica/0", 0.0)
        policy.on_dispatched(request("short"), "replica/1", 0.0)
        policy.on_completed(completion("long", "replica/0"), 1.0)
        assert routed(policy, replicas(0, 1)) == [0]
        assert policy.outstanding == {"replica/1": 10.0}

    def test_a_request_without_tokens_weighs_its_work(self) -> None:
        policy = self.make()
        policy.on_dispatched(request("a", work=2.5), "replica/0", 0.0)
        policy.on_dispatched(request("b"), "replica/1", 0.0)
        assert policy.outstanding == {"replica/0": 2.5, "replica/1": 1.0}


class TestComposed:
    def test_weighted_scores_decide_and_are_shown(self) -> None:
        views = [
            ReplicaView(id="replica/0", in_flight=0, busy_fraction=1.0),
            ReplicaView(id="replica/1", in_flight=4, busy_fraction=0.0),
            ReplicaView(id="replica/2", in_flight=1, busy_fraction=0.5),
        ]
        policy = reset(Composed(scorers=[(1.0, InFlightScorer()), (2.0, BusyScorer())]))
        assert policy.route(REQUEST, views, 0.0) == Route(
            "replica/1", None, {"replica/0": 1.0, "replica/1": 2.0, "replica/2": 1.75}
        )

    @pytest.mark.parametrize(
        ("when_empty", "answer"), [("hold", Hold(10.1)), ("reject", Reject("no replica passes the filters"))]
    )
    def test_filters_that_leave_nobody_hold_or_reject(self, when_empty: str, answer: object) -> None:
        policy = reset(Composed(filters=[NotFullFilter()], when_empty=when_empty))  # type: ignore[arg-type]
        assert policy.route(REQUEST, replicas(0, 0, capacity=0), 10.0) == answer

    def test_a_filter_that_leaves_nobody_is_done_without(self) -> None:
        views = [
            ReplicaView(id="replica/0", capacity=0, as_of_s=9.0),
            ReplicaView(id="replica/1", capacity=0, as_of_s=1.0),
        ]
        policy = reset(Composed(filters=[NotFullFilter(), FreshFilter(max_age_s=2.0)]))
        assert policy.route(REQUEST, views, 10.0) == Route("replica/0", None, {"replica/0": 0.0})

    def test_parts_are_written_as_tables(self) -> None:
        table = {
            "policy": "composed",
            "filters": [{"policy": "fresh-filter", "max_age_s": 1}],
            "scorers": [[0.5, {"policy": "busy-scorer"}]],
            "picker": {"policy": "softmax-picker", "temperature": 0.5},
        }
        assert build(RoutingPolicy, table) == Composed(
            filters=[FreshFilter(max_age_s=1.0)],
            scorers=[(0.5, BusyScorer())],
            picker=SoftmaxPicker(temperature=0.5),
        )

    def test_parts_get_the_hooks(self) -> None:
        class Counting(InFlightScorer):
            def reset(self, rng: random.Random) -> None:
                self.seen = [0, 0, 0]

            def on_dispatched(self, *arguments: object) -> None:
                self.seen[0] += 1

            def on_completed(self, *arguments: object) -> None:
                self.seen[1] += 1

            def on_replicas(self, *arguments: object) -> None:
                self.seen[2] += 1

        scorer = Counting()
        policy = reset(Composed(scorers=[(1.0, scorer)]))
        policy.on_dispatched(REQUEST, "replica/0", 0.0)
        policy.on_completed(completion(), 0.0)
        policy.on_replicas((), 0.0)
        assert scorer.seen == [1, 1, 1]

    def test_an_oracle_among_the_parts_needs_an_oracle_around_them(self) -> None:
        class Knowing(Scorer):
            oracle = True

            def reveal(self, output_tokens: object) -> None:
                self.told = output_tokens

            def scores(self, request: object, replicas: object, now_s: float) -> list[float]:
                return []

        class Whole(Composed):
            oracle = True

        with pytest.raises(ValueError, match="a part is an oracle"):
            Composed(scorers=[(1.0, Knowing())])
        part = Knowing()
        policy = Whole(scorers=[(1.0, part)])
        policy.reveal({}.get)
        assert part.told({}) is None if False else part.told is not None


class TestParts:
    def test_in_flight_scores_span_the_unit_interval(self) -> None:
        scores = InFlightScorer().scores
        assert scores(REQUEST, replicas(2, 6, 4), 0.0) == [1.0, 0.0, 0.5]
        assert scores(REQUEST, replicas(3, 3), 0.0) == [1.0, 1.0]

    def test_busy_scores_prefer_the_gpu_counter_to_the_busy_fraction(self) -> None:
        views = [
            ReplicaView(id="a", gpu_utilization=0.25, busy_fraction=1.0),
            ReplicaView(id="b", busy_fraction=0.75),
            ReplicaView(id="c"),
        ]
        assert BusyScorer(unknown=0.125).scores(REQUEST, views, 0.0) == [0.75, 0.25, 0.125]

    def test_max_score_breaks_ties_as_told(self) -> None:
        views = replicas(0, 0, 0)
        assert MaxScorePicker(ties="first").pick(views, [0.5, 1.0, 1.0]) == 1
        picker = reset(MaxScorePicker())
        assert {picker.pick(views, [0.5, 1.0, 1.0]) for _ in range(50)} == {1, 2}

    def test_softmax_chances_are_those_of_the_formula(self) -> None:
        picker = reset(SoftmaxPicker(temperature=0.5))
        picks = [picker.pick(replicas(0, 0), [1.0, 0.5]) for _ in range(40_000)]
        # exp(0) : exp(-1), so the first has 1 / (1 + 1/e) = 0.7311 of them.
        assert picks.count(0) == pytest.approx(0.7311 * 40_000, abs=360)

    def test_softmax_near_zero_is_the_maximum_without_overflow(self) -> None:
        picker = reset(SoftmaxPicker(temperature=1e-6))
        assert {picker.pick(replicas(0, 0), [1000.0, 0.0]) for _ in range(50)} == {0}


def test_no_policy_of_this_slot_is_made_with_parameters_out_of_bounds() -> None:
    with pytest.raises(PolicyError, match=r"^\$\.routing\.choices: Expected `int` >= 1$"):
        build(RoutingPolicy, PowerOfTwoChoices(choices=0), "$.routing")
