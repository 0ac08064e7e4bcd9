"""Old news: what a board shows, what passes by it, and the theory of two choices on it."""

import pytest

from experiments.studies.stale_views import StaleViews, random_mean, stale_two_choices_mean, supermarket_mean
from fleet import NetworkModel, simulate
from policies import LeastOutstanding, LeastWorkOracle, PowerOfTwoChoices
from policies.routing.join_idle_queue import JoinIdleQueue
from policies.routing.prequal_hot_cold import PrequalHotCold
from policies.testing import check_policy
from tests.simulation.building import arrivals, column, fleet
from traces import poisson


def places(trace, routing, per_item_s, replicas=3):
    """Which replica each request went to, by number."""
    run = simulate(trace, fleet(per_item_s, replicas=replicas, routing=routing))
    return [int(replica.rsplit("/", 1)[1]) for replica in column(run, "replica").values()]


def test_it_keeps_the_contract_of_a_routing_policy():
    check_policy(lambda: StaleViews(routing=PowerOfTwoChoices(), age_s=0.5))


def test_between_two_ticks_all_go_where_the_board_shows_the_least():
    trace = arrivals(1.0, 2.0, 3.0, 11.0, 12.0, 21.0)
    assert places(trace, StaleViews(age_s=10.0), 100.0) == [0, 0, 0, 1, 1, 2]
    assert places(trace, LeastOutstanding(), 100.0) == [0, 1, 2, 0, 1, 2]


def test_what_ends_after_a_tick_is_seen_at_the_next_one():
    trace = arrivals(1.0, 11.0, 21.5)
    # The first ends at 10.5: at 11 the board shows what was at 10. The second ends at 20.5.
    assert places(trace, StaleViews(age_s=10.0), 9.5) == [0, 1, 0]
    # Had it ended at 9.5, nobody would have been busy at 10.
    assert places(trace, StaleViews(age_s=10.0), 8.5) == [0, 0, 0]


@pytest.mark.parametrize(
    ("routing", "age_s"),
    [(PowerOfTwoChoices(), 0.0), (LeastOutstanding(), 0.0), (JoinIdleQueue(), 5.0), (PrequalHotCold(), 5.0)],
)
def test_without_age_and_for_who_does_not_look_at_counts_it_is_as_if_it_were_not_there(routing, age_s):
    trace = poisson(20.0, 10.0, 3)
    spec = fleet(0.3, replicas=8, network=NetworkModel(delay_s=0.001))
    bare, wrapped = (
        simulate(trace, spec.replace(routing=one), seed=2)
        for one in (routing, StaleViews(routing=routing, age_s=age_s))
    )
    assert bare.records["replica"].equals(wrapped.records["replica"])
    assert bare.records["e2e_s"].equals(wrapped.records["e2e_s"])
    assert bare.manifest.counters == wrapped.manifest.counters


def test_an_oracle_cannot_be_hidden_in_it():
    with pytest.raises(ValueError, match="oracle"):
        StaleViews(routing=LeastWorkOracle())


@pytest.mark.parametrize(
    ("load", "choices", "mean"),
    [(0.5, 2, 1.26569), (0.7, 2, 1.61445), (0.9, 2, 2.61406), (0.95, 2, 3.38305), (0.9, 3, 2.02786), (0.9, 1, 10.0)],
)  # fmt: skip
def test_the_supermarket_model_has_its_published_means(load, choices, mean):
    assert supermarket_mean(load, choices) == pytest.approx(mean, rel=1e-5)


def test_two_choices_on_a_board_go_from_the_supermarket_model_to_worse_than_random():
    means = [stale_two_choices_mean(0.7, age) for age in (0.0, 0.1, 1.0, 10.0, 30.0)]
    assert means == sorted(means)
    assert means[1] == pytest.approx(supermarket_mean(0.7), rel=0.03)
    assert means[-2] < random_mean(0.7) < means[-1]
    assert stale_two_choices_mean(0.7, 0.01) == pytest.approx(supermarket_mean(0.7), rel=0.005)
