"""Routing among replicas that are unlike each other: by hand, as laws, and against the exact answer of two queues."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve

from fleet import simulate
from policies import (
    CheapestMeetingDelay,
    Composed,
    ExpectedDelayScorer,
    LeastOutstanding,
    MaxScorePicker,
    NeverQueue,
    PolicyError,
    PowerOfTwoChoices,
    ReplicaView,
    Route,
    RoutingPolicy,
    ShortestExpectedDelay,
    build,
)
from policies.routing.delays import delay, service_times
from tests.policies.makers import replicas, request
from tests.simulation.building import engine, fleet
from tests.simulation.test_oracles import QUIET, agree, offered
from traces import Slo

FAST = {"pool": "a100", "device": "a100", "cost_per_hour": 4.0, "expected_service_s": 0.125}
SLOW = {"pool": "l4", "device": "l4", "cost_per_hour": 0.5, "expected_service_s": 0.5}
"""In flight on a fast one for each on a slow one: 4. A request costs 0.5 there and 0.25 here, in price × seconds."""


def mixed(fast: tuple[int, ...] = (), slow: tuple[int, ...] = ()) -> list[ReplicaView]:
    """`a100/0`, … and `l4/0`, … with these requests in flight."""
    return [
        ReplicaView(id=f"{kind['pool']}/{number}", in_flight=count, **kind)
        for kind, counts in ((FAST, fast), (SLOW, slow))
        for number, count in enumerate(counts)
    ]


def routed(policy: RoutingPolicy, views: list[ReplicaView], **own: object) -> str:
    answer = policy.route(request(**own), views, 0.0)
    assert isinstance(answer, Route)
    return answer.replica


# --- by hand -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fast", "slow", "chosen"),
    [
        ((0,), (0,), "a100/0"),  # 0.125 s, 0.5 s
        ((2,), (0,), "a100/0"),  # 0.375 s, 0.5 s
        ((3,), (0,), "l4/0"),  # 0.5 s both: fewer in flight
        ((4,), (0,), "l4/0"),  # 0.625 s, 0.5 s
        ((4,), (1,), "a100/0"),  # 0.625 s, 1 s
        ((5, 4), (1, 1), "a100/1"),
        ((1, 1), (9,), "a100/0"),  # alike: the first
    ],
)
def test_the_shortest_expected_delay_is_service_time_times_those_in_flight_and_one(fast, slow, chosen):
    assert routed(ShortestExpectedDelay(), mixed(fast, slow)) == chosen


@pytest.mark.parametrize(
    ("fast", "slow", "chosen"),
    [
        ((0, 0), (0,), "a100/0"),
        ((1, 0), (0,), "a100/1"),
        ((1, 1), (0,), "l4/0"),  # idle, though 0.25 s would be sooner than 0.5 s
        ((1, 1), (1,), "a100/0"),  # nobody is idle: 0.25 s
        ((9, 9), (1,), "l4/0"),  # 1.25 s, 1 s
    ],
)
def test_never_queue_takes_the_fastest_idle_one_and_else_the_shortest_delay(fast, slow, chosen):
    assert routed(NeverQueue(), mixed(fast, slow)) == chosen


def test_replicas_that_serve_several_at_once_have_room_until_they_are_full():
    views = mixed((3, 2), (0,))

    assert [delay(0.5, count, 4) for count in (0, 3, 4, 7)] == [0.5, 0.5, 0.625, 1.0]
    assert routed(ShortestExpectedDelay(concurrency=4), views) == "a100/1"  # 0.125 s both: fewer in flight
    assert routed(NeverQueue(concurrency=4), mixed((4, 4), (3,))) == "l4/0"
    assert routed(NeverQueue(concurrency=4), mixed((4, 4), (4,))) == "a100/0"  # 5/4 of 0.125 s


@pytest.mark.parametrize(
    ("policy", "fast", "slow", "own", "chosen"),
    [
        (
            CheapestMeetingDelay(objective_s=2.0),
            (0,),
            (0,),
            {},
            "l4/0",
        ),  # 0.5 s of the 1 s that headroom leaves
        (CheapestMeetingDelay(objective_s=2.0), (0,), (1,), {}, "l4/0"),  # 1 s
        (CheapestMeetingDelay(objective_s=2.0), (0,), (2,), {}, "a100/0"),  # 1.5 s is too long
        (CheapestMeetingDelay(objective_s=2.0), (9,), (2, 1), {}, "l4/1"),
        (CheapestMeetingDelay(objective_s=2.0, headroom=0.0), (0,), (3,), {}, "l4/0"),
        (CheapestMeetingDelay(objective_s=2.0), (8,), (2,), {}, "a100/0"),  # nobody meets it: 1.125 s, 1.5 s
        (CheapestMeetingDelay(objective_s=2.0), (0,), (0,), {"slo": Slo(e2e_s=0.5)}, "a100/0"),
        (CheapestMeetingDelay(objective_s=2.0), (0,), (5,), {"slo": Slo(ttft_s=0.1)}, "a100/0"),
        (CheapestMeetingDelay(objective_s=0.1), (0,), (0,), {"deadline_s": 9.0}, "l4/0"),
        (CheapestMeetingDelay(), (0,), (0,), {"deadline_s": 9.0, "slo": Slo(e2e_s=0.5)}, "a100/0"),
    ],
)
def test_the_cheapest_that_is_in_time(policy, fast, slow, own, chosen):
    assert routed(policy, mixed(fast, slow), **own) == chosen


def test_time_that_has_passed_since_the_arrival_is_not_left():
    policy = CheapestMeetingDelay(objective_s=2.0)

    assert policy.route(request(arrived_s=0.0), mixed((0,), (0,)), 0.9) == Route("l4/0")  # 0.55 s
    assert policy.route(request(arrived_s=0.0), mixed((0,), (0,)), 1.1) == Route("a100/0")  # 0.45 s
    assert policy.route(request(arrived_s=0.0), mixed((0,), (0,)), 5.0).reason is not None


def test_the_delay_scores_span_the_unit_interval():
    scores = ExpectedDelayScorer().scores(request(), mixed((1, 3), (0,)), 0.0)
    assert scores == [1.0, 0.5, 0.5]


# --- what is not known -------------------------------------------------------------------------------------


def views_of(*fields: dict[str, object]) -> list[ReplicaView]:
    return [ReplicaView(id=str(number), **own) for number, own in enumerate(fields)]


def test_without_service_times_speeds_are_the_weights():
    views = views_of({"weight": 4.0, "in_flight": 2}, {"weight": 1.0})
    assert routed(ShortestExpectedDelay(), views) == "0"  # 3/4 and 1
    assert routed(NeverQueue(), views) == "1"


def test_seconds_are_never_compared_with_weights():
    """A request that takes 3 s would seem to take longer than one at weight 1, of which nobody knows."""
    views = views_of({"expected_service_s": 3.0}, {"weight": 1.0, "in_flight": 1})
    assert service_times(views) == [1.0, 1.0]
    assert routed(ShortestExpectedDelay(), views) == "0"


@pytest.mark.parametrize("policy", [ShortestExpectedDelay(), NeverQueue(), CheapestMeetingDelay()])
def test_weight_0_gets_nothing_unless_nobody_has_any(policy):
    assert routed(policy, views_of({"weight": 0.0}, {"weight": 0.5, "in_flight": 50})) == "1"
    assert routed(policy, views_of({"weight": 0.0, "in_flight": 1}, {"weight": 0.0})) == "1"


def test_requests_that_take_no_time_go_where_the_fewest_are():
    views = views_of({"expected_service_s": 0.0, "in_flight": 3}, {"expected_service_s": 0.0, "in_flight": 1})
    for policy in (ShortestExpectedDelay(), NeverQueue(), CheapestMeetingDelay()):
        assert routed(policy, views) == "1"
    assert ExpectedDelayScorer().scores(request(), views, 0.0) == [1.0, 1.0]


def test_no_price_is_not_a_price_of_nothing():
    unpriced, free = {"expected_service_s": 0.1}, {"expected_service_s": 0.1, "cost_per_hour": 0.0}
    dear = {"expected_service_s": 0.1, "cost_per_hour": 90.0}
    policy = CheapestMeetingDelay()

    assert routed(policy, views_of(unpriced, dear)) == "1"
    assert routed(policy, views_of(unpriced, dear, free)) == "2"
    assert routed(policy, views_of({**unpriced, "in_flight": 1}, unpriced)) == "1"


def test_who_does_not_know_its_service_time_meets_nothing():
    views = views_of({"cost_per_hour": 0.0}, {"cost_per_hour": 5.0, "expected_service_s": 0.1})
    assert routed(CheapestMeetingDelay(), views) == "1"
    nobody = CheapestMeetingDelay().route(request(), views_of({"in_flight": 1}, {}), 0.0)
    assert nobody == Route("1", "none meets the objective: the shortest expected delay")


def test_parameters_out_of_bounds_are_refused():
    with pytest.raises(PolicyError, match=r"^\$\.routing\.concurrency: Expected `int` >= 1$"):
        build(RoutingPolicy, {"policy": "shortest-expected-delay", "concurrency": 0}, "$.routing")
    with pytest.raises(PolicyError, match=r"^\$\.routing\.headroom"):
        build(RoutingPolicy, {"policy": "cheapest-meeting-delay", "headroom": 1}, "$.routing")


# --- laws --------------------------------------------------------------------------------------------------

KNOWN = st.fixed_dictionaries(
    {
        "in_flight": st.integers(0, 30),
        # Powers of two, so that sums and products are exact and ties happen.
        "expected_service_s": st.sampled_from([0.0625, 0.125, 0.25, 0.5, 1.0]),
        "cost_per_hour": st.sampled_from([None, 0.0, 0.5, 1.0, 4.0]),
        "weight": st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    }
)
SEVERAL = st.lists(KNOWN, min_size=1, max_size=8)
CONCURRENCY = st.sampled_from([1, 2, 8])


def delays_of(fields: list[dict[str, object]], concurrency: int) -> list[float]:
    """As the rule is written, in a way of its own."""
    return [
        one["expected_service_s"] * max(1.0, (one["in_flight"] + 1) / concurrency)
        for one in fields
    ]  # fmt: skip


@given(SEVERAL, CONCURRENCY)
def test_nobody_would_be_sooner_than_the_one_that_is_chosen(fields, concurrency):
    delays = delays_of(fields, concurrency)
    chosen = int(routed(ShortestExpectedDelay(concurrency=concurrency), views_of(*fields)))
    assert delays[chosen] == min(delays)
    alike = [n for n, one in enumerate(delays) if one == min(delays)]
    fewest = min(fields[n]["in_flight"] for n in alike)
    assert chosen == next(n for n in alike if fields[n]["in_flight"] == fewest)


@given(SEVERAL, CONCURRENCY)
def test_while_somebody_has_room_nobody_is_made_to_wait(fields, concurrency):
    chosen = int(routed(NeverQueue(concurrency=concurrency), views_of(*fields)))
    room = [one for one in fields if one["in_flight"] < concurrency]
    if room:
        assert fields[chosen]["in_flight"] < concurrency
        assert fields[chosen]["expected_service_s"] == min(one["expected_service_s"] for one in room)
    else:
        assert str(chosen) == routed(ShortestExpectedDelay(concurrency=concurrency), views_of(*fields))


@given(SEVERAL, CONCURRENCY, st.sampled_from([0.25, 1.0, 4.0, 16.0]))
def test_none_that_is_in_time_is_cheaper_than_the_one_that_is_chosen(fields, concurrency, objective_s):
    policy = CheapestMeetingDelay(objective_s=objective_s, headroom=0.0, concurrency=concurrency)
    answer = policy.route(request(), views_of(*fields), 0.0)
    delays = delays_of(fields, concurrency)
    costs = [
        math.inf if one["cost_per_hour"] is None else one["cost_per_hour"] * one["expected_service_s"]
        for one in fields
    ]
    meeting = [n for n, one in enumerate(delays) if one <= objective_s]
    if meeting:
        assert answer.reason is None
        assert int(answer.replica) in meeting
        assert costs[int(answer.replica)] == min(costs[n] for n in meeting)
    else:
        assert answer.reason is not None
        assert answer.replica == routed(
            ShortestExpectedDelay(concurrency=concurrency), views_of(*fields)
        )  # fmt: skip


@given(SEVERAL)
def test_where_one_does_not_know_its_service_time_nobodys_counts(fields):
    unknown = [{**one, "expected_service_s": None} for one in fields]
    one_unknown = [*fields[1:], unknown[0]]
    for policy in (ShortestExpectedDelay(), NeverQueue()):
        expected = routed(policy, views_of(*unknown[1:], unknown[0]))
        assert routed(policy, views_of(*one_unknown)) == expected


@given(SEVERAL, CONCURRENCY)
def test_a_composed_router_of_the_scorer_alone_is_as_soon(fields, concurrency):
    views = views_of(*fields)
    scorer = ExpectedDelayScorer(concurrency=concurrency)
    scores = scorer.scores(request(), views, 0.0)
    assert all(0.0 < score <= 1.0 for score in scores)
    composed = Composed(scorers=[(1.0, scorer)], picker=MaxScorePicker(ties="first"))
    delays = delays_of(fields, concurrency)
    assert delays[int(routed(composed, views))] == min(delays)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_among_replicas_that_are_alike_it_is_least_outstanding(counts):
    views = replicas(*counts, expected_service_s=0.3, cost_per_hour=1.0)
    least = routed(LeastOutstanding(), views)
    for policy in (ShortestExpectedDelay(), NeverQueue(), CheapestMeetingDelay(objective_s=1e6)):
        assert routed(policy, views) == least


# --- in a fleet of two speeds ------------------------------------------------------------------------------

SLOWNESS, RATE_PER_S = 4.0, 0.9
"""Service takes 1 s on average at the fast replica and 4 s at the slow one, so that 1.25/s is all that they can do."""


def two_speeds(routing, *, fast=1, slow=1, slowness=SLOWNESS):
    pools = {
        "fast": {"engine": engine(1.0), "replicas": fast},
        "slow": {"engine": engine(slowness), "replicas": slow},
    }
    return fleet(pools=pools, routing=routing, **QUIET)


def exact_stay_s(policy: RoutingPolicy, rate_per_s=RATE_PER_S, slowness=SLOWNESS, limit=60) -> float:
    """Mean time in a system of two exponential servers, from the balance equations of its Markov chain.

    States are (in flight at the fast one, at the slow one). A queue of `limit` takes no more, which happens less than
    once in a billion times.
    """
    size = limit * limit
    rates = lil_matrix((size, size))

    def move(start, end, rate):
        rates[end, start] += rate
        rates[start, start] -= rate

    for one in range(limit):
        for other in range(limit):
            state = one * limit + other
            views = views_of(
                {"in_flight": one, "expected_service_s": 1.0},
                {"in_flight": other, "expected_service_s": slowness},
            )
            to_fast = routed(policy, views) == "0"
            if (one if to_fast else other) + 1 < limit:
                move(state, state + (limit if to_fast else 1), rate_per_s)
            if one:
                move(state, state - limit, 1.0)
            if other:
                move(state, state - 1, 1.0 / slowness)
    rates[0, :] = 1.0  # in place of one of the equations, which follows from the others
    chances = spsolve(rates.tocsr(), np.eye(1, size)[0])
    assert chances.reshape(limit, limit)[-1].sum() + chances.reshape(limit, limit)[:, -1].sum() < 1e-9
    counts = np.add.outer(np.arange(limit), np.arange(limit)).ravel()
    return float(chances @ counts) / rate_per_s


EXACT = [ShortestExpectedDelay(), NeverQueue(), LeastOutstanding()]


@pytest.mark.parametrize("policy", EXACT, ids=lambda policy: policy.name())
def test_two_unequal_queues_are_as_long_as_their_markov_chain_says(policy):
    run = simulate(offered(RATE_PER_S, 60_000, seed=21), two_speeds(policy.fresh()), check=False)

    agree(run.records["e2e_s"].to_numpy(), exact_stay_s(policy), within=0.08)


@pytest.mark.parametrize(
    ("slowness", "expected"),
    [(2.0, (1.808, 1.808, 1.842)), (8.0, (2.234, 2.652, 3.463)), (16.0, (2.133, 3.095, 4.842))],
)
def test_counting_requests_alone_is_the_worse_the_more_speeds_differ(slowness, expected):
    """At half load. To take an idle replica first is as good at twice the service time, and not at eight times."""
    rate = 0.5 * (1.0 + 1.0 / slowness)
    stays = tuple(exact_stay_s(policy, rate, slowness, limit=40) for policy in EXACT)
    assert stays == pytest.approx(expected, abs=5e-4)


def test_two_choices_overload_slow_replicas_though_there_is_room():
    """Two draws both hit one of 4 slow replicas of 6 with chance 4/9, which is 0.667 requests/s; they can do 0.5.

    So their queues grow by 0.167/s, while the shortest expected delay keeps a fleet that can do 2.5/s at 1.5/s.
    """
    trace = offered(1.5, 12_000, seed=22)
    runs = {
        policy.name(): simulate(trace, two_speeds(policy, fast=2, slow=4, slowness=8.0), check=False)
        for policy in (PowerOfTwoChoices(), ShortestExpectedDelay())
    }

    two, sed = runs["power-of-two-choices"], runs["shortest-expected-delay"]
    to_slow = np.mean(np.array(two.records["pool"].to_pylist()) == "slow")
    assert to_slow >= 4 / 9 - 3 * (20 / 81 / 12_000) ** 0.5
    # What came last to a slow one found 0.167 × 8,000 s of requests before it, which take 2 s each.
    assert two.summary.e2e_s.max == pytest.approx((4 / 9 * 1.5 - 0.5) * 8_000 * 2.0, rel=0.25)
    assert sed.summary.e2e_s.max < 100.0
